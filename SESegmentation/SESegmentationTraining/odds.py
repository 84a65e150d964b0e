"""The odds of structures that a finished model draws too large or too small: measured on validation cases.

    python -m SESegmentationTraining.odds MODEL --dataset DATASET --recipe NAME --value V [--value V ...]
        [--volumes N] [--write]

Training shows small structures more often than there are, and weighs them more, so that they are found; thin ones then
come out too large. Here the probabilities of the structures named are multiplied by several factors, the same for all
of them, and the factor with their highest mean Dice is chosen. With ``--write`` its logarithm is added to the biases of
the networks' classifiers, and the card says so under "training". Where a recipe synthesises its images, each validation
map gives ``N`` whole volumes of different appearance.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Sequence

import numpy as np
from safetensors.torch import load_file, save

from SESegmentationLib.errors import InputError, UsageError
from SESegmentationLib.files import staging_folder, store
from SESegmentationLib.models import ModelPackage, verify_model, write_package
from SESegmentationLib.models.writing import WEIGHTS_NAME
from SESegmentationLib.networks.weights import load_networks
from SESegmentationLib.predict.device import choose_device
from SESegmentationLib.predict.predictor import Predictor

from .accuracy import FEWEST_VOXELS, add_options, validation_cases
from .processes import as_command

#: factors that are tried
TRIED = (0.06, 0.09, 0.125, 0.18, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
SEED = 177
#: the bias of a network's last layer, by what its type calls it
CLASSIFIER_BIASES = ("classifier.bias", "classifier.convolution.bias")


def measure_odds(
    package: ModelPackage, cases: Iterable[tuple[str, np.ndarray, np.ndarray]], values: Sequence[int]
) -> dict[float, float]:
    """Mean Dice over cases and the structures ``values``, for each factor of their probabilities.

    Args:
        cases: name, normalised image float32 and output channels uint8, both (k, j, i).

    Raises:
        UsageError: the model has no structure of such a value.
        InputError: the structures are in none of the cases.
    """
    channels = _channels(package, values)
    predictor = Predictor(package.card, load_networks(package), choose_device("auto"))
    scores: dict[float, list[float]] = {factor: [] for factor in TRIED}
    for name, volume, truth in cases:
        print(name, file=sys.stderr)
        probabilities = predictor.predict(volume, predictor.views).probabilities.cpu().numpy()
        # only the winner of the others matters to those whose odds change
        others = [channel for channel in range(len(probabilities)) if channel not in channels]
        best_other = probabilities[others].max(axis=0).astype(np.float32)
        own = probabilities[channels].astype(np.float32)
        winner = own.argmax(axis=0)
        for factor in TRIED:
            drawn = factor * own.max(axis=0) > best_other
            for index, channel in enumerate(channels):
                true = truth == channel
                if true.sum() >= FEWEST_VOXELS:
                    found = drawn & (winner == index)
                    scores[factor].append(2 * float((found & true).sum()) / float(found.sum() + true.sum()))
    if not scores[1.0]:
        raise InputError("No validation case holds these structures.", "Keep cases that do out in the recipe's [data].")
    return {factor: float(np.mean(dice)) for factor, dice in scores.items()}


def with_odds(package: ModelPackage, values: Sequence[int], factor: float) -> ModelPackage:
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
    odds = {str(value): factor * training.get("odds", {}).get(str(value), 1.0) for value in values}
    training["odds"] = training.get("odds", {}) | odds
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


@as_command
def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of ``python -m SESegmentationTraining.odds``; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--value", type=int, action="append", required=True, help="label value; repeatable")
    parser.add_argument("--write", action="store_true", help="write the best factor into the weights")
    chosen = parser.parse_args(arguments)
    package = verify_model(chosen.model)
    _channels(package, chosen.value)
    scores = measure_odds(package, validation_cases(chosen, package, SEED), chosen.value)
    for factor, dice in scores.items():
        print(f"{factor:<5g} {dice:.4f}")
    if chosen.write:
        with_odds(package, chosen.value, max(scores, key=scores.get))


if __name__ == "__main__":
    sys.exit(main())
