"""A plain look at a dataset in nnU-Net's layout: what its description says, and what its training cases are like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..inference.expectation import is_hounsfield
from ..inference.geometry import find_extents
from ..inference.pictures import is_picture
from ..inference.voxels import voxels_of
from ..json_files import read_json
from ..models import Label
from ..models.fields import LONGEST
from ..models.plain_text import plain
from ..progress import Progress, no_progress
from .dataset import Case, read_case
from .label_names import make_labels

DESCRIPTION_NAME = "dataset.json"
#: more cases are not looked at
MOST_CASES = 20
#: labelled voxels taken from each case, for percentiles
SAMPLE = 20_000
#: share of a label's voxels in its largest piece above which it counts as one piece
ONE_PIECE = 0.99
#: distance from the plane between the two sides, relative to theirs, from which on a label lies to one side
TO_ONE_SIDE = 0.5
_EXAMPLE = 'It should look like {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}}.'


@dataclass(frozen=True)
class Description:
    """What ``dataset.json`` says.

    Attributes:
        labels: names by value, background left out, in the order of the values.
        modality: of the one channel, as it is written there, for example "CT" or "T1".
        licence: of the data, in words; empty where it is not stated.
        about: what the data are, in words; the folder's name where that is not stated.
    """

    labels: dict[int, str]
    modality: str
    licence: str
    about: str

    @property
    def structures(self) -> list[Label]:
        """The labels as those of a model."""
        return make_labels(self.labels, {})

    @classmethod
    def read(cls, dataset: Path) -> Description:
        """Read ``dataset.json``, of nnU-Net's first or second version.

        Raises:
            InputError: there is none, or it describes what cannot be learnt here.
        """
        path = dataset / DESCRIPTION_NAME
        try:
            entry = read_json(path)
        except OSError as error:
            raise InputError(f"There is no {path} that can be read: {error.strerror}.", _EXAMPLE) from error
        except ValueError as error:
            raise InputError(f"{path} is not JSON: {error}.", "Correct the file.") from error
        if not isinstance(entry, dict):
            raise InputError(f"{path} holds no JSON object.", _EXAMPLE)
        about = [plain(str(entry.get(key, ""))) for key in ("name", "description", "reference")]
        return cls(
            labels=_labels(entry.get("labels"), path),
            modality=_modality(entry.get("channel_names", entry.get("modality")), path),
            licence=plain(str(entry.get("licence", entry.get("license", "")))),
            about=". ".join(part for part in about if part)[:LONGEST] or dataset.resolve().name,
        )


@dataclass(frozen=True)
class CaseLook:
    """What one case is like.

    Attributes:
        size: voxels along right-left, posterior-anterior, inferior-superior; of slices, along rows, columns, pages.
        spacing: in mm, in the same order.
        lowest: lowest intensity.
        zeros: share of the voxels that are exactly 0.
        intensities: of a sample of labelled voxels, at most SAMPLE.
        millilitres: volume by label value, of labels that occur.
        pieces: values of labels that consist of several pieces here.
        across_mm: position of the centre along right-left in mm, from anywhere, by label value.
    """

    size: np.ndarray
    spacing: np.ndarray
    lowest: float
    zeros: float
    intensities: np.ndarray
    millilitres: dict[int, float]
    pieces: frozenset[int]
    across_mm: dict[int, float]


@dataclass(frozen=True)
class Fingerprint:
    """What the cases looked at have in common.

    Attributes:
        description: see :class:`Description`.
        cases: those looked at, at least one.
        slices: whether they are pictures or single slices, not volumes.
        pictures: whether they are pictures, whose pixels have no size.
    """

    description: Description
    cases: list[CaseLook]
    slices: bool
    pictures: bool

    @property
    def spacing(self) -> np.ndarray:
        """Median spacing (3) in mm; axes within a tenth of each other get the same."""
        median = np.median([case.spacing for case in self.cases], axis=0)
        alike = [np.abs(median / size - 1) < 0.1 for size in median]
        return np.array([median[same].mean() for same in alike])

    @property
    def extents(self) -> np.ndarray:
        """Lengths of the edges in mm, (cases, 3)."""
        return np.array([case.size * case.spacing for case in self.cases])

    @property
    def is_ct(self) -> bool:
        """Whether intensities are CT's, which mean the same in every scan; seen from the air where it is not said."""
        words = self.description.modality.lower().replace("-", " ").split()
        return bool({"ct", "cta"} & set(words)) or (not words and is_hounsfield(min(c.lowest for c in self.cases)))

    def labelled_percentiles(self, percentiles: Sequence[float]) -> np.ndarray:
        """Percentiles of the intensities of labelled voxels, each case counting alike."""
        random = np.random.default_rng(0)
        known = [case.intensities for case in self.cases if len(case.intensities)]
        few = min((len(sample) for sample in known), default=0)
        chosen = [random.choice(sample, few, replace=False) for sample in known]
        return np.percentile(np.concatenate(chosen), percentiles) if chosen else np.array(percentiles)

    def millilitres(self, value: int) -> list[float]:
        """Volumes of a label in the cases that have it."""
        return [case.millilitres[value] for case in self.cases if value in case.millilitres]

    def to_one_side(self, pairs: Sequence[tuple[int, int]]) -> list[int]:
        """Values of labels without a counterpart that lie to one side of the plane between those of ``pairs``."""
        places: dict[int, list[float]] = {}
        for case in self.cases:
            at = case.across_mm
            both = np.array([(at[left], at[right]) for left, right in pairs if left in at and right in at])
            apart = np.abs(np.diff(both)).mean() / 2 if len(both) else 0.0
            if not apart:
                continue
            middle = both.mean()
            for value in set(at) - {value for pair in pairs for value in pair}:
                places.setdefault(value, []).append((at[value] - middle) / apart)
        return sorted(value for value, found in places.items() if abs(np.median(found)) > TO_ONE_SIDE)

    def in_one_piece(self) -> list[int]:
        """Values of labels that are one piece wherever they occur."""
        several = {value for case in self.cases for value in case.pieces}
        return [value for value in self.description.labels if self.millilitres(value) and value not in several]


def look_at(dataset: Path, cases: Sequence[Case], progress: Progress = no_progress) -> Fingerprint:
    """Look at up to MOST_CASES of ``cases``, evenly spread.

    Args:
        dataset: folder with ``dataset.json``.
        cases: those for training: cases kept out for test are not looked at.

    Raises:
        InputError: the description or a case cannot be used, or pictures and volumes are mixed.
    """
    description = Description.read(dataset)
    step = -(-len(cases) // MOST_CASES)
    chosen = cases[::step]
    pictures = {is_picture(case.image) for case in cases}
    looks, flat = [], set()
    for number, case in enumerate(chosen):
        progress(f"look at {case.name}", number / len(chosen), None)
        image, labels = read_case(case, description.structures, (1.0, 1.0, 1.0), DESCRIPTION_NAME)
        single = is_picture(case.image) or image.GetSize()[2] == 1
        flat.add(single)
        looks.append(_look(image, labels, description, single))
    if len(pictures) > 1 or len(flat) > 1:
        raise InputError(f"{dataset} mixes single slices and volumes.", "Make a dataset of each.")
    return Fingerprint(description, looks, flat == {True}, pictures == {True})


def _look(image: sitk.Image, labels: sitk.Image, description: Description, single: bool) -> CaseLook:
    if not single:
        image, labels = sitk.DICOMOrient(image, "RAS"), sitk.DICOMOrient(labels, "RAS")
    array, values = voxels_of(image), voxels_of(labels)
    labelled = array[values > 0]
    spacing = np.array(image.GetSpacing())
    voxel_ml = float(np.prod(spacing)) / 1000
    extents = find_extents(values, list(description.labels))
    return CaseLook(
        size=np.array(image.GetSize()),
        spacing=spacing,
        lowest=float(array.min()),
        zeros=float((array == 0).mean()),
        intensities=labelled[:: max(len(labelled) // SAMPLE, 1)].astype(np.float32),
        millilitres={value: extent.voxels * voxel_ml for value, extent in extents.items() if extent.voxels},
        pieces=frozenset(v for v, e in extents.items() if e.box and not _one_piece(values[e.box] == v)),
        across_mm={value: extent.centre[2] * float(spacing[0]) for value, extent in extents.items() if extent.voxels},
    )


def _one_piece(mask: np.ndarray) -> bool:
    pieces = sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8)), True)
    sizes = np.bincount(voxels_of(pieces).ravel())[1:]
    return bool(sizes.max() >= ONE_PIECE * sizes.sum())


def _labels(entry: Any, path: Path) -> dict[int, str]:
    """Names by value from {"liver": 1} (version 2) or {"1": "liver"} (version 1)."""
    if not isinstance(entry, Mapping) or not entry:
        raise InputError(f"{path} names no labels.", _EXAMPLE)
    labels: dict[int, str] = {}
    for key, value in entry.items():
        number, name = (key, value) if str(key).isdigit() and isinstance(value, str) else (value, key)
        if isinstance(number, list):
            raise InputError(f"In {path} the label {name!r} is a region of several values.", "Give each value a name.")
        if not str(number).isdigit():
            raise InputError(f"In {path} the label {name!r} has no whole number: {number!r}.", _EXAMPLE)
        if str(name).lower() == "ignore":
            raise InputError(
                f"{path} has a label for what is to be ignored, which is not known here.", "Label these voxels."
            )
        if int(number):
            labels[int(number)] = plain(str(name))[:200]
    if not labels:
        raise InputError(f"{path} names no label but the background.", _EXAMPLE)
    if len(labels) > 255:
        raise InputError(f"{path} names {len(labels)} labels; 255 can be learnt.", "Leave some out.")
    return dict(sorted(labels.items()))


def _modality(entry: Any, path: Path) -> str:
    if isinstance(entry, Mapping) and len(entry) > 1:
        raise InputError(
            f"{path} lists {len(entry)} channels ({', '.join(map(str, entry.values()))}); one can be learnt from.",
            "Leave one in channel_names, number 0, whose files end in _0000.",
        )
    return plain(str(next(iter(entry.values()))))[:64] if isinstance(entry, Mapping) and entry else ""
