"""A look at a dataset in nnU-Net's layout: description, labels, licence, and what its training cases are like."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from SESegmentationLib.errors import InputError
from SESegmentationLib.files.json_files import LONGEST, read_json
from SESegmentationLib.geometry import find_extents
from SESegmentationLib.inference.input_checks import is_hounsfield
from SESegmentationLib.io.formats import is_picture
from SESegmentationLib.io.volume_image import voxels_of
from SESegmentationLib.models.labels import LEFT, RIGHT, Code, Label, known_structure, split_side, structure_label
from SESegmentationLib.models.licence import OWN_DATA
from SESegmentationLib.plain_text import plain
from SESegmentationLib.progress import Progress, no_progress

from .dataset import Case, read_case

#: words of structures whose left and right differ in anatomy, so that mirroring must not exchange their labels
CHAMBERS = {"ventricle", "ventricles", "ventricular", "atrium", "atria", "atrial", "heart", "myocardium", "lobe"}
#: what Slicer calls a segment of which nothing is known
TISSUE = Code("85756007", "SCT", "Tissue")
#: licences by how they begin, without punctuation: SPDX identifier, name, whether any use is allowed. The first counts
_KNOWN = (
    ("cc0", "CC0-1.0", "Creative Commons Zero 1.0", True),
    ("cc by nc sa", "CC-BY-NC-SA-4.0", "Creative Commons Attribution-NonCommercial-ShareAlike 4.0", False),
    ("cc by nc nd", "CC-BY-NC-ND-4.0", "Creative Commons Attribution-NonCommercial-NoDerivatives 4.0", False),
    ("cc by nc", "CC-BY-NC-4.0", "Creative Commons Attribution-NonCommercial 4.0", False),
    ("cc by nd", "CC-BY-ND-4.0", "Creative Commons Attribution-NoDerivatives 4.0", False),
    ("cc by sa", "CC-BY-SA-4.0", "Creative Commons Attribution-ShareAlike 4.0", True),
    ("cc by", "CC-BY-4.0", "Creative Commons Attribution 4.0", True),
    ("apache", "Apache-2.0", "Apache License 2.0", True),
    ("mit", "MIT", "MIT License", True),
)
DESCRIPTION_NAME = "dataset.json"
#: more cases are not looked at
MOST_CASES = 20
#: labelled voxels taken from each case, for percentiles
SAMPLE = 20_000
#: largest value that a label of a model can have
LARGEST_VALUE = 65535
#: share of a label's voxels in its largest piece above which it counts as one piece
ONE_PIECE = 0.99
#: distance from the plane between the two sides, relative to theirs, from which on a label lies to one side
TO_ONE_SIDE = 0.5
_EXAMPLE = 'It should look like {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}}.'


def mirrored_pairs(names: Mapping[int, str]) -> tuple[list[tuple[int, int]], list[str]]:
    """Pairs of labels that change places in a mirror, found by their names.

    Args:
        names: by value.

    Returns:
        (left value, right value) of each pair; and the names that have a side but no counterpart. With any of these
        volumes must not be mirrored.
    """
    by_structure: dict[str, dict[str, int]] = {}
    alone = []
    for value, name in names.items():
        side, structure = split_side(name)
        if side is None:
            continue
        words = set(structure.split())
        if words & CHAMBERS and "lateral" not in words:
            alone.append(name)
        else:
            by_structure.setdefault(structure, {})[side.value] = value
    pairs = [(sides[LEFT.value], sides[RIGHT.value]) for sides in by_structure.values() if len(sides) == 2]
    alone += [names[value] for sides in by_structure.values() if len(sides) == 1 for value in sides.values()]
    return sorted(pairs), alone


def make_labels(names: Mapping[int, str], plausible_ml: Mapping[int, tuple[float, float]]) -> list[Label]:
    """Labels of a card: with SNOMED CT codes where the names are known, else as tissue; in distinct colours.

    Args:
        names: by value.
        plausible_ml: by value, where known.
    """
    labels: list[Label] = []
    structures = [split_side(name)[1] for name in names.values()]
    for value, name in names.items():
        side, structure = split_side(name)
        known = known_structure(structure)
        plausible = plausible_ml.get(value)
        if known and structures.count(structure) <= 2 and not _named(labels, known, side):
            labels.append(structure_label(value, known, side, plausible))
        else:
            plain = re.sub(r"[\s_]+", " ", name).strip()
            color = _color(structures.index(structure))
            labels.append(Label(value, plain, TISSUE, TISSUE, side, color, plausible))
    return labels


def _named(labels: list[Label], structure: str, side: Code | None) -> bool:
    name = f"{side.meaning.lower()} {structure}" if side else structure
    return any(label.name == name for label in labels)


def _color(number: int) -> tuple[int, int, int]:
    """The colour of that number: hues a golden section apart, so that neighbours differ."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.65, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)


def data_licence(stated: str) -> dict[str, Any]:
    """The "licence" entry of a card for a model trained on data under the licence ``stated``, as their owner writes it.

    A licence that is not stated or not known here counts as not free: whoever distributes the model must state it.
    """
    words = " ".join(re.split(r"[^a-z0-9]+", stated.lower())).strip()
    words = words.replace("creative commons ", "cc ").replace("attribution ", "by ").replace("ccby", "cc by")
    version = re.search(r"\d\.\d", stated)
    for beginning, spdx, name, free in _KNOWN:
        if re.match(rf"{beginning}\b", words):
            if version and spdx.startswith("CC-BY"):
                spdx, name = (text.replace("4.0", version[0]) for text in (spdx, name))
            url = f"https://spdx.org/licenses/{spdx}.html"
            attribution = f"Trained on data under {stated}."
            return {"spdx": spdx, "name": name, "free": free, "attribution": attribution, "url": url}
    about = f"The training data's licence: {stated}." if stated else "The licence of the training data is not stated."
    return {
        "spdx": OWN_DATA,
        "name": "As the training data allow",
        "free": False,
        "attribution": f"{about} State the terms before you distribute this model.",
    }


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


def extract_fingerprint(dataset: Path, cases: Sequence[Case], progress: Progress = no_progress) -> Fingerprint:
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
    found, flat = [], set()
    for number, case in enumerate(chosen):
        progress(f"look at {case.name}", number / len(chosen), None)
        image, labels = read_case(case, description.structures, (1.0, 1.0, 1.0), DESCRIPTION_NAME)
        single = is_picture(case.image) or image.GetSize()[2] == 1
        flat.add(single)
        found.append(_case_fingerprint(image, labels, description, single))
    if len(pictures) > 1 or len(flat) > 1:
        raise InputError(f"{dataset} mixes single slices and volumes.", "Make a dataset of each.")
    return Fingerprint(description, found, flat == {True}, pictures == {True})


def _case_fingerprint(image: sitk.Image, labels: sitk.Image, description: Description, single: bool) -> CaseLook:
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
        number, name = (key, value) if str(key).isdecimal() and isinstance(value, str) else (value, key)
        if isinstance(number, list):
            raise InputError(f"In {path} the label {name!r} is a region of several values.", "Give each value a name.")
        if not str(number).isdecimal():
            raise InputError(f"In {path} the label {name!r} has no whole number: {number!r}.", _EXAMPLE)
        if str(name).lower() == "ignore":
            raise InputError(
                f"{path} has a label for what is to be ignored, which is not known here.", "Label these voxels."
            )
        name = plain(str(name)).strip()[:200]
        if not int(number):
            continue
        if not name:
            raise InputError(f"In {path} the label {number} has no name.", "Name it.")
        if int(number) > LARGEST_VALUE:
            raise InputError(
                f"In {path} the label {name!r} has the value {number}, above {LARGEST_VALUE}.",
                "Give it a smaller value, in the labels too.",
            )
        if int(number) in labels:
            raise InputError(
                f"In {path} {labels[int(number)]!r} and {name!r} have the same value {number}.",
                "Give each value one name.",
            )
        if name.lower() in map(str.lower, labels.values()):
            raise InputError(f"In {path} two labels are called {name!r}.", "Give each value a name of its own.")
        labels[int(number)] = name
    if not labels:
        raise InputError(f"{path} names no label but the background.", _EXAMPLE)
    if len(labels) > 255:
        raise InputError(f"{path} names {len(labels)} labels; 255 can be learnt.", "Leave some out.")
    return dict(sorted(labels.items()))


def _modality(entry: Any, path: Path) -> str:
    if isinstance(entry, list):
        entry = dict(enumerate(entry))
    if isinstance(entry, Mapping) and len(entry) > 1:
        raise InputError(
            f"{path} lists {len(entry)} channels ({', '.join(map(str, entry.values()))}); one can be learnt from.",
            "Leave one in channel_names, number 0, whose files end in _0000.",
        )
    return plain(str(next(iter(entry.values()))))[:64] if isinstance(entry, Mapping) and entry else ""
