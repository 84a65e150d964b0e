"""``sesegment train`` and ``sesegment evaluate``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..models import find_model
from ..outputs.files import check_writable
from .show import ProgressBar, console, print_json


def train_package(dataset: Path, recipe: str, output: Path, device: str) -> None:
    """Train the model of ``recipe`` on ``dataset`` and write its package to ``output``.

    Raises:
        SegmentationError: recipe, dataset, output or device cannot be used.
    """
    check_writable(output / "model.json")
    from ..training.recipe import Recipe
    from ..training.train import train_model

    with ProgressBar(output.name) as progress:
        package = train_model(dataset, Recipe.load(recipe), output, device, progress)
    if package is not None and os.environ.get("RANK", "0") == "0":
        print(f"{package.path}: {package.card.name} {package.card.version}")


def evaluate_predictions(predictions: Path, references: Path, model: str | None, as_json: bool) -> None:
    """Compare label maps and show the measures.

    Raises:
        SegmentationError: a folder or file cannot be used, or there is nothing to compare.
    """
    from ..training.evaluation import evaluate_folders

    labels = find_model(model).card.labels if model else None
    measures = evaluate_folders(predictions, references, labels)
    if as_json:
        print_json(measures)
    else:
        _print_measures(measures)


def _print_measures(measures: Mapping[str, Any]) -> None:
    console().print(measures)
