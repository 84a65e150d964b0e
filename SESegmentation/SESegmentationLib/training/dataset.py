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
from ..inference.geometry import same_grid
from ..inference.grid import to_model_grid
from ..inference.intensity import normalise
from ..inference.pictures import PICTURE_ENDINGS, pixel_size
from ..inference.reading import read_volume
from ..inference.segmentations import read_segmentation
from ..inference.voxels import voxels_of
from ..models import Label
from ..models.card import ModelCard

VOLUME_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
#: of files of labels, too
SUFFIXES = (".seg.nrrd", *VOLUME_SUFFIXES, *PICTURE_ENDINGS)


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
    found = [_stem(label) for label in volumes_in(labels, SUFFIXES)]
    cases = [Case(name, _image_of(name, suffix, images), labels / f"{name}{suffix}") for name, suffix in found]
    if twice := sorted({case.name for case in cases if [name for name, _ in found].count(case.name) > 1}):
        raise InputError(f"There are several labels of {twice[0]} in {labels}.", "Leave one of them there.")
    if not cases:
        raise InputError(f"There are no labels in {labels}.", f"Add volumes or pictures ({', '.join(SUFFIXES)}).")
    return cases


def dataset_paths(dataset: Path) -> list[Path]:
    """What of a dataset is read: its folders of cases and its description."""
    folders = [dataset / f"{kind}{part}" for kind in ("images", "labels") for part in ("Tr", "Ts")]
    return [*(folder for folder in folders if folder.is_dir()), dataset / "dataset.json"]


def find_label_maps(dataset: Path) -> dict[str, Path]:
    """Label maps directly in ``dataset``, by name; InputError where there are none."""
    maps = volumes_in(dataset) if dataset.is_dir() else []
    if not maps:
        raise InputError(f"There are no label maps in {dataset}.", "Give the folder that holds the volumes.")
    return {stem(path): path for path in maps}


def read_case(
    case: Case, structures: Sequence[Label], pixel_mm: Sequence[float] | None, named_in: str = "the recipe"
) -> tuple[sitk.Image, sitk.Image]:
    """Image and labels as they are in their files.

    Args:
        structures: those that there may be.
        pixel_mm: for models of slices, see :func:`~SESegmentationLib.inference.reading.read_volume`.
        named_in: what names ``structures``, for messages.

    Raises:
        InputError: one of them cannot be used, they differ in geometry, or a label is none of ``structures``.
    """
    image = read_volume(case.image, pixel_mm)
    label = read_segmentation(case.label, pixel_mm).label_map(structures, like=image)
    if not same_grid(image, label):
        raise InputError(
            f"Image and label of {case.name} differ in size, spacing, origin or direction.",
            "Resample the label to the image, or correct the header that is wrong.",
        )
    unknown = sorted(set(np.unique(voxels_of(label)).tolist()) - {0, *(known.value for known in structures)})
    if unknown:
        raise InputError(
            f"The label of {case.name} holds values that {named_in} does not name: {unknown}.",
            f"Name them in {named_in}, or correct the label.",
        )
    return image, label


def load_case(case: Case, card: ModelCard) -> tuple[np.ndarray, np.ndarray]:
    """Image (float16, intensities normalised) and labels (uint8, output channels) on the model's grid.

    Raises:
        InputError: image and label differ in geometry, or a label value is unknown to the card.
    """
    image, label = read_case(case, card.labels, pixel_size(card.input, card.spacing))
    on_grid, grid = to_model_grid(image, card)
    table = {0: 0} | {entry.value: channel for channel, entry in enumerate(card.labels, start=1)}
    values = grid.labels_to_grid(label)
    intensities = normalise(voxels_of(on_grid), card.intensity)
    return intensities.astype(np.float16), _recode(values, table)


def load_label_map(path: Path, values: Sequence[int], card: ModelCard) -> np.ndarray:
    """A label map on the model's grid as indices into ``values``, uint8.

    Values that are not listed become background; float files are rounded.
    """
    labels = read_segmentation(path).label_map()
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


def volumes_in(folder: Path, endings: tuple[str, ...] = VOLUME_SUFFIXES) -> list[Path]:
    """Volume files of a folder by name, hidden ones left out."""
    return sorted(p for p in folder.iterdir() if p.name.lower().endswith(endings) and not p.name.startswith("."))


def stem(path: Path) -> str:
    """A file's name without the ending of a volume, segmentation or picture."""
    return _stem(path)[0]


def _stem(path: Path) -> tuple[str, str]:
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), path.suffix)
    cut = len(path.name) - len(suffix)
    return path.name[:cut], path.name[cut:]


def _image_of(name: str, suffix: str, images: Path) -> Path:
    """The image of a case in the folder ``images``; one that ends as the label does, if there are several."""
    for ending in (suffix, *SUFFIXES[1:], *(ending.upper() for ending in SUFFIXES[1:])):
        if (path := images / f"{name}_0000{ending}").is_file():
            return path
    usual = ".nii.gz" if suffix == SUFFIXES[0] else suffix
    raise InputError(f"The label {name}{suffix} has no image {name}_0000{usual}.", f"Add it to {images}.")


def _recode(values: np.ndarray, table: dict[int, int]) -> np.ndarray:
    codes = np.zeros(max(int(values.max()), *table) + 1, dtype=np.uint8)  # other values become background
    for value, code in table.items():
        codes[value] = code
    return codes[values]
