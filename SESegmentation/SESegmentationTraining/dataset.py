"""Training data on disk: nnU-Net's folder layout, folders of label maps, and which cases are kept out.

Everything is brought to the model's grid: RAS orientation and the card's spacing; arrays are (k, j, i).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from SESegmentationLib.errors import InputError
from SESegmentationLib.geometry import same_grid
from SESegmentationLib.inference.intensity import normalise
from SESegmentationLib.inference.model_grid import to_model_grid
from SESegmentationLib.io.formats import PICTURE_ENDINGS, VOLUME_ENDINGS, is_picture, is_volume
from SESegmentationLib.io.reading import read_volume
from SESegmentationLib.io.segmentations import read_segmentation
from SESegmentationLib.io.volume_image import voxels_of
from SESegmentationLib.models import Label, sha256_of
from SESegmentationLib.models.card import ModelCard
from SESegmentationLib.plain_text import counted
from SESegmentationLib.progress import Progress, no_progress

from .recipe import Recipe

#: of files of images and of labels
SUFFIXES = (".seg.nrrd", *VOLUME_ENDINGS, *PICTURE_ENDINGS)
#: cases that are named in a message
MOST_NAMED = 5
#: structures of fewer voxels in a case are not counted there: a rest cut off by the field of view
FEWEST_VOXELS = 30
#: name, normalised image float32 and output channels uint8 (k, j, i) of a case
LabelledVolume = tuple[str, np.ndarray, np.ndarray]


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
    found = [_stem(label) for label in volumes_in(labels, pictures=True)]
    there: dict[str, dict[str, Path]] = {}
    for path in volumes_in(images, pictures=True):
        if path.is_file():
            there.setdefault(stem(path), {})[_stem(path)[1].lower()] = path
    cases = [Case(name, _image_of(name, suffix, images, there), labels / f"{name}{suffix}") for name, suffix in found]
    if twice := sorted({case.name for case in cases if [name for name, _ in found].count(case.name) > 1}):
        raise InputError(f"There are several labels of {twice[0]} in {labels}.", "Leave one of them there.")
    if not cases:
        raise InputError(f"There are no labels in {labels}.", f"Add volumes or pictures ({', '.join(SUFFIXES)}).")
    return cases


def unlabelled(dataset: Path, cases: Sequence[Case]) -> list[str]:
    """Names of the images in ``imagesTr`` that are none of ``cases``, since they have no labels."""
    names = {stem(path) for path in volumes_in(dataset / "imagesTr", pictures=True)}
    return sorted({name.removesuffix("_0000") for name in names if name.endswith("_0000")} - {c.name for c in cases})


def further_channels(dataset: Path, cases: Sequence[Case]) -> list[str]:
    """Names of ``cases`` of which ``imagesTr`` holds more channels than number 0."""
    names = {stem(path) for path in volumes_in(dataset / "imagesTr", pictures=True)}
    return [case.name for case in cases if f"{case.name}_0001" in names]


def same_images(cases: Sequence[Case]) -> list[list[str]]:
    """Names of cases whose images are one and the same file, or copies of it; InputError where one cannot be read."""
    found: dict[str, list[str]] = {}
    for case in cases:
        try:
            found.setdefault(sha256_of(case.image), []).append(case.name)
        except OSError as error:
            raise InputError(f"{case.image} cannot be read: {error.strerror}.", "Check the file.") from error
    return [names for names in found.values() if len(names) > 1]


def dataset_paths(dataset: Path) -> list[Path]:
    """The parts of a dataset that are read: its folders of cases and its description."""
    folders = [dataset / f"{kind}{part}" for kind in ("images", "labels") for part in ("Tr", "Ts")]
    return [*(folder for folder in folders if folder.is_dir()), dataset / "dataset.json"]


def find_label_maps(dataset: Path) -> dict[str, Path]:
    """Label maps directly in ``dataset``, by name; InputError where there are none, or two of one name."""
    maps = volumes_in(dataset) if dataset.is_dir() else []
    if not maps:
        raise InputError(f"There are no label maps in {dataset}.", "Give the folder that holds the volumes.")
    found = {stem(path): path for path in maps}
    for path in maps:
        if found[stem(path)] != path:
            raise InputError(f"There are several label maps {stem(path)} in {dataset}.", "Leave one of them there.")
    return found


def names_of(dataset: Path, recipe: Recipe) -> list[str]:
    """Names of all cases that a recipe learns from or measures; InputError where there are none."""
    if recipe.data.source == "folder":
        return [case.name for case in find_cases(dataset)]
    return list(find_label_maps(dataset))


def read_case(
    case: Case, structures: Sequence[Label], pixel_mm: Sequence[float] | None, named_in: str = "the recipe"
) -> tuple[sitk.Image, sitk.Image]:
    """Image and labels as they are in their files.

    Args:
        structures: those that there may be.
        pixel_mm: for models of slices, see :func:`~SESegmentationLib.io.reading.read_volume`.
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
    image, label = read_case(case, card.labels, card.pixel_mm)
    on_grid, grid = to_model_grid(image, card)
    table = {0: 0} | {entry.value: channel for channel, entry in enumerate(card.labels, start=1)}
    values = grid.labels_to_grid(label)
    intensities = normalise(voxels_of(on_grid), card.intensity)
    return intensities.astype(np.float16), _recode(values, table)


def load_label_map(path: Path, values: Sequence[int] | np.ndarray, card: ModelCard) -> np.ndarray:
    """A label map on the model's grid as indices into ``values``, uint8.

    Values that are not listed become background; float files are rounded.
    """
    labels = read_segmentation(path).label_map()
    _, grid = to_model_grid(labels, card)
    return _recode(grid.labels_to_grid(labels), {int(value): index for index, value in enumerate(values)})


def box_round(mask: np.ndarray, margin: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounding box (low, high) of a mask, high excluded, with a margin in voxels per axis, inside the array.

    Raises:
        ValueError: the mask is empty.
    """
    inside = np.argwhere(mask)
    around = np.round(margin).astype(int)
    return np.maximum(inside.min(0) - around, 0), np.minimum(inside.max(0) + 1 + around, mask.shape)


def volumes_in(folder: Path, pictures: bool = False) -> list[Path]:
    """Files of volumes, of pictures too where these are wanted, in a folder by name; hidden ones are left out."""
    files = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in files if is_volume(path) or (pictures and is_picture(path)))


def stem(path: Path) -> str:
    """A file's name without the ending of a volume, segmentation or picture."""
    return _stem(path)[0]


def _stem(path: Path) -> tuple[str, str]:
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), path.suffix)
    cut = len(path.name) - len(suffix)
    return path.name[:cut], path.name[cut:]


def _image_of(name: str, suffix: str, images: Path, there: Mapping[str, Mapping[str, Path]]) -> Path:
    """The image of a case in the folder ``images``; one that ends as the label does, if there are several.

    Args:
        there: files in that folder by name and by ending, in lower case.
    """
    own = there.get(f"{name}_0000", {})
    for ending in (suffix.lower(), *SUFFIXES[1:]):
        if ending in own:
            return own[ending]
    usual = ".nii.gz" if suffix == SUFFIXES[0] else suffix
    raise InputError(f"The label {name}{suffix} has no image {name}_0000{usual}.", f"Add it to {images}.")


def _recode(values: np.ndarray, table: dict[int, int]) -> np.ndarray:
    codes = np.zeros(max(int(values.max()), *table) + 1, dtype=np.uint8)  # other values become background
    for value, code in table.items():
        codes[value] = code
    return codes[values]


ReadCase = Callable[[Case], tuple]


def check_cases(
    cases: Sequence[Case],
    structures: Sequence[Label],
    pixel_mm: Sequence[float] | None,
    progress: Progress = no_progress,
    read: ReadCase | None = None,
) -> dict[int, list[str]]:
    """Read images and labels of all cases.

    Args:
        structures: those that there may be.
        pixel_mm: see :func:`.dataset.read_case`.
        read: gives image and labels of a case; :func:`.dataset.read_case` if None.

    Returns:
        Names of the cases that hold a structure, by value.

    Raises:
        InputError: names every case that cannot be used, and why.
    """
    holders: dict[int, list[str]] = {label.value: [] for label in structures}
    failures: list[tuple[str, InputError]] = []
    for number, case in enumerate(cases):
        progress(f"check {case.name}", number / len(cases), None)
        try:
            _, labels = read(case) if read else read_case(case, structures, pixel_mm)
        except InputError as error:
            failures.append((case.name, error))
            continue
        for value in np.unique(voxels_of(labels)).tolist():
            if value in holders:
                holders[value].append(case.name)
    if len(failures) == 1:
        raise failures[0][1]
    if failures:
        causes = [error.cause if name in error.cause else f"{name}: {error.cause}" for name, error in failures]
        more = f" And {len(causes) - MOST_NAMED} more." if len(causes) > MOST_NAMED else ""
        raise InputError(
            f"{len(failures)} of {len(cases)} cases cannot be used. {' '.join(causes[:MOST_NAMED])}{more}",
            failures[0][1].remedy,
        )
    return holders


@dataclass(frozen=True)
class Split:
    """Names of the cases for training, validation and test."""

    training: list[str]
    validation: list[str]
    test: list[str]


def split_cases(names: Sequence[str], validation: int, test: int, seed: int, group_pattern: str = "") -> Split:
    """Shuffle by ``seed`` and split; the same names and seed give the same split anywhere.

    Cases in whose names the group of ``group_pattern`` is the same stay together (see "group_pattern" of
    :class:`~SESegmentationTraining.recipe.Data`): then there may be more for validation and test than asked for.

    Raises:
        InputError: nothing would be left for training.
    """
    groups = _shuffled_groups(names, seed, group_pattern)
    parts = [_take(groups, count) for count in (test, validation, len(names))]
    return _checked(Split(training=parts[2], validation=parts[1], test=parts[0]), len(names), validation, test)


def fold_of_cases(
    names: Sequence[str], validation: int, folds: int, fold: int, seed: int, group_pattern: str = ""
) -> Split:
    """The split of one fold of a cross-validation: every case is for test in exactly one of the ``folds``.

    Args: as :func:`split_cases`; ``fold`` counts from 0.

    Raises:
        InputError: a fold would have nothing for test, or nothing would be left for training.
    """
    groups = _shuffled_groups(names, seed, group_pattern)
    test = [name for group in groups[fold::folds] for name in group]
    rest = [group for index, group in enumerate(groups) if index % folds != fold]
    kept_out = _take(rest, validation)
    if not test:
        raise InputError(
            f"The dataset has {counted(len(names), 'case')}, too few for {folds} folds.",
            "Add cases, or use fewer folds.",
        )
    split = Split(training=_take(rest, len(names)), validation=kept_out, test=test)
    return _checked(split, len(names), validation, len(test))


def _shuffled_groups(names: Sequence[str], seed: int, group_pattern: str) -> list[list[str]]:
    """Groups of cases that belong together, shuffled."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        match = re.match(group_pattern, name) if group_pattern else None
        groups.setdefault(match[1] if match else name, []).append(name)
    shuffled = list(groups)
    random.Random(seed).shuffle(shuffled)
    return [groups[key] for key in shuffled]


def _take(groups: list[list[str]], count: int) -> list[str]:
    """Remove groups from the front until there are ``count`` cases, and return these."""
    part: list[str] = []
    while groups and len(part) < count:
        part += groups.pop(0)
    return part


def _checked(split: Split, cases: int, validation: int, test: int) -> Split:
    """``split``, which has to leave something for training; ``validation`` and ``test``: how many were wanted."""
    if not split.training:
        raise InputError(
            f"The dataset has {counted(cases, 'case')}, too few to keep out {validation} for validation and {test} for "
            "test.",
            "Add cases, or keep out fewer in the recipe's [data].",
        )
    return split


def split_by_recipe(names: Sequence[str], recipe: Recipe) -> Split:
    """The split that a recipe's [data] asks for; InputError as :func:`split_cases`."""
    data = recipe.data
    if data.folds:
        return fold_of_cases(names, data.validation, data.folds, data.fold, data.split_seed, data.group_pattern)
    return split_cases(names, data.validation, data.test, data.split_seed, data.group_pattern)
