"""Writing model packages: weights, card, and the card rendered as a README."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import OutputFiles, incomplete, sync
from .card import CARD_NAME, FORMAT, README_NAME, ModelCard
from .readme import render_readme
from .store import ModelPackage, sha256_of

WEIGHTS_NAME = "model.safetensors"


def update_card(package: ModelPackage, entries: Mapping[str, Any]) -> ModelPackage:
    """Write entries into the card of a package in place of those it has; errors as of :func:`write_package`."""
    return write_package(package.path, package.card.to_dict() | dict(entries), package.weights_path)


def write_package(directory: str | Path, card: Mapping[str, Any] | ModelCard, tensors_file: str | Path) -> ModelPackage:
    """Write weights, card and README into ``directory``, each whole or not at all.

    Args:
        directory: the package's folder; made where absent, files of these names in it are replaced.
        card: the card; "format" and "weights" are filled in here.
        tensors_file: safetensors file to copy; it may be the one in ``directory`` already.

    Raises:
        ModelError: the card is not valid; nothing is written then.
        UsageError: the folder cannot be written to.
        OutputError: a file cannot be written.
    """
    directory, tensors_file = Path(directory), Path(tensors_file)
    entry = dict(card.to_dict() if isinstance(card, ModelCard) else card)
    entry["format"] = FORMAT
    entry["weights"] = {"file": WEIGHTS_NAME, "sha256": sha256_of(tensors_file)}
    checked = ModelCard.from_dict(entry, directory / CARD_NAME)
    # the card after the weights that it is about, and before what is made from it
    texts = {
        CARD_NAME: json.dumps(checked.to_dict(), indent=2, ensure_ascii=False) + "\n",
        README_NAME: render_readme(checked),
    }
    weights = directory / WEIGHTS_NAME
    with OutputFiles() as files:
        if not (weights.exists() and weights.samefile(tensors_file)):
            copied = files.begin(weights)
            shutil.copyfile(tensors_file, copied)
            sync(copied)
            if sha256_of(copied) != entry["weights"]["sha256"]:
                raise incomplete(copied, tensors_file.stat().st_size)
        for name, text in texts.items():
            files.write(directory / name, text)
    return ModelPackage(directory, checked)
