"""Writing a model package."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .card import CARD_NAME, FORMAT, ModelCard
from .store import ModelPackage
from .verification import sha256_of

WEIGHTS_NAME = "model.safetensors"


def write_package(directory: str | Path, card: Mapping[str, Any] | ModelCard, tensors_file: str | Path) -> ModelPackage:
    """Write weights and card into ``directory``, each whole or not at all; the card last.

    Args:
        directory: the package's folder; made where absent, files of these names in it are replaced.
        card: the card; "format" and "weights" are filled in here.
        tensors_file: safetensors file to copy; it may be the one in ``directory`` already.

    Raises:
        ModelError: the card is not valid; nothing is written then.
        OSError: the folder or a file cannot be written.
    """
    directory, tensors_file = Path(directory), Path(tensors_file)
    entry = dict(card.to_dict() if isinstance(card, ModelCard) else card)
    entry["format"] = FORMAT
    entry["weights"] = {"file": WEIGHTS_NAME, "sha256": sha256_of(tensors_file)}
    checked = ModelCard.from_dict(entry, directory / CARD_NAME)
    directory.mkdir(parents=True, exist_ok=True)
    weights = directory / WEIGHTS_NAME
    if not (weights.exists() and weights.samefile(tensors_file)):
        temporary = weights.with_name(f".{WEIGHTS_NAME}.{os.getpid()}")
        try:
            shutil.copyfile(tensors_file, temporary)
            os.replace(temporary, weights)
        finally:
            temporary.unlink(missing_ok=True)
    temporary = directory / f".{CARD_NAME}.{os.getpid()}"
    try:
        temporary.write_text(json.dumps(checked.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, directory / CARD_NAME)
    finally:
        temporary.unlink(missing_ok=True)
    return ModelPackage(directory, checked)
