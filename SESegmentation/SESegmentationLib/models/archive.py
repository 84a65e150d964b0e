"""A model package in a ZIP: only its own files are unpacked, and only within bounds known beforehand."""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from ..errors import InputError, ModelError
from ..json_files import LARGEST, parse_json
from .card import CARD_NAME, ModelCard
from .store import LARGEST_WEIGHTS

#: what a package may hold besides its weights
COMPANIONS = (CARD_NAME, "README.md", "LICENSE")
#: entries of a ZIP, and bytes of their list
MOST_ENTRIES = 1000
LARGEST_LIST = 1 << 20
#: times its own size that a ZIP may unpack to, of files above LARGEST; weights hardly shrink
MOST_SHRUNK = 20
#: others can ask for any amount of memory
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_REMEDY = "Give a ZIP of one model's folder, as it came from whoever made the model."


class _Bounded(io.FileIO):
    """A file of which no large part is read at once: the list of files in a ZIP is read as a whole before all else."""

    def read(self, size: int = -1) -> bytes:
        content = super().read(min(size, LARGEST_LIST + 1) if size >= 0 else LARGEST_LIST + 1)
        if len(content) > LARGEST_LIST:
            raise zipfile.BadZipFile("its list of files is too long")
        return content


def unpack(source: Path, folder: Path) -> None:
    """Put the card, companions and weights in the ZIP ``source`` into ``folder``.

    Raises:
        InputError: it cannot be unpacked, holds no or several models, too much, or what points outside of it.
        ModelError: the card is damaged.
    """
    with _reading(source), _Bounded(source) as file, zipfile.ZipFile(file) as archive:
        files = _files(source, archive)
        cards = [path for path in files if path.name == CARD_NAME]
        if len(cards) != 1:
            raise InputError(f"{source} holds {len(cards)} model cards.", _REMEDY)
        content = _content(source, archive, files[cards[0]], LARGEST)
        try:
            card = ModelCard.from_dict(parse_json(content), f"{source}: {cards[0]}")
        except ValueError as error:
            raise ModelError(f"{source}: {cards[0]} is not JSON: {error}.", _REMEDY) from error
        for name in (*COMPANIONS, card.weights_file):
            entry = files.get(cards[0].parent / name)
            if entry is not None:
                largest = LARGEST_WEIGHTS if name == card.weights_file else LARGEST
                (folder / name).write_bytes(_content(source, archive, entry, largest))


@contextmanager
def _reading(source: Path) -> Iterator[None]:
    """What a damaged ZIP raises, in words."""
    try:
        yield
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, EOFError, LookupError) as error:
        raise InputError(f"{source} cannot be unpacked: {error}.", "Get the file again.") from error
    except zipfile.zlib.error as error:
        raise InputError(f"{source} cannot be unpacked: {error}.", "Get the file again.") from error


def _files(source: Path, archive: zipfile.ZipFile) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """The files of a ZIP by path, whichever way its slashes lean (some programs of Windows write them backwards)."""
    entries = archive.infolist()
    if len(entries) > MOST_ENTRIES:
        raise InputError(f"{source} holds {len(entries)} files; a model has some four.", _REMEDY)
    files: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for entry in entries:
        name = entry.filename.replace("\\", "/")
        path = PurePosixPath(name)
        outside = path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0])
        if outside or stat.S_ISLNK(entry.external_attr >> 16):
            raise InputError(f"{source} holds {entry.filename!a}, which points outside of it.", "Do not use this file.")
        if name.endswith("/") or path.parts[:1] == ("__MACOSX",):
            continue
        if path in files:
            raise InputError(f"{source} holds {entry.filename!a} twice.", "Do not use this file.")
        files[path] = entry
    return files


def _content(source: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, largest: int) -> bytes:
    """One file, after its size was looked at."""
    if entry.flag_bits & 1:
        raise InputError(f"{source} is encrypted.", "Give a ZIP without a password.")
    if entry.compress_type not in _METHODS:
        raise InputError(f"{source} is compressed by a method other than deflate.", "Pack the folder as a plain ZIP.")
    shrunk = entry.file_size > max(LARGEST, MOST_SHRUNK * entry.compress_size)
    if entry.file_size > largest or shrunk:
        size = f"{entry.file_size / 1e6:.0f} MB"
        raise InputError(f"{source} holds {entry.filename!a}, which unpacks to {size}: too much.", _REMEDY)
    return archive.read(entry)
