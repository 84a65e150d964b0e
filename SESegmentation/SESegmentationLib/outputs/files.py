"""Output files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import TracebackType

from ..errors import SegmentationError, UsageError

_REMEDY = "Choose another output with -o, or make its folder writable."


class OutputFiles:
    """Files written together: under temporary names first, under their own once all are complete.

    Leaving the ``with`` block by any exception, Ctrl-C included, removes what was begun.

    Example::

        with OutputFiles() as files:
            write_labels(files.begin(Path("labels.nii.gz")), ...)

    Raises:
        UsageError: a folder cannot be made or written to.
        SegmentationError: a finished file cannot be put in place.
    """

    def __init__(self) -> None:
        self._begun: list[tuple[Path, Path]] = []

    def __enter__(self) -> OutputFiles:
        return self

    def begin(self, path: Path) -> Path:
        """A temporary file for ``path``: in the same folder and with the same name's ending."""
        check_writable(path)
        folder = Path(tempfile.mkdtemp(prefix=".sesegment-", dir=path.parent))
        self._begun.append((folder / path.name, path))
        return folder / path.name

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                for temporary, path in self._begun:
                    os.replace(temporary, path)
        except OSError as failure:
            raise SegmentationError(f"{path} cannot be written: {failure.strerror}.", _REMEDY) from failure
        finally:
            for temporary, _ in self._begun:
                temporary.unlink(missing_ok=True)
                temporary.parent.rmdir()


def check_writable(path: Path) -> None:
    """Make the folder of ``path`` where absent, and see that a file can be written there.

    Raises:
        UsageError: it cannot be.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder, not a file.", "Name a file.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UsageError(f"The folder {path.parent} cannot be written to: {error.strerror}.", _REMEDY) from error
