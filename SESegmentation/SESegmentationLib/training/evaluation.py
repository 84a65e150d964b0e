"""How good a segmentation is: Dice, 95 % Hausdorff distance and mean surface distance per label.

Distances are in mm. They are symmetric: between the voxels of one surface and the other surface, both ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..inference.pictures import PICTURE_ENDINGS
from ..inference.reading import read_label_volume
from ..inference.voxels import voxels_of
from ..models import Label

SUFFIXES = (".seg.nrrd", ".nii.gz", ".nii", ".nrrd", ".mha", *PICTURE_ENDINGS)


@dataclass(frozen=True)
class Measures:
    """One structure of one case.

    Attributes:
        dice: 2 |A and B| / (|A| + |B|); 1 where both are empty.
        hausdorff95_mm: the larger of both directions' 95th percentile of surface distances; None if one is empty.
        surface_mm: mean of all surface distances of both directions; None if one is empty.
        predicted_ml, reference_ml: volumes.
    """

    dice: float
    hausdorff95_mm: float | None
    surface_mm: float | None
    predicted_ml: float
    reference_ml: float


def compare(predicted: sitk.Image, reference: sitk.Image, value: int) -> Measures:
    """Measures of the structure of voxel value ``value`` in two label maps of one geometry."""
    masks = [sitk.Equal(_flat(image), value) for image in (predicted, reference)]
    arrays = [voxels_of(mask).astype(bool) for mask in masks]
    sizes = [int(array.sum()) for array in arrays]
    millilitres = [size * float(np.prod(reference.GetSpacing())) / 1000 for size in sizes]
    if not all(sizes):
        return Measures(1.0 if not any(sizes) else 0.0, None, None, *millilitres)
    dice = 2 * int((arrays[0] & arrays[1]).sum()) / sum(sizes)
    distances = _surface_distances(*_cropped_to(arrays[0] | arrays[1], masks))
    hausdorff = max(float(np.percentile(side, 95)) for side in distances)
    return Measures(dice, hausdorff, float(np.concatenate(distances).mean()), *millilitres)


def evaluate_folders(predictions: Path, references: Path, labels: Sequence[Label] | None = None) -> dict[str, Any]:
    """Compare label maps of the same names in two folders, or two files.

    Args:
        predictions: folder or file of segmentations.
        references: folder or file of true labels.
        labels: for the structures' names; without them every value of the references counts.

    Returns:
        "cases": measures by case and label value; "labels": mean, standard deviation and number of cases of each
        measure by label value, with "name" where known; "mean_dice" over labels; "missing": references without
        prediction.

    Raises:
        InputError: nothing to compare, or a pair whose geometry differs.
    """
    pairs, missing = _pairs(predictions, references)
    names = {label.value: label.name for label in labels or ()}
    cases: dict[str, dict[str, dict[str, Any]]] = {}
    for name, (ours, theirs) in pairs.items():
        # a picture has the pixels of what it is compared with
        predicted = read_label_volume(ours, (1.0, 1.0, 1.0))
        reference = read_label_volume(theirs, predicted.GetSpacing())
        _check_same_grid(name, predicted, reference)
        values = names or {int(v): "" for v in np.unique(voxels_of(reference)) if v}
        cases[name] = {str(value): asdict(compare(predicted, reference, value)) for value in values}
    by_label = summarise(cases)
    for value, entry in by_label.items():
        entry["name"] = names.get(int(value), "")
    dice = [entry["dice"]["mean"] for entry in by_label.values()]
    return {"cases": cases, "labels": by_label, "mean_dice": float(np.mean(dice)), "missing": missing}


def summarise(cases: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Mean, standard deviation and number of cases of every measure by label value."""
    values = sorted({value for case in cases.values() for value in case}, key=int)
    summary: dict[str, dict[str, Any]] = {}
    for value in values:
        summary[value] = {}
        for measure in ("dice", "hausdorff95_mm", "surface_mm"):
            known = [case[value][measure] for case in cases.values() if case.get(value, {}).get(measure) is not None]
            if known:
                summary[value][measure] = {
                    "mean": float(np.mean(known)),
                    "std": float(np.std(known)),
                    "n": len(known),
                }
    return summary


def _pairs(predictions: Path, references: Path) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    for path in (predictions, references):
        if not path.exists():
            raise InputError(f"There is no {path}.", "Give a folder of label maps, or one file.")
    if predictions.is_file() and references.is_file():
        return {_stem(references): (predictions, references)}, []
    if predictions.is_file() or references.is_file():
        raise InputError("A file cannot be compared with a folder.", "Give two files or two folders.")
    ours, theirs = (_by_stem(folder) for folder in (predictions, references))
    common = {name: (ours[name], theirs[name]) for name in sorted(ours.keys() & theirs.keys())}
    if not common:
        raise InputError(
            f"No file of {predictions} has the name of one in {references}.",
            "Segment into a folder first: results are called like their volume, without _0000.",
        )
    return common, sorted(theirs.keys() - ours.keys())


def _by_stem(folder: Path) -> dict[str, Path]:
    files = (p for p in sorted(folder.iterdir()) if p.name.endswith(SUFFIXES) and not p.name.startswith("."))
    return {_stem(path): path for path in files}


def _stem(path: Path) -> str:
    return next((path.name.removesuffix(s) for s in SUFFIXES if path.name.endswith(s)), path.stem)


def _check_same_grid(name: str, predicted: sitk.Image, reference: sitk.Image) -> None:
    same = predicted.GetSize() == reference.GetSize() and all(
        np.allclose(getattr(predicted, get)(), getattr(reference, get)(), atol=1e-3)
        for get in ("GetSpacing", "GetOrigin", "GetDirection")
    )
    if not same:
        raise InputError(
            f"Prediction and reference of {name} lie on different grids.",
            "Compare results with labels of their volume.",
        )


def _flat(image: sitk.Image) -> sitk.Image:
    """A single slice as a plane: in three dimensions all of it would be surface."""
    return image[:, :, 0] if image.GetSize()[2] == 1 else image


def _cropped_to(union: np.ndarray, masks: Sequence[sitk.Image]) -> list[sitk.Image]:
    """Masks cropped to the bounding box of ``union``, with one voxel of margin so that surfaces close."""
    axes = range(union.ndim)
    inside = [np.flatnonzero(union.any(axis=tuple(a for a in axes if a != axis))) for axis in axes]
    low = [int(side[0]) for side in reversed(inside)]
    size = [int(side[-1]) - int(side[0]) + 1 for side in reversed(inside)]
    margin = [1] * union.ndim
    return [sitk.ConstantPad(sitk.RegionOfInterest(mask, size, low), margin, margin, 0) for mask in masks]


def _surface_distances(first: sitk.Image, second: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """Distances in mm from each surface voxel of one mask to the other's surface, both ways."""
    surfaces = [sitk.BinaryContour(mask, fullyConnected=False) for mask in (first, second)]
    maps = [
        np.abs(voxels_of(sitk.SignedMaurerDistanceMap(s, squaredDistance=False, useImageSpacing=True)))
        for s in surfaces
    ]
    on = [voxels_of(surface).astype(bool) for surface in surfaces]
    return maps[1][on[0]], maps[0][on[1]]
