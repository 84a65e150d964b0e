"""Installing a model package that somebody passed on: a folder, or a ZIP of one."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from ..errors import InputError, ModelError, UsageError
from .card import CARD_NAME
from .store import ModelPackage, user_models_folder
from .verification import verify_package

#: what a package may hold besides its weights; what else lies in the folder is left behind
COMPANIONS = (CARD_NAME, "README.md", "LICENSE")
#: a ZIP that unpacks to more is refused
MAXIMUM_BYTES = 4 << 30


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
        InputError: ``source`` is neither, or a ZIP that cannot be trusted.
        ModelError: the package is damaged.
        AlreadyInstalledError: there is a model of that name.
        UsageError: the folder cannot be written.
    """
    folder = folder or user_models_folder()
    with _unpacked(source) as unpacked:
        package = verify_package(unpacked)
        name = package.card.name
        if PurePosixPath(name).name != name or name.startswith("."):
            raise ModelError(f"{name!r} is no name for a model.", "Ask whoever made the package to correct it.")
        target = folder / name
        if target.exists() and not replace:
            raise AlreadyInstalledError(
                f"There is a model {name} in {folder} already.", "Replace it with --replace, or remove it first."
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".adding-", dir=folder) as temporary:
                copied = Path(temporary) / "new"
                copied.mkdir()
                for file in (*COMPANIONS, package.card.weights_file):
                    if (unpacked / file).is_file():
                        shutil.copyfile(unpacked / file, copied / file)
                if target.exists():
                    os.replace(target, Path(temporary) / "old")
                os.replace(copied, target)
        except OSError as error:
            raise UsageError(
                f"{folder} cannot be written: {error.strerror or error}.", "Make it writable, or free some space."
            ) from error
    return verify_package(target)


@contextmanager
def _unpacked(source: Path) -> Iterator[Path]:
    """The folder with the model card that ``source`` is or, unpacked for the time being, holds."""
    if source.is_dir():
        yield source
        return
    if not zipfile.is_zipfile(source):
        found = "is no ZIP" if source.exists() else "does not exist"
        raise InputError(f"{source} {found}.", f"Give a folder with {CARD_NAME}, or a ZIP of such a folder.")
    with tempfile.TemporaryDirectory() as temporary:
        try:
            with zipfile.ZipFile(source) as archive:
                _check_entries(source, archive)
                archive.extractall(temporary)
        except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, EOFError) as error:
            raise InputError(f"{source} cannot be unpacked: {error}.", "Get the file again.") from error
        cards = list(Path(temporary).rglob(CARD_NAME))
        if len(cards) != 1:
            raise InputError(f"{source} holds {len(cards)} model cards.", "Give a ZIP of one model's folder.")
        yield cards[0].parent


def _check_entries(source: Path, archive: zipfile.ZipFile) -> None:
    """Refuse entries that would land outside the folder, links, and more than fits."""
    for entry in archive.infolist():
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        outside = path.is_absolute() or ".." in path.parts or ":" in path.parts[0] if path.parts else False
        if outside or stat.S_ISLNK(entry.external_attr >> 16):
            raise InputError(f"{source} holds {entry.filename!r}, which points outside of it.", "Do not use this file.")
    if sum(entry.file_size for entry in archive.infolist()) > MAXIMUM_BYTES:
        raise InputError(f"{source} unpacks to more than 4 GiB.", "Give a ZIP of one model's folder.")
