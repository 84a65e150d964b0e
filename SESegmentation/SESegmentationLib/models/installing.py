"""Installing a model package from a folder or a ZIP, neither of which is trusted."""

from __future__ import annotations

import io
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from ..errors import InputError, ModelError, UsageError, reason_of
from ..files import cannot_write, staging_folder, sync
from ..files.json_files import LARGEST, parse_json
from ..files.staging import placing, put, remove_leftovers
from .card import CARD_NAME, README_NAME, ModelCard
from .store import (
    LARGEST_WEIGHTS,
    REPLACES_SHIPPED,
    ModelPackage,
    shipped_models,
    user_models_folder,
    verify_package,
)

#: what a package may hold besides its weights
COMPANIONS = (CARD_NAME, README_NAME, "LICENSE")
#: largest number of entries of a ZIP, and of bytes of their list
MOST_ENTRIES = 1000
LARGEST_LIST = 1 << 20
#: largest compression ratio of files above LARGEST; weights hardly compress
MOST_SHRUNK = 20
#: other methods can demand any amount of memory
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_REMEDY = "Give a ZIP of one model's folder, as it came from whoever made the model."


class _Bounded(io.FileIO):
    """A file that refuses large reads: the list of files in a ZIP is read at once, before anything else."""

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(LARGEST_LIST + 1 if size is None or size < 0 else min(size, LARGEST_LIST + 1))
        if len(content) > LARGEST_LIST:
            raise zipfile.BadZipFile("its list of files is too long")
        return content


def unpack(source: Path, folder: Path) -> None:
    """Put the card, companions and weights in the ZIP ``source`` into ``folder``.

    Raises:
        InputError: it cannot be unpacked, holds no or several models, too much data, or paths that point outside of it.
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
    """Turn what a damaged ZIP raises into InputError."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, RuntimeError, EOFError, LookupError) as error:
        raise InputError(f"{source} cannot be unpacked: {reason_of(error)}.", "Get the file again.") from error


def _files(source: Path, archive: zipfile.ZipFile) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """The files of a ZIP by path, with either kind of slash (some Windows programs write backslashes)."""
    entries = archive.infolist()
    if len(entries) > MOST_ENTRIES:
        raise InputError(f"{source} holds {len(entries)} files; a model has about four.", _REMEDY)
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
    """The content of one file, whose size is checked first."""
    if entry.flag_bits & 1:
        raise InputError(f"{source} is encrypted.", "Give a ZIP without a password.")
    if entry.compress_type not in _METHODS:
        raise InputError(f"{source} is compressed by a method other than deflate.", "Pack the folder as a plain ZIP.")
    shrunk = entry.file_size > max(LARGEST, MOST_SHRUNK * entry.compress_size)
    if entry.file_size > largest or shrunk:
        size = f"{entry.file_size / 1e6:.0f} MB"
        raise InputError(f"{source} holds {entry.filename!a}, which unpacks to {size}: too much.", _REMEDY)
    return archive.read(entry)


class AlreadyInstalledError(UsageError):
    """There is a model of that name, and it was not to be replaced."""


def add_model(source: Path, folder: Path | None = None, replace: bool = False) -> ModelPackage:
    """Copy the model package in ``source`` to where models are looked for, whole or not at all.

    Card, schema and SHA-256 of the weights are checked first. Nothing in the package is executed.

    Args:
        source: folder with a model card, or a ZIP that holds one package.
        folder: where to put it; the user's models folder if None.
        replace: overwrite a model of the same name there.

    Raises:
        InputError: ``source`` is neither, or a ZIP that cannot be trusted; see :func:`unpack`.
        ModelError: the package is damaged.
        AlreadyInstalledError: there is a model of that name, there or among those that come with the program.
        UsageError: ``source`` is what it would replace.
        OutputError: the folder cannot be written.
    """
    folder = folder or user_models_folder()
    with _unpacked(source) as unpacked:
        package = verify_package(unpacked)
        name = package.card.name
        target, shipped = folder / name, name in shipped_models()
        if target.exists() and target.resolve() in (source.resolve(), *source.resolve().parents):
            raise UsageError(f"{source} is what would be replaced.", "Give a copy that lies elsewhere.")
        if (target.exists() or shipped) and not replace:
            where = "that comes with the program" if shipped else f"in {folder}"
            raise AlreadyInstalledError(
                f"There is a model {name} {where} already.",
                "Replace it with --replace, or give the new one another name.",
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
            with staging_folder(folder) as temporary:
                copied = temporary / "new"
                copied.mkdir()
                for file in (*COMPANIONS, package.card.weights_file):
                    if (unpacked / file).is_file():
                        _check_size(unpacked / file, file in COMPANIONS)
                        shutil.copyfile(unpacked / file, copied / file)
                        sync(copied / file)
                verify_package(copied)
                if shipped:
                    (copied / REPLACES_SHIPPED).touch()
                with placing:
                    _exchange(copied, target, temporary / "old")
        except OSError as error:
            raise cannot_write(folder / name, error) from error
    return ModelPackage.from_folder(target)


def _exchange(new: Path, target: Path, old: Path) -> None:
    """Put a folder in place of ``target``, if there is one, which goes to ``old``; it stays where that fails."""
    if target.exists():
        put(target, old)
    try:
        put(new, target)
    except OSError:
        if old.exists():
            put(old, target)
        raise


@contextmanager
def _unpacked(source: Path) -> Iterator[Path]:
    """The folder with the model card: ``source`` itself, or a temporary folder with the unpacked ZIP."""
    if source.is_dir():
        yield source
        return
    if not zipfile.is_zipfile(source):
        found = "is not a ZIP file" if source.exists() else "does not exist"
        raise InputError(f"{source} {found}.", f"Give a folder with {CARD_NAME}, or a ZIP of such a folder.")
    with tempfile.TemporaryDirectory() as temporary:
        unpack(source, Path(temporary))
        yield Path(temporary)


def _check_size(path: Path, companion: bool) -> None:
    """Refuse a text of unreasonable size; that of the weights is known already."""
    if companion and path.stat().st_size > LARGEST:
        raise ModelError(f"{path} is larger than {LARGEST >> 20} MiB.", "Get the model package again from its source.")
