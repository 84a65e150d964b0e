"""Names by which ITK opens files and folders: it knows not every name that Python knows."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..files import OutputError

_UTF8 = 65001  # Windows' number of this code page


def itk_name(path: Path) -> str | None:
    """A name of a file or folder, which exists, by which ITK opens it; None where it has none.

    ITK is given names in UTF-8. Windows reads these in the code page of the system, where only ASCII means the same
    unless that page is UTF-8; but most files have a short name there too, which is ASCII: ``C:\\Users\\JRGEN~1``.
    """
    name = os.path.abspath(path)
    if sys.platform == "win32":
        return next((known for known in (name, _short_name(name)) if known.isascii() or _code_page() == _UTF8), None)
    try:
        return name if os.fsencode(name) == name.encode("utf-8") else None
    except UnicodeEncodeError:
        return None


@contextlib.contextmanager
def itk_folder(folder: Path) -> Iterator[str]:
    """A name by which ITK writes into ``folder``; on Windows it may be that of an empty folder elsewhere.

    Raises:
        OutputError: there is none.
    """
    if (name := itk_name(folder)) is not None:
        yield name
        return
    with tempfile.TemporaryDirectory() as temporary:
        if sys.platform != "win32":
            link = os.path.join(temporary, "folder")
            os.symlink(os.path.abspath(folder), link, target_is_directory=True)
            yield link
            return
        # a link needs a right there that few have
        if (name := itk_name(Path(temporary))) is None:
            raise OutputError(
                f"ITK cannot write into {folder.parent}: its name has characters outside ASCII.",
                "Choose another folder with -o, or set the variable TEMP to one with the letters a to z only.",
            )
        yield name


def _short_name(name: str) -> str:
    """Windows' name of 8 characters and 3 for the ending, of each part; the name itself on a disk without these."""
    import ctypes

    room = ctypes.create_unicode_buffer(1 << 15)
    ctypes.windll.kernel32.GetShortPathNameW(name, room, len(room))  # type: ignore[attr-defined,unused-ignore]
    return room.value or name


def _code_page() -> int:
    import ctypes

    return int(ctypes.windll.kernel32.GetACP())  # type: ignore[attr-defined,unused-ignore]
