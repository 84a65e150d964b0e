"""How much each view of a finished model should count: measured on validation cases, not assumed.

    python -m SESegmentationTraining.view_weights MODEL --dataset DATASET --recipe NAME [--volumes N] [--write]

The views' probabilities are computed once for each case; then every combination of weights is tried, and the one with
the highest mean Dice over the structures is chosen. With ``--write`` the card gets these weights. Where a recipe
synthesises its images, each validation map gives ``N`` whole volumes of different appearance.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from SESegmentationLib.errors import InputError
from SESegmentationLib.models import ModelPackage, View, verify_model, write_package
from SESegmentationLib.networks.weights import load_networks
from SESegmentationLib.predict.device import choose_device
from SESegmentationLib.predict.predictor import Predictor

from .accuracy import FEWEST_VOXELS, add_options, validation_cases
from .processes import as_command

#: weights that are tried for each view; only their ratio counts
TRIED = (0.0, 0.5, 1.0, 2.0)
SEED = 77


def combinations(views: Sequence[View]) -> list[tuple[float, ...]]:
    """Weights to try, the largest of them 1; the views that tell left from right cannot all be 0."""
    chosen = {
        tuple(weight / max(weights) for weight in weights)
        for weights in itertools.product(TRIED, repeat=len(views))
        if any(weight for weight, view in zip(weights, views, strict=True) if not view.merged)
    }
    return sorted(chosen)


def view_probabilities(predictor: Predictor, volume: np.ndarray) -> list[Tensor]:
    """What each view alone says, (C, k, j, i) half precision, in the order of ``predictor.views``.

    Views that merge left and right are split by all the others together, equally weighted.
    """
    sided = [view for view in predictor.views if not view.merged]
    alone = [predictor.predict(volume, [view]).probabilities for view in sided]
    for view in predictor.views[len(sided) :]:
        views = [replace(v, weight=1.0) for v in (*sided, view)]
        together = predictor.predict(volume, views).probabilities
        alone.append(len(views) * together - sum(alone[: len(sided)]))
    return alone


def measure_weights(
    package: ModelPackage, cases: Iterable[tuple[str, np.ndarray, np.ndarray]]
) -> dict[tuple[float, ...], float]:
    """Mean Dice over cases and structures for each combination of weights of the predictor's views.

    Raises:
        InputError: there are no cases.
    """
    predictor = Predictor(package.card, load_networks(package), choose_device("auto"))
    tried = combinations(predictor.views)
    scores: dict[tuple[float, ...], list[float]] = {weights: [] for weights in tried}
    for name, volume, truth in cases:
        print(name, file=sys.stderr)
        inside = _box(truth)
        alone = [p[(slice(None), *inside)].float() for p in view_probabilities(predictor, volume)]
        target = torch.from_numpy(truth[inside]).to(alone[0].device)
        for weights in tried:
            fused = sum(weight * p for weight, p in zip(weights, alone, strict=True) if weight).argmax(0)
            scores[weights].append(_mean_dice(fused, target, predictor.classes))
    if not scores[tried[0]]:
        raise InputError("There are no validation cases.", "Keep some out in the recipe's [data].")
    return {weights: float(np.mean(values)) for weights, values in scores.items()}


def with_weights(package: ModelPackage, weights: Sequence[float]) -> ModelPackage:
    """Write the card anew, with these weights of the predictor's views (merged ones last)."""
    order = sorted(package.card.views, key=lambda view: view.merged)
    by_view = {(view.plane, view.network): weight for view, weight in zip(order, weights, strict=True)}
    entries = package.card.to_dict()
    for view in entries["views"]:
        view["weight"] = by_view[view["plane"], view["network"]]
    entries["views"] = [view for view in entries["views"] if view["weight"] > 0]
    return write_package(package.path, entries, package.weights_path)


def _box(truth: np.ndarray, margin: int = 12) -> tuple[slice, ...]:
    """The part of a volume that holds structures, and some voxels round it."""
    box = []
    for axis in range(3):
        found = np.flatnonzero(truth.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(max(found[0] - margin, 0), found[-1] + margin + 1) if found.size else slice(None))
    return tuple(box)


def _mean_dice(predicted: Tensor, target: Tensor, classes: int) -> float:
    overlap = torch.bincount(target[predicted == target], minlength=classes)[1:]
    true = torch.bincount(target.flatten().long(), minlength=classes)[1:]
    size = true + torch.bincount(predicted.flatten(), minlength=classes)[1:]
    there = true >= FEWEST_VOXELS
    return float((2 * overlap[there] / size[there]).mean()) if there.any() else 1.0


@as_command
def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of ``python -m SESegmentationTraining.view_weights``; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--write", action="store_true", help="write the best weights into the card")
    chosen = parser.parse_args(arguments)
    package = verify_model(chosen.model)
    scores = measure_weights(package, validation_cases(chosen, package, SEED))
    planes = [view.plane for view in sorted(package.card.views, key=lambda view: view.merged)]
    for weights, dice in sorted(scores.items(), key=lambda item: -item[1]):
        print(f"{dice:.4f}  " + ", ".join(f"{p} {w:g}" for p, w in zip(planes, weights, strict=True)))
    if chosen.write:
        with_weights(package, max(scores, key=scores.get))


if __name__ == "__main__":
    sys.exit(main())
