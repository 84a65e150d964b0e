"""Installing a model package that somebody passed on: a folder, or a ZIP of one."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError, ModelError, UsageError
from ..files import cannot_write, staging_folder, sync
from ..files.staging import placing, remove_leftovers
from ..json_files import LARGEST
from .archive import COMPANIONS, unpack
from .card import CARD_NAME
from .store import REPLACES_SHIPPED, ModelPackage, shipped_models, user_models_folder
from .verification import verify_package


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
        InputError: ``source`` is neither, or a ZIP that cannot be trusted; see :mod:`.archive`.
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
                    if target.exists():
                        os.replace(target, temporary / "old")
                    os.replace(copied, target)
        except OSError as error:
            raise cannot_write(folder / name, error) from error
    return ModelPackage.from_folder(target)


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
        unpack(source, Path(temporary))
        yield Path(temporary)


def _check_size(path: Path, companion: bool) -> None:
    """Refuse a text of unreasonable size; that of the weights is known already."""
    if companion and path.stat().st_size > LARGEST:
        raise ModelError(f"{path} is larger than {LARGEST >> 20} MiB.", "Take the model package again.")
