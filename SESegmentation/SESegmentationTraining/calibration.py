"""The expected Dice at each confidence: measured on validation cases, as they are and under shifts.

Each shift takes intensities (k, j, i) of any range and returns new ones from 0 to 1, float32; the geometry stays,
and so does the truth. Shifts are stronger than the augmentation in training, or of another kind.

From the entry "calibration" of model.json results get their expected Dice. How well it holds on test cases is shown by
``Testing/benchmarks/doubt.py``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from scipy.optimize import nnls

from SESegmentationLib.errors import InputError
from SESegmentationLib.geometry import Geometry
from SESegmentationLib.inference.confidence import confidence
from SESegmentationLib.inference.device import device_for
from SESegmentationLib.inference.intensity import normalise
from SESegmentationLib.inference.predictor import Prediction, Predictor
from SESegmentationLib.io.volume_image import voxels_of
from SESegmentationLib.models import ModelPackage, update_card, verify_model
from SESegmentationLib.models.sections import ONE_VIEW, SEVERAL_VIEWS
from SESegmentationLib.networks.losses import overlap_and_size
from SESegmentationLib.networks.weights import load_networks
from SESegmentationLib.plain_text import counted

from .begun import recipe_of, refuse_other_split
from .dataset import FEWEST_VOXELS, LabelledVolume, find_cases, load_case, split_by_recipe
from .recipe import Recipe
from .sources import open_source

#: standard deviation of the logarithm of the bias field
BIAS = 0.5
#: standard deviation of the noise in each channel of the receiver, as a share of the brightest tissue
NOISE = 0.12
#: exponent that lifts grey matter up to white matter
FLATTENING = 3.0
#: slices that are averaged into one
THICKNESS = 4
#: points of a curve
POINTS = 6
SEED = 5


def bias_field(unit: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A smooth field of sensitivity, as of a surface coil."""
    knots = sitk.GetImageFromArray(random.normal(size=(3, 3, 3)).astype(np.float32))
    size = unit.shape[::-1]
    spacing = [2 / max(n - 1, 1) for n in size]  # the outer knots lie on the outer voxels
    identity = sitk.Transform(3, sitk.sitkIdentity)
    field = sitk.GetArrayFromImage(sitk.Resample(knots, size, identity, sitk.sitkBSpline, (0.0,) * 3, spacing))
    return unit * np.exp(BIAS * (field - field.mean()) / field.std())


def noise(unit: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Rician noise, as in magnitude images of a fast or weak scanner (Gudbjartsson & Patz, MRM 1995)."""
    real, imaginary = NOISE * random.normal(size=(2, *unit.shape))
    return np.hypot(unit + real, imaginary)


def low_contrast(unit: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Grey matter nearly as bright as white matter, as with a badly chosen inversion time, and a little noise."""
    return 1 - (1 - unit) ** FLATTENING + 0.02 * random.normal(size=unit.shape)


def thick_slices(unit: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Thick axial slices: averages of ``THICKNESS`` slices, interpolated back to the original spacing."""
    numbers = np.arange(len(unit))
    blocks = (numbers + random.integers(THICKNESS)) // THICKNESS
    thick = np.stack([unit[blocks == block].mean(0) for block in np.unique(blocks)])
    centres = [numbers[blocks == block].mean() for block in np.unique(blocks)]
    position = np.interp(numbers, centres, np.arange(len(centres)))
    below = position.astype(int)
    above = np.minimum(below + 1, len(thick) - 1)
    share = (position - below)[:, None, None]
    return (1 - share) * thick[below] + share * thick[above]


def other_contrast(unit: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Dark tissue bright and bright tissue dark, as in T2-weighted images."""
    return 1 - unit


#: every shift by its name
SHIFTS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "bias field": bias_field,
    "noise": noise,
    "low contrast": low_contrast,
    "thick slices": thick_slices,
    "other contrast": other_contrast,
}


def shift_array(array: np.ndarray, name: str, seed: int) -> np.ndarray:
    """Intensities (k, j, i) under the shift ``name``; the same ``seed`` gives the same result."""
    array = array.astype(np.float32)
    low, high = np.percentile(array, (0.5, 99.5))
    unit = np.clip((array - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1)
    return SHIFTS[name](unit, np.random.default_rng(seed)).astype(np.float32)


def shift_volume(image: sitk.Image, name: str, seed: int) -> sitk.Image:
    """A volume under the shift ``name``, float32, on the same grid."""
    return Geometry.of(image).image(shift_array(voxels_of(image), name, seed))


@dataclass(frozen=True)
class Observation:
    """One structure of one case as it was, or under a shift.

    Attributes:
        case, shift: which; the shift is None for a case as it is.
        value: of the structure's label.
        views: how many views were used.
        confidence: of the result.
        dice: with the truth.
    """

    case: str
    shift: str | None
    value: int
    views: int
    confidence: float
    dice: float


def held_out_volumes(package: ModelPackage, dataset: Path, recipe: Recipe, group: str) -> Iterator[LabelledVolume]:
    """The cases that the training kept out.

    Args:
        group: "validation" or "test"; images are synthesised for validation only.

    Raises:
        InputError: there are none, or they are not those of the training.
    """
    if recipe.data.source == "folder":
        cases = {case.name: case for case in find_cases(dataset)}
        split = split_by_recipe(list(cases), recipe)
        refuse_other_split(package, split)
        for name in getattr(split, group):
            image, truth = load_case(cases[name], package.card)
            yield name, image.astype(np.float32), truth
    elif group == "validation":
        source = open_source(dataset, recipe, package.card, torch.device("cpu"))
        refuse_other_split(package, source.split)
        yield from source.whole_volumes(torch.Generator().manual_seed(SEED))
    else:
        raise InputError("Images are synthesised for validation cases only.", "Measure on real volumes instead.")


def under_shifts(package: ModelPackage, cases: Iterable[LabelledVolume]) -> Iterator[tuple[str | None, LabelledVolume]]:
    """Every case as it is and under every shift."""
    for number, (name, image, truth) in enumerate(cases):
        yield None, (name, image, truth)
        for shift in SHIFTS:
            shifted = normalise(shift_array(image, shift, SEED + number), package.card.intensity)
            yield shift, (name, shifted, truth)


def observe(
    package: ModelPackage, cases: Iterable[LabelledVolume], fast: bool = True
) -> Iterator[tuple[Observation, ...]]:
    """Segment every case as it is and under every shift, with all views and, with ``fast``, with one.

    Yields:
        The observations of one case under one shift.
    """
    predictor = Predictor(package.card, load_networks(package), device_for(package.card))
    alternatives = [predictor.views]
    if fast and len(predictor.views) > 1:
        alternatives.append([predictor.best_view()])
    for shift, (name, image, truth) in under_shifts(package, cases):
        print(name, shift or "", file=sys.stderr)
        found: list[Observation] = []
        for views in alternatives:
            predicted = predictor.predict(image, views)
            found += observations_of(package, predicted, truth, name, shift)
        yield tuple(found)


def observations_of(
    package: ModelPackage, predicted: Prediction, truth: np.ndarray, name: str, shift: str | None
) -> list[Observation]:
    """One observation for each structure that is there, or was found."""
    confidences = confidence(predicted.probabilities, predicted.votes)
    classes = len(package.card.labels) + 1
    labels, target = predicted.probabilities.argmax(0).cpu(), torch.from_numpy(truth.astype(np.int64))
    overlap, sizes = overlap_and_size(labels, target, classes)
    return [
        Observation(
            name,
            shift,
            label.value,
            len(predicted.votes),
            float(confidences[channel]),
            float(2 * overlap[channel] / sizes[channel]),
        )
        for channel, label in enumerate(package.card.labels, start=1)
        if sizes[channel] >= FEWEST_VOXELS  # of truth and result together
    ]


def fit_curve(observations: Sequence[Observation]) -> dict[str, list[float]]:
    """A rising line through a few points, closest to what was seen in the sense of least squares.

    The points lie at quantiles of the observed confidences, the lowest and the highest included. The line cannot fall,
    as non-negative least squares find its first value and the increase of each part.
    """
    confidence, dice = np.array([(seen.confidence, seen.dice) for seen in observations]).T
    knots = np.unique(np.quantile(confidence, np.linspace(0, 1, POINTS)).round(4))
    rises = [
        np.clip((confidence - start) / (end - start), 0, 1) for start, end in zip(knots[:-1], knots[1:], strict=True)
    ]
    heights = nnls(np.stack([np.ones(len(dice)), *rises], axis=1), dice)[0].cumsum()
    return {"confidence": knots.tolist(), "dice": heights.clip(0, 1).round(4).tolist()}


def fit(observations: Sequence[Observation]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """The curves of a card's "calibration", by number of views and label value."""
    curves: dict[str, dict[str, dict[str, list[float]]]] = {}
    for entry, several in ((SEVERAL_VIEWS, True), (ONE_VIEW, False)):
        values = sorted({seen.value for seen in observations if (seen.views > 1) == several})
        for value in values:
            those = [seen for seen in observations if seen.value == value and (seen.views > 1) == several]
            curves.setdefault(entry, {})[str(value)] = fit_curve(those)
    return curves


def calibrate(package: ModelPackage, dataset: Path, recipe: Recipe) -> dict[str, Any]:
    """The "calibration" entry of a card.

    Raises:
        InputError: there are no validation cases.
    """
    observations = [
        seen for those in observe(package, held_out_volumes(package, dataset, recipe, "validation")) for seen in those
    ]
    if not observations:
        raise InputError("There are no validation cases.", "Keep some out in the recipe's [data].")
    made = "" if recipe.data.source == "folder" else " with synthesised images"
    command = f"sesegment measure calibration {package.path.name} --dataset DATASET"
    return card_calibration(observations, "validation case", made, command)


def card_calibration(observations: Sequence[Observation], case: str, about: str, command: str) -> dict[str, Any]:
    """The "calibration" entry of a model card.

    Args:
        case: what one of the cases is called.
        about: what else is said of all of them, with a space before it; may be empty.
        command: how to measure it again.
    """
    cases = len({seen.case for seen in observations})
    under = f"as they are and under {len(SHIFTS)} shifts: {', '.join(SHIFTS)}"
    return {"data": f"{counted(cases, case)}{about}, {under}", "command": command, **fit(observations)}


def measure_calibration(model: str, dataset: Path, recipe: str | None = None, write: bool = False) -> None:
    """Print the curves of expected Dice as JSON.

    Args:
        model: name or folder.
        dataset: on which the model was trained.
        recipe: name or file, where the card's training does not name it.
        write: the curves into the card and its README.

    Raises:
        SegmentationError: model, dataset or recipe cannot be used.
    """
    package = verify_model(model)
    calibration = calibrate(package, dataset, recipe_of(package, recipe))
    print(json.dumps(calibration, indent=1))
    if write:
        update_card(package, {"calibration": calibration})
