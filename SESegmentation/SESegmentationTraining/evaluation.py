"""Accuracy of a segmentation: Dice, 95 % Hausdorff distance and mean surface distance per label.

Distances are in mm. They are symmetric: between the voxels of one surface and the other surface, both ways.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from SESegmentationLib.errors import InputError, SegmentationError
from SESegmentationLib.files import same_content
from SESegmentationLib.io.segmentations import Segmentation, common_grid, identify, placed_in_grid, read_segmentation
from SESegmentationLib.io.volume_image import voxels_of
from SESegmentationLib.models import Label

from .dataset import stem, volumes_in

#: structures that no model names get numbers above those that labels can have
_FIRST_FREE = 1 << 16


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
    return _compare_masks(*[_where(_flat(image), value) for image in (predicted, reference)])


def _compare_masks(*masks: sitk.Image) -> Measures:
    arrays = [voxels_of(mask).astype(bool) for mask in masks]
    sizes = [int(array.sum()) for array in arrays]
    millilitres = [size * float(np.prod(masks[1].GetSpacing())) / 1000 for size in sizes]
    if not all(sizes):
        return Measures(1.0 if not any(sizes) else 0.0, None, None, *millilitres)
    dice = 2 * int((arrays[0] & arrays[1]).sum()) / sum(sizes)
    distances = _surface_distances(*_cropped_to(arrays[0] | arrays[1], masks))
    hausdorff = max(float(np.percentile(side, 95)) for side in distances)
    return Measures(dice, hausdorff, float(np.concatenate(distances).mean()), *millilitres)


def evaluate_folders(
    predictions: Path,
    references: Path,
    labels: Sequence[Label] = (),
    resample: bool = False,
    whole: Sequence[Label] = (),
) -> dict[str, Any]:
    """Compare segmentations of the same names in two folders, or two files.

    Structures of a ``.seg.nrrd`` are known by name and code, those of a label map by their values. Of each pair the
    structures count that are in either file. A pair that cannot be compared does not keep the others from it.

    Args:
        predictions: folder or file of segmentations.
        references: folder or file of true labels.
        labels: of the model, for their names: figures do not depend on them.
        resample: bring predictions on another grid to that of their reference, from the nearest voxel, instead of
            refusing them.
        whole: what the model finds in a whole volume instead of ``labels``, if it has a pipeline; they are taken as
            soon as a file holds one of them that is none of ``labels``.

    Returns:
        "cases": measures by case and label value; "labels": mean, standard deviation and number of cases of each
        measure by label value, with "name" where known; "mean_dice" over labels, None where there is none; "same":
        cases whose two files are the same byte for byte; "missing": references without prediction; "unmatched":
        predictions without reference; "failed": of each pair that cannot be compared "case", "code", "cause", "remedy"
        and "exit_code".

    Raises:
        InputError: nothing to compare.
    """
    pairs, missing, unmatched, failed = _pairs(predictions, references)
    structures = _Structures(labels, whole)
    cases: dict[str, dict[str, dict[str, Any]]] = {}
    for name, (ours, theirs) in pairs.items():
        try:
            cases[name] = _evaluate_pair(name, ours, theirs, structures, resample)
        except SegmentationError as error:
            failed.append(_failure(name, error))
    by_label = summarise(cases)
    for value, entry in by_label.items():
        entry["name"] = structures.name_of(int(value))
    dice = [entry["dice"]["mean"] for entry in by_label.values()]
    return {
        "cases": cases,
        "labels": by_label,
        "mean_dice": float(np.mean(dice)) if dice else None,
        "same": [name for name in cases if same_content(*pairs[name])],
        "missing": missing,
        "unmatched": unmatched,
        "failed": failed,
    }


class _Structures:
    """The structures that are compared: those of a model, and what else is met, the same in all cases.

    Args:
        labels: of the model.
        whole: of the model in whole volumes.
    """

    def __init__(self, labels: Sequence[Label], whole: Sequence[Label] = ()) -> None:
        self._model = list(labels)
        self._known = list(labels)
        self._whole = list(whole)

    def look_at(self, segmentation: Segmentation) -> None:
        """Take the structures of whole volumes where the file holds one of them that no crop has."""
        if segmentation.named:
            names = {segment.name for segment in segmentation.present.values()} - {label.name for label in self._known}
            further = any(label.name in names for label in self._whole)
        else:
            found = {int(value) for layer in segmentation.layers for value in np.unique(voxels_of(layer))}
            values = found - {label.value for label in self._known}
            further = any(label.value in values for label in self._whole)
        if further:
            replaced = {label.value for label in self._whole}
            self._known = self._whole + [label for label in self._known if label.value not in replaced]
            self._model, self._whole = self._whole, []

    def name_of(self, value: int) -> str:
        """Of a structure; empty where only its value is known."""
        return next((label.name for label in self._known if label.value == value), "")

    def valued(self, segmentation: Segmentation, by_number: bool) -> list[sitk.Image]:
        """Layers with the values of the structures that there are.

        Args:
            by_number: whether the values have to be those of a label map that it is compared with.
        """
        if not segmentation.named:
            return segmentation.layers
        if by_number and not self._model:
            layers = segmentation.valued()
            segments = segmentation.present.values()
            self._add([segment.to_label(segment.made_for) for segment in segments if segment.made_for is not None])
            return layers
        present = list(segmentation.present.values())
        found = identify(present, self._known, segmentation.name)
        for segment, label in zip(present, found, strict=True):
            if label is None:
                free = max([_FIRST_FREE - 1, *(label.value for label in self._known)]) + 1
                taken = {label.value for label in self._known}
                own = None if self._model or segment.made_for in taken else segment.made_for
                self._add([segment.to_label(own or free)])
        return segmentation.valued(self._known)

    def _add(self, labels: Sequence[Label]) -> None:
        self._known += [label for label in labels if label.value not in {known.value for known in self._known}]


def _evaluate_pair(
    name: str, ours: Path, theirs: Path, structures: _Structures, resample: bool
) -> dict[str, dict[str, Any]]:
    """Measures by label value of one case."""
    # a picture has the pixels of what it is compared with
    predicted = read_segmentation(ours, (1.0, 1.0, 1.0))
    reference = read_segmentation(theirs, predicted.geometry.spacing)
    grid = common_grid(predicted, reference)
    if grid is None and not resample:
        raise InputError(
            f"Prediction and reference of {name} lie on different grids.",
            "Compare results with labels of their volume, or add --resample.",
        )
    for segmentation in (predicted, reference):
        structures.look_at(segmentation)
    by_number = predicted.named != reference.named
    both = [structures.valued(segmentation, by_number) for segmentation in (predicted, reference)]
    if grid is None:
        grid = reference.geometry
        both[0] = [grid.resample(layer, sitk.sitkNearestNeighbor) for layer in both[0]]
    else:
        files = (predicted, reference)
        both = [
            [placed_in_grid(layer, grid, s.name) for layer in layers] for layers, s in zip(both, files, strict=True)
        ]
    values = sorted({int(v) for layers in both for layer in layers for v in np.unique(voxels_of(layer)) if v})
    return {str(v): asdict(_compare_masks(*[_mask(layers, v) for layers in both])) for v in values}


def _mask(layers: Sequence[sitk.Image], value: int) -> sitk.Image:
    first, *others = [_where(_flat(layer), value) for layer in layers]
    for other in others:
        first = sitk.Or(first, other)
    return first


def _where(image: sitk.Image, value: int) -> sitk.Image:
    """A mask of the voxels that are ``value``; of one that the image cannot hold ITK would take the lowest bits."""
    mask = sitk.GetImageFromArray((voxels_of(image) == value).astype(np.uint8))
    mask.CopyInformation(image)
    return mask


def _failure(case: str, error: SegmentationError) -> dict[str, Any]:
    reported = {"code": error.code, "cause": error.cause, "remedy": error.remedy}
    return {"case": case, **reported, "exit_code": error.exit_code}


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


def _pairs(
    predictions: Path, references: Path
) -> tuple[dict[str, tuple[Path, Path]], list[str], list[str], list[dict[str, Any]]]:
    """Pairs of files by case, cases without a prediction, without a reference, and of which there are several files."""
    for path in (predictions, references):
        if not path.exists():
            raise InputError(f"There is no {path}.", "Give a folder of label maps, or one file.")
    if predictions.is_file() and references.is_file():
        return {stem(references): (predictions, references)}, [], [], []
    if predictions.is_file() or references.is_file():
        raise InputError("A file cannot be compared with a folder.", "Give two files or two folders.")
    ours, theirs = (volumes_in(folder, pictures=True) for folder in (predictions, references))
    common = sorted({stem(path) for path in ours} & {stem(path) for path in theirs})
    if not common:
        raise InputError(
            f"No file of {predictions} has the name of one in {references}.",
            "Segment into a folder first: results are named after their volume, without _0000.",
        )
    failed = []
    for folder, files in ((predictions, ours), (references, theirs)):
        for name, count in Counter(stem(path) for path in files).items():
            if count > 1 and name in common:
                error = InputError(f"There are {count} files of {name} in {folder}.", "Leave one of them there.")
                failed.append(_failure(name, error))
                common.remove(name)
    by_name = [{stem(path): path for path in files} for files in (ours, theirs)]
    pairs = {name: (by_name[0][name], by_name[1][name]) for name in common}
    names = [{stem(path) for path in files} for files in (ours, theirs)]
    return pairs, sorted(names[1] - names[0]), sorted(names[0] - names[1]), failed


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
