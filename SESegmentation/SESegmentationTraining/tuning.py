"""Tuning of a finished model on validation cases: the weights of its views, and the logits of structures.

Weights of views: the views' probabilities are computed once for each case; then every combination of weights is tried,
and the one with the highest mean Dice over the structures is the best.

Logit adjustment (Menon et al., ICLR 2021): training shows small structures more often than there are, and weighs them
more, so that they are found; thin ones then come out too large. The probabilities of the structures named are
multiplied by several factors, the same for all of them, and the factor with their highest mean Dice is the best. Its
logarithm is added to the biases of the networks' classifiers, and the card says so under "training".
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from SESegmentationLib.errors import InputError, UsageError
from SESegmentationLib.files import staging_folder, store
from SESegmentationLib.inference.device import device_for
from SESegmentationLib.inference.predictor import Predictor
from SESegmentationLib.models import ModelPackage, View, update_card, verify_model, write_package
from SESegmentationLib.models.packages import WEIGHTS_NAME
from SESegmentationLib.networks.losses import overlap_and_size
from SESegmentationLib.networks.weights import load_networks

from .begun import refuse_other_split
from .dataset import FEWEST_VOXELS, LabelledVolume, box_round
from .recipe import Recipe
from .sources import open_source
from .train import CLASSIFIER_BIASES

#: weights that are tried for each view; only their ratio counts
WEIGHTS = (0.0, 0.5, 1.0, 2.0)
#: voxels round the structures, within which Dice is measured
MARGIN = 12
VIEWS_SEED = 77
#: factors that are tried
FACTORS = (0.06, 0.09, 0.125, 0.18, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
LOGITS_SEED = 177


def validation_volumes(
    package: ModelPackage, dataset: Path, recipe: str, volumes: int, seed: int
) -> Iterable[LabelledVolume]:
    """The validation cases of a model's training.

    Args:
        dataset: on which the model was trained.
        recipe: name or file.
        volumes: how often each case is seen; where the recipe synthesises its images, another volume each time.
        seed: of what is synthesised.

    Raises:
        InputError, UsageError: dataset or recipe cannot be used.
    """
    source = open_source(dataset, Recipe.load(recipe), package.card, torch.device("cpu"))
    refuse_other_split(package, source.split)
    generators = [torch.Generator().manual_seed(seed + number) for number in range(volumes)]
    return itertools.chain.from_iterable(source.whole_volumes(generator) for generator in generators)


def combinations(views: Sequence[View]) -> list[tuple[float, ...]]:
    """Weights to try, the largest of them 1; the views that tell left from right cannot all be 0."""
    chosen = {
        tuple(weight / max(weights) for weight in weights)
        for weights in itertools.product(WEIGHTS, repeat=len(views))
        if any(weight for weight, view in zip(weights, views, strict=True) if not view.merged)
    }
    return sorted(chosen)


def view_probabilities(predictor: Predictor, volume: np.ndarray) -> list[Tensor]:
    """The probabilities of each view alone, (C, k, j, i) half precision, in the order of ``predictor.views``.

    Views that merge left and right are split by all the others together, equally weighted.
    """
    sided = [view for view in predictor.views if not view.merged]
    alone = [predictor.predict(volume, [view]).probabilities for view in sided]
    for view in predictor.views[len(sided) :]:
        views = [replace(v, weight=1.0) for v in (*sided, view)]
        together = predictor.predict(volume, views).probabilities
        alone.append(len(views) * together - sum(alone[: len(sided)]))
    return alone


def dice_by_weights(package: ModelPackage, cases: Iterable[LabelledVolume]) -> dict[tuple[float, ...], float]:
    """Mean Dice over cases and structures for each combination of weights of the predictor's views.

    Raises:
        InputError: there are no cases.
    """
    predictor = Predictor(package.card, load_networks(package), device_for(package.card))
    tried = combinations(predictor.views)
    scores: dict[tuple[float, ...], list[float]] = {weights: [] for weights in tried}
    for name, volume, truth in cases:
        print(name, file=sys.stderr)
        low, high = box_round(truth, [MARGIN] * 3) if truth.any() else ((0, 0, 0), truth.shape)
        inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        alone = [p[(slice(None), *inside)].float() for p in view_probabilities(predictor, volume)]
        target = torch.from_numpy(truth[inside]).to(alone[0].device)
        for weights in tried:
            fused = torch.zeros_like(alone[0])
            for weight, probabilities in zip(weights, alone, strict=True):
                fused += weight * probabilities
            scores[weights].append(_mean_dice(fused.argmax(0), target, predictor.classes))
    if not scores[tried[0]]:
        raise InputError("There are no validation cases.", "Keep some out in the recipe's [data].")
    return {weights: float(np.mean(values)) for weights, values in scores.items()}


def write_view_weights(package: ModelPackage, weights: tuple[float, ...]) -> ModelPackage:
    """Write the card anew, with these weights of the predictor's views (merged ones last)."""
    order = sorted(package.card.views, key=lambda view: view.merged)
    by_view = {(view.plane, view.network): weight for view, weight in zip(order, weights, strict=True)}
    views = package.card.to_dict()["views"]
    for view in views:
        view["weight"] = by_view[view["plane"], view["network"]]
    return update_card(package, {"views": [view for view in views if view["weight"] > 0]})


def _mean_dice(predicted: Tensor, target: Tensor, classes: int) -> float:
    overlap, size = overlap_and_size(predicted, target, classes)
    there = torch.bincount(target.flatten().long(), minlength=classes) >= FEWEST_VOXELS
    there[0] = False
    return float((2 * overlap[there] / size[there]).mean()) if there.any() else 1.0


def measure_view_weights(model: str, dataset: Path, recipe: str, volumes: int = 1, write: bool = False) -> None:
    """Print the mean Dice with each combination of weights, the best first.

    Args:
        model: name or folder.
        dataset, recipe, volumes: see :func:`validation_volumes`.
        write: the best weights into the card.

    Raises:
        SegmentationError: model, dataset or recipe cannot be used.
    """
    package = verify_model(model)
    scores = dice_by_weights(package, validation_volumes(package, dataset, recipe, volumes, VIEWS_SEED))
    planes = [view.plane for view in sorted(package.card.views, key=lambda view: view.merged)]
    for weights, dice in sorted(scores.items(), key=lambda item: -item[1]):
        print(f"{dice:.4f}  " + ", ".join(f"{p} {w:g}" for p, w in zip(planes, weights, strict=True)))
    if write:
        write_view_weights(package, max(scores, key=lambda weights: scores[weights]))


def dice_by_factor(package: ModelPackage, cases: Iterable[LabelledVolume], values: Sequence[int]) -> dict[float, float]:
    """Mean Dice over cases and the structures ``values``, for each factor of their probabilities.

    Args:
        cases: name, normalised image float32 and output channels uint8, both (k, j, i).

    Raises:
        UsageError: the model has no structure of such a value.
        InputError: the structures are in none of the cases.
    """
    channels = _channels(package, values)
    predictor = Predictor(package.card, load_networks(package), device_for(package.card))
    scores: dict[float, list[float]] = {factor: [] for factor in FACTORS}
    for name, volume, truth in cases:
        print(name, file=sys.stderr)
        probabilities = predictor.predict(volume, predictor.views).probabilities.cpu().numpy()
        # only the winner of the others matters to those that are adjusted
        others = [channel for channel in range(len(probabilities)) if channel not in channels]
        best_other = probabilities[others].max(axis=0).astype(np.float32)
        own = probabilities[channels].astype(np.float32)
        winner = own.argmax(axis=0)
        for factor in FACTORS:
            drawn = factor * own.max(axis=0) > best_other
            for index, channel in enumerate(channels):
                true = truth == channel
                if true.sum() >= FEWEST_VOXELS:
                    found = drawn & (winner == index)
                    scores[factor].append(2 * float((found & true).sum()) / float(found.sum() + true.sum()))
    if not scores[1.0]:
        raise InputError("No validation case holds these structures.", "Keep out cases that do in the recipe's [data].")
    return {factor: float(np.mean(dice)) for factor, dice in scores.items()}


def adjust_logits(package: ModelPackage, values: Sequence[int], factor: float) -> ModelPackage:
    """Write weights, card and README anew, the probabilities of ``values`` multiplied by ``factor``.

    Raises:
        UsageError: the model has no structure of such a value, or its networks no classifier with a bias.
    """
    channels = _channels(package, values)
    tensors = load_file(package.weights_path)
    biases = [f"{name}.{bias}" for name in package.card.networks for bias in CLASSIFIER_BIASES]
    changed = [bias for bias in biases if bias in tensors]
    if len(changed) != len(package.card.networks):
        raise UsageError(f"The networks of {package.card.name} have no biases to change.", "Train it for longer.")
    for bias in changed:
        tensors[bias][channels] += math.log(factor)
    training = dict(package.card.training)
    before = training.get("logit_factors", {})
    training["logit_factors"] = before | {str(value): factor * before.get(str(value), 1.0) for value in values}
    with staging_folder(package.path) as folder:
        store(folder / WEIGHTS_NAME, save(tensors))
        return write_package(package.path, {**package.card.to_dict(), "training": training}, folder / WEIGHTS_NAME)


def _channels(package: ModelPackage, values: Sequence[int]) -> list[int]:
    """The output channels of label values."""
    known = package.card.channels
    unknown = [value for value in values if value not in known]
    if unknown or not values:
        raise UsageError(
            f"{package.card.name} has no structure {unknown}.", f"Give some of the values {sorted(known)}."
        )
    return [known[value] for value in values]


def measure_logit_adjustment(
    model: str, dataset: Path, recipe: str, values: Sequence[int], volumes: int = 1, write: bool = False
) -> None:
    """Print the mean Dice of structures for each factor of their probabilities.

    Args:
        model: name or folder.
        dataset, recipe, volumes: see :func:`validation_volumes`.
        values: of the structures' labels.
        write: the best factor into the weights.

    Raises:
        SegmentationError: model, dataset, recipe or values cannot be used.
    """
    package = verify_model(model)
    _channels(package, values)
    cases = validation_volumes(package, dataset, recipe, volumes, LOGITS_SEED)
    scores = dice_by_factor(package, cases, values)
    for factor, dice in scores.items():
        print(f"{factor:<5g} {dice:.4f}")
    if write:
        adjust_logits(package, values, max(scores, key=lambda factor: scores[factor]))
