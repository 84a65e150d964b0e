"""Which scan it is, by the content of its files: names recur in other studies, and files are renamed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from SESegmentationLib.files.overwriting import files_of
from SESegmentationLib.models import sha256_of


def scan_sha256(volume: Path, series: str | None = None, files: Iterable[Path] | None = None) -> str | None:
    """SHA-256 of the files that are read for a volume, independent of their names; None if they cannot be read.

    Args:
        volume: file or folder.
        series: chosen of a folder.
        files: those of the series, where they are known; else all in the folder count.
    """
    try:
        digests = sorted({sha256_of(path) for path in files or files_of(volume) if path.is_file()})
    except OSError:
        return None
    content = "\n".join([series or "", *digests])
    return hashlib.sha256(content.encode("utf-8", "backslashreplace")).hexdigest() if digests else None
