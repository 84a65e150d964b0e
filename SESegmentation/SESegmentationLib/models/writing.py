"""Writing a model package."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .card import CARD_NAME, FORMAT, ModelCard
from .readme import render_readme
from .store import ModelPackage
from .verification import sha256_of

WEIGHTS_NAME = "model.safetensors"


def write_package(directory: str | Path, card: Mapping[str, Any] | ModelCard, tensors_file: str | Path) -> ModelPackage:
    """Write weights, card and README into ``directory``, each whole or not at all.

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
    # the card after the weights that it is about, and before what is made from it
    texts = {
        CARD_NAME: json.dumps(checked.to_dict(), indent=2, ensure_ascii=False) + "\n",
        "README.md": render_readme(checked),
    }
    directory.mkdir(parents=True, exist_ok=True)
    weights = directory / WEIGHTS_NAME
    if not (weights.exists() and weights.samefile(tensors_file)):
        with _replacing(weights) as temporary:
            shutil.copyfile(tensors_file, temporary)
    for name, text in texts.items():
        with _replacing(directory / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return ModelPackage(directory, checked)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write to, which takes its place once it is whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
