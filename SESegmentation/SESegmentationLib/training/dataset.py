"""Training data on disk: nnU-Net's folder layout, and folders of label maps.

Everything is brought to the model's grid: RAS orientation and the card's spacing; arrays are (k, j, i).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..inference.geometry import Geometry, to_model_grid
from ..inference.intensity import normalise
from ..inference.pictures import PICTURE_ENDINGS, pixel_size
from ..inference.reading import read_label_volume, read_volume
from ..inference.voxels import voxels_of
from ..models.card import ModelCard

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")


@dataclass(frozen=True)
class Case:
    """One labelled image of a dataset."""

    name: str
    image: Path
    label: Path


def find_cases(dataset: Path, part: str = "Tr") -> list[Case]:
    """Cases of a folder in nnU-Net's layout: ``imagesTr/NAME_0000.nii.gz`` with ``labelsTr/NAME.nii.gz``.

    Instead of volumes there may be pictures (``NAME_0000.png``, ``NAME.png``), each a case of a single slice.

    Args:
        part: how the names of both folders end: "Tr", or "Ts" for cases that are for test only.

    Raises:
        InputError: a folder is missing, there are no cases, or a label has no image.
    """
    images, labels = dataset / f"images{part}", dataset / f"labels{part}"
    for folder in (images, labels):
        if not folder.is_dir():
            raise InputError(
                f"There is no folder {folder}.", f"Lay the data out as nnU-Net does: images{part}, labels{part}."
            )
    cases = []
    for label in volumes_in(labels, (*SUFFIXES, *PICTURE_ENDINGS)):
        name, suffix = _stem(label)
        image = images / f"{name}_0000{suffix}"
        if not image.exists():
            raise InputError(f"The label {label.name} has no image {image.name}.", f"Add it to {images}.")
        cases.append(Case(name, image, label))
    if not cases:
        endings = ", ".join((*SUFFIXES, *PICTURE_ENDINGS))
        raise InputError(f"There are no labels in {labels}.", f"Add volumes or pictures ({endings}).")
    return cases


def find_label_maps(dataset: Path) -> dict[str, Path]:
    """Label maps directly in ``dataset``, by name; InputError where there are none."""
    maps = volumes_in(dataset) if dataset.is_dir() else []
    if not maps:
        raise InputError(f"There are no label maps in {dataset}.", "Give the folder that holds the volumes.")
    return {_stem(path)[0]: path for path in maps}


def same_grid(first: sitk.Image, second: sitk.Image) -> bool:
    """Whether the voxels of two images lie at the same places, to a tenth of a voxel."""
    if first.GetSize() != second.GetSize():
        return False
    apart = np.abs(Geometry.of(first).corners() - Geometry.of(second).corners())
    return bool(apart.max() < 0.1 * min(first.GetSpacing()))


def read_case(case: Case, pixel_mm: Sequence[float] | None) -> tuple[sitk.Image, sitk.Image]:
    """Image and labels as they are in their files.

    Args:
        pixel_mm: for models of slices, see :func:`~SESegmentationLib.inference.reading.read_volume`.

    Raises:
        InputError: one of them cannot be used, or they differ in geometry.
    """
    image, label = read_volume(case.image, pixel_mm), read_label_volume(case.label, pixel_mm)
    if not same_grid(image, label):
        raise InputError(
            f"Image and label of {case.name} differ in size, spacing, origin or direction.",
            "Resample the label to the image, or correct the header that is wrong.",
        )
    return image, label


def load_case(case: Case, card: ModelCard) -> tuple[np.ndarray, np.ndarray]:
    """Image (float16, intensities normalised) and labels (uint8, output channels) on the model's grid.

    Raises:
        InputError: image and label differ in geometry, or a label value is unknown to the card.
    """
    image, label = read_case(case, pixel_size(card.input, card.spacing))
    on_grid, grid = to_model_grid(image, card)
    table = {0: 0} | {entry.value: channel for channel, entry in enumerate(card.labels, start=1)}
    values = grid.labels_to_grid(label)
    unknown = set(np.unique(values).tolist()) - set(table)
    if unknown:
        raise InputError(
            f"The label of {case.name} holds values the recipe does not name: {sorted(unknown)}.",
            "Add them to the recipe's labels.",
        )
    intensities = normalise(voxels_of(on_grid), card.intensity)
    return intensities.astype(np.float16), _recode(values, table)


def load_label_map(path: Path, values: Sequence[int], card: ModelCard) -> np.ndarray:
    """A label map on the model's grid as indices into ``values``, uint8.

    Values that are not listed become background; float files are rounded.
    """
    labels = read_label_volume(path)
    _, grid = to_model_grid(labels, card)
    return _recode(grid.labels_to_grid(labels), {int(value): index for index, value in enumerate(values)})


def box_round(mask: np.ndarray, margin: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Bounding box (low, high) of a mask, high excluded, with a margin in voxels per axis, inside the array.

    Raises:
        ValueError: the mask is empty.
    """
    inside = np.argwhere(mask)
    margin = np.round(margin).astype(int)
    return np.maximum(inside.min(0) - margin, 0), np.minimum(inside.max(0) + 1 + margin, mask.shape)


def volumes_in(folder: Path, endings: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """Volume files of a folder by name, hidden ones left out."""
    return sorted(p for p in folder.iterdir() if p.name.endswith(endings) and not p.name.startswith("."))


def _stem(path: Path) -> tuple[str, str]:
    suffix = next(s for s in (*SUFFIXES, *PICTURE_ENDINGS) if path.name.endswith(s))
    return path.name.removesuffix(suffix), suffix


def _recode(values: np.ndarray, table: dict[int, int]) -> np.ndarray:
    codes = np.zeros(max(int(values.max()), *table) + 1, dtype=np.uint8)  # other values become background
    for value, code in table.items():
        codes[value] = code
    return codes[values]
