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
from ..inference.intensity import normalise
from ..models.card import ModelCard

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")


@dataclass(frozen=True)
class Case:
    """One labelled image of a dataset."""

    name: str
    image: Path
    label: Path


def find_cases(dataset: Path) -> list[Case]:
    """Cases of a folder in nnU-Net's layout: ``imagesTr/NAME_0000.nii.gz`` with ``labelsTr/NAME.nii.gz``.

    Raises:
        InputError: a folder is missing, there are no cases, or a label has no image.
    """
    images, labels = dataset / "imagesTr", dataset / "labelsTr"
    for folder in (images, labels):
        if not folder.is_dir():
            raise InputError(f"There is no folder {folder}.", "Lay the data out as nnU-Net does: imagesTr, labelsTr.")
    cases = []
    for label in volumes_in(labels):
        name, suffix = _stem(label)
        image = images / f"{name}_0000{suffix}"
        if not image.exists():
            raise InputError(f"The label {label.name} has no image {image.name}.", f"Add it to {images}.")
        cases.append(Case(name, image, label))
    if not cases:
        raise InputError(f"There are no labels in {labels}.", f"Add volumes ({', '.join(SUFFIXES)}).")
    return cases


def find_label_maps(dataset: Path) -> list[Path]:
    """Label maps directly in ``dataset``; InputError where there are none."""
    maps = volumes_in(dataset) if dataset.is_dir() else []
    if not maps:
        raise InputError(f"There are no label maps in {dataset}.", "Give the folder that holds the volumes.")
    return maps


def load_case(case: Case, card: ModelCard) -> tuple[np.ndarray, np.ndarray]:
    """Image (float16, intensities normalised) and labels (uint8, output channels) on the model's grid.

    Raises:
        InputError: image and label differ in geometry, or a label value is unknown to the card.
    """
    image, label = _read(case.image), _read(case.label)
    if image.GetSize() != label.GetSize() or not np.allclose(image.GetSpacing(), label.GetSpacing(), atol=1e-3):
        raise InputError(f"Image and label of {case.name} differ in size or spacing.", "Resample the label.")
    table = {0: 0} | {entry.value: channel for channel, entry in enumerate(card.labels, start=1)}
    values = sitk.GetArrayFromImage(to_grid(label, card.spacing, sitk.sitkNearestNeighbor)).round().astype(np.int64)
    unknown = set(np.unique(values).tolist()) - set(table)
    if unknown:
        raise InputError(
            f"The label of {case.name} holds values the recipe does not name: {sorted(unknown)}.",
            "Add them to the recipe's labels.",
        )
    intensities = sitk.GetArrayFromImage(to_grid(image, card.spacing, sitk.sitkLinear))
    return normalise(intensities, card.intensity).astype(np.float16), _recode(values, table)


def load_label_map(path: Path, values: Sequence[int], card: ModelCard) -> np.ndarray:
    """A label map on the model's grid as indices into ``values``, uint8.

    Values that are not listed become background; float files are rounded.
    """
    labels = sitk.GetArrayFromImage(to_grid(_read(path), card.spacing, sitk.sitkNearestNeighbor))
    return _recode(labels.round().astype(np.int64), {int(value): index for index, value in enumerate(values)})


def box_round(mask: np.ndarray, margin: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Bounding box (low, high) of a mask, high excluded, with a margin in voxels per axis, inside the array."""
    inside = np.argwhere(mask)
    margin = np.round(margin).astype(int)
    return np.maximum(inside.min(0) - margin, 0), np.minimum(inside.max(0) + 1 + margin, mask.shape)


def to_grid(image: sitk.Image, spacing: Sequence[float], interpolator: int) -> sitk.Image:
    """Orient to RAS by permuting and flipping axes, then resample to ``spacing`` (x, y, z in mm) where it differs."""
    image = sitk.DICOMOrient(image, "RAS")
    if np.allclose(image.GetSpacing(), spacing, rtol=0.01):
        return image
    size = [max(round(n * old / new), 1) for n, old, new in zip(image.GetSize(), image.GetSpacing(), spacing, strict=True)]
    reference = sitk.Image(size, image.GetPixelID())
    reference.SetSpacing(spacing)
    reference.SetDirection(image.GetDirection())
    shift = [(new - old) / 2 for old, new in zip(image.GetSpacing(), spacing, strict=True)]
    corner = np.array(image.GetDirection()).reshape(3, 3) @ shift + image.GetOrigin()
    reference.SetOrigin(corner.tolist())
    return sitk.Resample(image, reference, sitk.Transform(), interpolator, 0.0)


def volumes_in(folder: Path) -> list[Path]:
    """Volume files of a folder by name, hidden ones left out."""
    return sorted(p for p in folder.iterdir() if p.name.endswith(SUFFIXES) and not p.name.startswith("."))


def _stem(path: Path) -> tuple[str, str]:
    suffix = next(s for s in SUFFIXES if path.name.endswith(s))
    return path.name.removesuffix(suffix), suffix


def _read(path: Path) -> sitk.Image:
    try:
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read as a volume.", "Replace the file, or take the case out.") from error


def _recode(values: np.ndarray, table: dict[int, int]) -> np.ndarray:
    codes = np.zeros(max(int(values.max()), *table) + 1, dtype=np.uint8)
    for value, code in table.items():
        codes[value] = code
    return codes[values.clip(min=0)]
