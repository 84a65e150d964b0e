"""Whether two paths hold the same."""

from __future__ import annotations

import filecmp
from pathlib import Path

from .overwriting import files_of


def same_content(first: Path, second: Path) -> bool:
    """Whether two files, or folders of images, are one or the same byte for byte.

    What is read with them counts: the voxels of a detached header, the files of a folder. What cannot be read is not
    the same.
    """
    try:
        if first.samefile(second):
            return True
        parts = [sorted(part for part in files_of(path) if part.is_file()) for path in (first, second)]
        return (
            0 < len(parts[0]) == len(parts[1])
            and first.is_dir() == second.is_dir()
            and all(filecmp.cmp(one, other, shallow=False) for one, other in zip(*parts, strict=True))
        )
    except OSError:
        return False
