"""Refusing, before any work, outputs that would overwrite an input or one another."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path

from ..errors import UsageError

#: headers with their voxels in separate files
_HEADERS = (".mhd", ".nhdr")
#: halves of one image
_PAIRS = {".hdr": (".img", ".img.gz"), ".img": (".hdr",), ".img.gz": (".hdr", ".hdr.gz"), ".hdr.gz": (".img.gz",)}
#: no more of a header is looked at, bytes
_HEADER_BYTES = 1 << 20
#: endings of files in a folder of images that are not images
_BESIDE_IMAGES = (".json", ".csv", ".png")


def refuse_overwriting(read: Iterable[Path | None], written: Iterable[Path | None]) -> None:
    """Refuse outputs that are an input, part of one, or one another.

    Two paths are one where they lead to the same file, by whatever links, or will on a disk that does not tell upper
    from lower case or spellings of Unicode. A folder that is read (of a DICOM series, a dataset) stands for itself and
    the files in it; a header for the files of its voxels too.

    Args:
        read: files and folders; None for options that are not given.
        written: files and folders.

    Raises:
        UsageError: which path is in the way.
    """
    known = {key for path in read if path for part in files_of(path) for key in _keys(part)}
    seen: dict[Hashable, Path] = {}
    within: dict[Hashable, Path] = {}  # folders that will be made, with a file that goes there
    for path in (path for path in written if path):
        keys = _keys(path)
        if not known.isdisjoint(keys):
            raise UsageError(f"{path} is read, and would be overwritten.", "Choose another name for what is written.")
        folders = list(_folders(path))
        for key, others in [(key, seen) for key in (*keys, *folders)] + [(key, within) for key in keys]:
            if key in others:
                raise UsageError(
                    f"{others[key]} and {path} cannot both be written: they are one file, or one lies in the other.",
                    "Choose another name for one of them.",
                )
        seen |= dict.fromkeys(keys, path)
        within |= dict.fromkeys(folders, path)


def same_name(name: str) -> str:
    """A key that is equal for names that some file system treats as one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def refuse_same_names(outputs: Iterable[tuple[object, str | Path]], remedy: str) -> None:
    """Refuse results that would go to one file, or to names that some file system treats as one.

    Args:
        outputs: each source with the name of its result, or with its path.
        remedy: of the error.

    Raises:
        UsageError: two sources have the same.
    """
    taken: dict[str, object] = {}
    for source, output in outputs:
        key = same_name(str(output))
        if key in taken:
            name = output.name if isinstance(output, Path) else output
            raise UsageError(f"{taken[key]} and {source} would both be written to {name}.", remedy)
        taken[key] = source


def _keys(path: Path) -> list[Hashable]:
    """Keys of a path, shared by any other path to the same file: its place, and the file if it exists."""
    absolute = os.path.abspath(path)
    keys: list[Hashable] = [_place(absolute), _place(os.path.realpath(absolute))]
    try:
        status = os.stat(absolute)
    except (OSError, ValueError):
        return keys
    return [*keys, (status.st_dev, status.st_ino)] if status.st_ino else keys


def _place(path: str) -> Hashable:
    """The nearest existing folder, by device and inode, and the names below it."""
    below: list[str] = []
    folder = path
    while True:
        folder, name = os.path.split(folder)
        below.append(same_name(name))
        try:
            status = os.stat(folder)
        except (OSError, ValueError):
            if name:
                continue
            return path
        return (status.st_dev, status.st_ino, *reversed(below))


def _folders(path: Path) -> Iterator[Hashable]:
    """Places of the folders above ``path`` that do not exist yet."""
    for folder in path.parents:
        if folder.exists():
            return
        yield _place(os.path.abspath(folder))


def files_of(path: Path) -> Iterator[Path]:
    """``path`` itself, and the other files that are read with it: of a folder, a detached header or a pair."""
    yield path
    name = path.name.lower()
    try:
        if path.is_dir():
            for folder, _, files in os.walk(path):
                yield from (Path(folder, file) for file in files if not file.lower().endswith(_BESIDE_IMAGES))
        elif name.endswith(_HEADERS):
            yield from _named_in(path)
        for ending, others in _PAIRS.items():
            if name.endswith(ending):
                stem = path.name[: -len(ending)]
                twins = [stem + other for other in others]
                yield from (
                    entry for entry in path.absolute().parent.iterdir() if entry.name.lower() in map(str.lower, twins)
                )
    except (OSError, ValueError):  # the reader will say why it cannot be read
        return


def _named_in(header: Path) -> Iterator[Path]:
    """The files that a detached header may take its voxels from: those that its text names, and numbered ones."""
    with header.open("rb") as file:
        text = os.fsdecode(file.read(_HEADER_BYTES))
    words = re.findall(r"[^\s:=]+", text)
    folder = header.absolute().parent
    numbered = [re.sub(r"%0?\d*d", r"\\d+", re.escape(word).replace("\\%", "%")) for word in words if "%" in word]
    for entry in folder.iterdir():
        if entry.name in text or any(re.fullmatch(pattern, entry.name) for pattern in numbered):
            yield entry
    for word in words:
        if os.sep in word:
            yield folder / word
