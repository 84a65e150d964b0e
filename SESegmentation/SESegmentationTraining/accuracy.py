"""Measure a finished model on cases it never saw, and write the figures into its card.

Dice and distances of its structures, and how exact the intracranial volume is, on synthesised heads where it is known.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from scipy.stats import spearmanr

from SESegmentationLib.errors import InputError, UsageError
from SESegmentationLib.geometry import Geometry, same_grid
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.inference.predictor import Predictor
from SESegmentationLib.io.reading import read_volume
from SESegmentationLib.io.segmentations import read_segmentation
from SESegmentationLib.io.volume_image import voxels_of
from SESegmentationLib.models import ModelPackage, update_card, verify_model
from SESegmentationLib.networks.weights import load_networks
from SESegmentationLib.progress import Progress, no_progress
from SESegmentationLib.result import SegmentOptions

from .begun import recipe_of, refuse_other_split
from .dataset import Case, check_cases, find_cases
from .evaluation import compare, summarise
from .recipe import Recipe
from .sources import open_source

#: FreeSurfer's cortical parcels (aparc and aparc.a2009s), by the label of the whole cortex they are part of
CORTICAL_PARCELS = {3: ((1000, 1999), (11100, 11199)), 42: ((2000, 2999), (12100, 12199))}
#: seed of the contrasts in which heads are synthesised
INTRACRANIAL_SEED = 71


def measure(
    package: ModelPackage,
    cases: Sequence[Case],
    fast: bool = False,
    progress: Progress = no_progress,
    others: bool = False,
    resample: bool = False,
) -> dict[str, Any]:
    """Segment ``cases`` and compare with their labels. All of them are read before the first is segmented.

    Args:
        others: references may hold structures that the model does not have; they count as background.
        resample: bring references on another grid to that of their image, from the nearest voxel.

    Returns:
        "cases": measures by case and label value, and the Dice that the model expected, of what is there or was found;
        "labels": mean, standard deviation and number by label value.

    Raises:
        InputError: a case cannot be used, its labels lie on another grid, or hold what the model does not have.
    """
    pixel_mm = package.card.pixel_mm

    def read(case: Case) -> tuple[sitk.Image, sitk.Image]:
        return _read_pair(package, case, pixel_mm, others, resample)

    check_cases(cases, package.card.labels, pixel_mm, progress, read)
    engine = Engine(package, device="cpu")
    by_case = {}
    for index, case in enumerate(cases):
        progress(case.name, index / len(cases), None)
        image, reference = read(case)
        result = engine.segment(image, SegmentOptions(fast=fast))
        expected = {structure.label.value: structure.expected_dice for structure in result.structures}
        measures = {label.value: compare(result.labels, reference, label.value) for label in package.card.labels}
        by_case[case.name] = {
            str(value): asdict(found) | {"expected_dice": expected.get(value)}
            for value, found in measures.items()
            if found.predicted_ml or found.reference_ml
        }
    return {"cases": by_case, "labels": summarise(by_case)}


def _read_pair(
    package: ModelPackage, case: Case, pixel_mm: Sequence[float] | None, others: bool, resample: bool
) -> tuple[sitk.Image, sitk.Image]:
    """Image and reference of a case, the parcels of a cortex folded."""
    image, found = read_volume(case.image, pixel_mm), read_segmentation(case.label, pixel_mm)
    reference = fold_parcels(found.label_map(package.card.labels, like=image), package.card.channels)
    if not same_grid(image, reference):
        if not resample:
            raise InputError(
                f"The labels {case.label} lie on another grid than their image {case.image}.",
                "Give labels on the image's own grid, or add --resample.",
            )
        reference = Geometry.of(image).resample(reference, sitk.sitkNearestNeighbor)
    values = set(np.unique(voxels_of(reference)).tolist())
    unknown = sorted(values - {0, *(label.value for label in package.card.labels)})
    if unknown and not others:
        raise InputError(
            f"The labels {case.label} hold values that the model does not have: {', '.join(map(str, unknown[:8]))}.",
            "Correct them, or add --others to count them as background.",
        )
    return image, reference


def expectation(measured: dict[str, Any], apart: Collection[int] = ()) -> dict[str, float]:
    """How well expected and measured Dice of structures agree, over all cases; empty for a single structure.

    Returns:
        "n": how many; "mean_error": mean absolute difference; "spearman": correlation of their ranks.
    """
    pairs = [
        (entry["expected_dice"], entry["dice"])
        for case in measured["cases"].values()
        for value, entry in case.items()
        if int(value) not in apart and None not in (entry["expected_dice"], entry["dice"])
    ]
    if len(pairs) < 3:
        return {}
    expected, true = np.array(pairs).T
    rank = float(spearmanr(expected, true).statistic) if np.ptp(expected) and np.ptp(true) else 0.0
    return {"n": len(pairs), "mean_error": round(float(np.abs(expected - true).mean()), 4), "spearman": round(rank, 4)}


def fold_parcels(labels: sitk.Image, known: Collection[int] = tuple(CORTICAL_PARCELS)) -> sitk.Image:
    """FreeSurfer's cortical parcels as the left (3) and right (42) cortex; label maps without them are unchanged.

    Args:
        known: values of the model's structures: what it finds itself is no parcel, and without a cortex there is none.
    """
    values = sitk.GetArrayFromImage(labels)
    if values.max() < 1000:
        return labels
    own = np.isin(values, list(known))
    for cortex, ranges in CORTICAL_PARCELS.items():
        for low, high in ranges if cortex in known else ():
            values[(values >= low) & (values <= high) & ~own] = cortex
    return Geometry.of(labels).image(values)


def test_cases(package: ModelPackage, dataset: Path) -> list[Case]:
    """The cases that the training of ``package`` kept out for test; if none, those of ``imagesTs`` and ``labelsTs``.

    Raises:
        InputError: no cases were kept out, or the dataset lacks them.
    """
    names = package.card.training.get("test_cases", [])
    if not names and (dataset / "labelsTs").is_dir():
        return find_cases(dataset, "Ts")
    if not names:
        raise InputError(
            f"The training of {package.card.name} kept out no cases for test.",
            "Give cases that it has not learnt from, as imagesTs and labelsTs of the dataset.",
        )
    known = {case.name: case for case in find_cases(dataset)}
    if not set(names) <= set(known):
        raise InputError(
            f"{dataset} does not hold the test cases of {package.card.name}.", "Give the dataset it was trained on."
        )
    return [known[name] for name in names]


def card_accuracy(
    package: ModelPackage, measured: dict[str, Any], data: str, command: str, apart: Collection[int] = ()
) -> dict[str, Any]:
    """The "accuracy" entry of a model card.

    Args:
        data: what was measured on, in words.
        command: how to measure it again.
        apart: values of structures that the references define in another way: shown, but not in the mean.

    Raises:
        InputError: no structure was there or was found.
        UsageError: the model has no structure of a value in ``apart``, or no other.
    """
    values = {label.value for label in package.card.labels}
    if not set(apart) <= values or set(apart) == values:
        raise UsageError(f"--apart {sorted(apart)} leaves no mean.", f"Give some of the values {sorted(values)}.")
    by_label = {
        value: {key: {k: round(v, 4) for k, v in entry.items()} for key, entry in measures.items()}
        for value, measures in measured["labels"].items()
    }
    dice = [entry["dice"]["mean"] for value, entry in by_label.items() if int(value) not in apart]
    if not dice:
        raise InputError("In no case is there a structure, and none was found: nothing can be measured.", "Add labels.")
    return {
        "data": data,
        "cases": len(measured["cases"]),
        "mean_dice": round(float(np.mean(dice)), 4),
        "labels": by_label,
        **({"not_in_mean": sorted(apart)} if apart else {}),
        "command": command,
    }


def write_accuracy(package: ModelPackage, accuracy: dict[str, Any]) -> ModelPackage:
    """Write an "accuracy" entry into the card."""
    return update_card(package, {"accuracy": accuracy})


def measure_accuracy(
    model: str,
    dataset: Path | None = None,
    pairs: Sequence[tuple[Path, Path]] = (),
    data: str = "",
    apart: Sequence[int] = (),
    others: bool = False,
    resample: bool = False,
    write: bool = False,
) -> None:
    """Measure a model and print the figures as JSON.

    Args:
        model: name or folder.
        dataset: on which the model was trained; its test cases are measured.
        pairs: of an image and its labels, measured too.
        data: description of the cases, for the card; where absent, what the card said of the same command.
        apart: values of structures that the references define in another way: shown, but not in the mean.
        others, resample: see :func:`measure`.
        write: the figures into the card and its README.

    Raises:
        SegmentationError: as of :func:`measure`, :func:`test_cases` and :func:`card_accuracy`; no cases are given.
    """
    package = verify_model(model)
    cases = [Case(image.name, image, label) for image, label in pairs]
    if dataset:
        cases += test_cases(package, dataset)
    if not cases:
        raise UsageError("There are no cases to measure on.", "Give a dataset with --dataset, or cases with --pair.")
    measured = measure(package, cases, progress=_tell_name, others=others, resample=resample)
    options = ["--dataset DATASET"] * bool(dataset) + ["--pair IMAGE LABELS"] * len(pairs)
    options += [f"--apart {value}" for value in apart]
    options += ["--others"] * others + ["--resample"] * resample
    command = " ".join([f"sesegment measure accuracy {package.path.name}", *options])
    before = package.card.accuracy
    data = data or (before.get("data", "") if before.get("command") == command else "")
    accuracy = card_accuracy(package, measured, data, command, apart)
    found = expectation(measured, apart)
    print(json.dumps({**accuracy, **({"expected_dice": found} if found else {})}, indent=1))
    if write:
        write_accuracy(package, accuracy)


def _tell_name(phase: str, fraction: float, seconds_left: float | None) -> None:
    print(phase, file=sys.stderr)


def measure_intracranial_volume(
    model: str, dataset: Path, recipe: str | None = None, volumes: int = 4, write: bool = False
) -> None:
    """Print how exact a model's intracranial volume is, as JSON.

    Args:
        model: name or folder.
        dataset: on which the model was trained; its label maps for validation are measured.
        recipe: name or file, where the card's training does not name it.
        volumes: how many random contrasts each head is drawn in.
        write: write the relative error into the card, from which results report it beside the volume.

    Raises:
        SegmentationError: model, dataset or recipe cannot be used.
    """
    package = verify_model(model)
    own = recipe_of(package, recipe)
    if own.data.source != "label-maps":
        raise UsageError(
            f"{package.card.name} was trained on scans, whose intracranial volume is not known.",
            "Measure a model of the head whose recipe synthesises images from label maps.",
        )
    errors = relative_errors(package, dataset, own, volumes)
    error = round(float(np.sqrt(np.mean(np.square(errors)))), 4)
    print(json.dumps({"heads": len(errors), "mean": round(float(np.mean(errors)), 4), "root_mean_square": error}))
    if write:
        update_card(package, {"intracranial_error": error})


def relative_errors(package: ModelPackage, dataset: Path, recipe: Recipe, volumes: int) -> list[float]:
    """Relative error (found / true volume - 1) of every validation head under ``volumes`` contrasts.

    Raises:
        InputError: there are no such heads, or the dataset cannot be used.
    """
    whole = replace(recipe.synthesis, stripped=0.0, defaced=0.0, cropped=0.0)
    source = open_source(dataset, replace(recipe, synthesis=whole), package.card, torch.device("cpu"))
    refuse_other_split(package, source.split)
    if not source.split.validation:
        raise InputError("There are no validation cases.", "Keep some out in the recipe's [data].")
    predictor = Predictor(package.card, load_networks(package), torch.device("cpu"))
    errors = []
    for number in range(volumes):
        for name, image, truth in source.whole_volumes(torch.Generator().manual_seed(INTRACRANIAL_SEED + number)):
            found = int((predictor.predict(image, predictor.views).probabilities.argmax(0) > 0).sum())
            errors.append(found / int(np.count_nonzero(truth)) - 1)
            print(f"{name}: {errors[-1]:+.3f}", file=sys.stderr)
    return errors
