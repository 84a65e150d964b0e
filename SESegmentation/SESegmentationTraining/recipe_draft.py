"""The automatic recipe without its number of steps: data are examined, choices made, and both are put into entries."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from SESegmentationLib.errors import InputError
from SESegmentationLib.inference.cascade import LARGEST_CROP_MM
from SESegmentationLib.models import Label
from SESegmentationLib.models.card import SLICES
from SESegmentationLib.plain_text import counted, some_of
from SESegmentationLib.progress import Progress, no_progress

from .choices import (
    Machine,
    axes_in_plane,
    axis_of,
    choose_intensity,
    choose_phases,
    choose_size,
    choose_spacing,
    choose_views,
    is_mr,
    kept_out,
    same_patient,
    thick_axis,
)
from .dataset import Split, find_cases, split_cases
from .fingerprint import Fingerprint, data_licence, extract_fingerprint, make_labels, mirrored_pairs

SPLIT_SEED = 2019
#: fewest cases with a structure from which its plausible volumes are estimated
FEW_VOLUMES = 5


@dataclass(frozen=True)
class RecipeDraft:
    """An automatic recipe before its steps are counted.

    Attributes:
        entries: of the recipe; each phase has 1 step.
        reasons: why, a line each.
        shares: of the time, by phase.
        most_steps: of all phases together, that the number of slices justifies.
    """

    entries: dict[str, Any]
    reasons: list[str]
    shares: list[float]
    most_steps: int


def draft_recipe(dataset: Path, name: str, machine: Machine, progress: Progress = no_progress) -> RecipeDraft:
    """Examine ``dataset`` and draft a recipe for it.

    Args:
        dataset: folder in nnU-Net's layout, with ``dataset.json``.
        name: of the model.
        machine: to train on.

    Raises:
        InputError: the dataset cannot be used.
    """
    data = _Data.examined(dataset, progress)
    chosen = _Chosen.made(data, machine)
    entries = {
        "name": name,
        "network": _network(data, chosen),
        "data": _split(data),
        "deformation": _deformation(data, chosen),
        "augmentation": chosen.augmentation,
        "fit": _fit(data, machine),
        "phases": chosen.phases,
        "card": _card(name, data, chosen),
    }
    return RecipeDraft(entries, _reasons(data, chosen, machine), chosen.shares, _most_steps(data, chosen))


@dataclass(frozen=True)
class _Data:
    """What is known of a dataset.

    Attributes:
        split: of its cases.
        validation, test: how many cases were to be kept out for each.
        group_pattern: regular expression that finds the patient in the name of a case; empty where names do not tell.
        fingerprint: of the cases for training.
        pairs: labels that change sides in a mirror image.
        alone: names of labels that have a side and no counterpart.
        aside: names of labels that lie to one side, and so tell left from right.
    """

    split: Split
    validation: int
    test: int
    group_pattern: str
    fingerprint: Fingerprint
    pairs: list[tuple[int, int]]
    alone: list[str]
    aside: list[str]

    @classmethod
    def examined(cls, dataset: Path, progress: Progress) -> _Data:
        """The data of a folder; InputError where they cannot be used."""
        cases = {case.name: case for case in find_cases(dataset)}
        group_pattern = same_patient(list(cases))
        validation, test = kept_out(len(cases))
        if (dataset / "labelsTs").is_dir():
            test = 0
        validation, test, split = _split_most_for_training(list(cases), validation, test, group_pattern)
        fingerprint = extract_fingerprint(dataset, [cases[case] for case in split.training], progress)
        names = fingerprint.description.labels
        pairs, alone = mirrored_pairs(names)
        aside = [] if fingerprint.slices else [names[value] for value in fingerprint.to_one_side(pairs)]
        return cls(split, validation, test, group_pattern, fingerprint, pairs, alone, aside)

    @property
    def extent(self) -> np.ndarray:
        """Of a usual case, (3,) in mm."""
        return np.median(self.fingerprint.extents, axis=0)

    @property
    def is_uneven(self) -> bool:
        """Whether the structures' mean volumes differ more than fourfold."""
        values = self.fingerprint.description.labels
        volumes = [float(np.mean(self.fingerprint.millilitres(value) or [0])) for value in values]
        return len(volumes) > 1 and max(volumes) > 4 * min(volumes)

    def labels(self) -> list[Label]:
        """The labels of the card, with the volumes that are plausible for structures of enough cases."""
        names = self.fingerprint.description.labels
        if self.fingerprint.slices:
            return make_labels(names, {})
        seen = {value: ml for value in names if len(ml := self.fingerprint.millilitres(value)) >= FEW_VOLUMES}
        return make_labels(names, {value: (_round(0.5 * min(ml)), _round(2 * max(ml))) for value, ml in seen.items()})


@dataclass(frozen=True)
class _Chosen:
    """What is chosen for a dataset and a machine; see the functions of :mod:`.choices`.

    Attributes:
        across: axis along which slices are thick or single, or None.
        spacing: of the grid, (3,) in mm.
        pixels: (3,) of a usual case on that grid.
        views: of the card.
        levels: of the network.
        base: its channels on the finest level.
        size: height and width of the slices that it is trained on.
        phases: of the training, one step each.
        shares: of the time, by phase.
        intensity: the card's recipe for the intensities.
        augmentation: of the intensities.
    """

    across: int | None
    spacing: np.ndarray
    pixels: np.ndarray
    views: list[dict[str, Any]]
    levels: int
    base: int
    size: tuple[int, int]
    phases: list[dict[str, Any]]
    shares: list[float]
    intensity: dict[str, Any]
    augmentation: dict[str, Any]

    @classmethod
    def made(cls, data: _Data, machine: Machine) -> _Chosen:
        """The choices for these data."""
        fingerprint = data.fingerprint
        across = thick_axis(fingerprint)
        spacing = choose_spacing(fingerprint, across, len(data.split.training), machine)
        pixels = np.maximum(np.rint(data.extent / spacing), 1).astype(int)
        views = choose_views(spacing, across, fingerprint.slices, bool(data.pairs))
        levels, size = choose_size(pixels, views, machine)
        base = 32 if machine.is_gpu else 16
        return cls(
            across,
            spacing,
            pixels,
            views,
            levels,
            base,
            size,
            *choose_phases(size, levels, base, machine),
            *choose_intensity(fingerprint),
        )

    @property
    def patch_mm(self) -> float:
        """The shorter side of a training slice."""
        return float((np.array(self.size) * min(self.spacing)).min())


def _network(data: _Data, chosen: _Chosen) -> dict[str, Any]:
    return {
        "type": "PyramidUNet",
        "channels": [chosen.base * 2**level for level in range(chosen.levels)],
        "se": "scSE",
        "dropout": 0.1 if len(data.split.training) < 20 else 0.05,
    }


def _split(data: _Data) -> dict[str, Any]:
    return {
        "source": "folder",
        "validation": data.validation,
        "test": data.test,
        "split_seed": SPLIT_SEED,
        "group_pattern": data.group_pattern,
        "mirrored_pairs": [list(pair) for pair in data.pairs],
    }


def _deformation(data: _Data, chosen: _Chosen) -> dict[str, Any]:
    side = chosen.patch_mm
    beyond = [data.extent[axis] - side for view in chosen.views for axis in axes_in_plane(view["plane"])]
    return {
        "rotation_degrees": 15.0,
        "scale": 0.15,
        "elastic_mm": [_round(0.03 * side), _round(0.012 * side)],
        "shift_mm": _round(max(0.1 * side, max(beyond) / 2)),  # so that all of a case is seen
        "mirror": not (data.alone or data.aside),
        "share": 0.8,
        "in_plane": chosen.across is not None,
    }


def _fit(data: _Data, machine: Machine) -> dict[str, Any]:
    return {
        "seed": 1,
        "learning_rate": 2e-3,
        "warmup": 0,  # as steps, until they are counted
        "class_balance": 0.25 if data.is_uneven else 0.0,
        "rare_share": 0.6 if data.is_uneven else 0.4,
        "bf16": machine.bf16,
        "validation_batches": 8,
    }


def _card(name: str, data: _Data, chosen: _Chosen) -> dict[str, Any]:
    fingerprint, labels = data.fingerprint, data.labels()
    about = fingerprint.description
    kind = SLICES if fingerprint.slices else "crop" if (fingerprint.extents < LARGEST_CROP_MM).all() else "volume"
    return {
        "title": f"{name} ({about.modality})" if about.modality else name,
        "version": "1.0.0",
        "summary": f"{_names([label.name for label in labels])} in {about.modality or 'images'}.",
        "modality": "CT" if fingerprint.is_ct else "MR" if is_mr(fingerprint) else "OT",
        "contrast": "" if fingerprint.is_ct else about.modality,
        "spacing": chosen.spacing.tolist(),
        "intensity": chosen.intensity,
        "margin_mm": 10.0,
        "input": {
            "kind": kind,
            "extent_mm": None if fingerprint.pictures else _expected(fingerprint.extents),
            "limits": [
                f"Trained on {len(data.split.training)} cases of one dataset; images of other kinds were not measured.",
                "Not a medical device; a trained person must review every result.",
            ],
        },
        "cleanup": {"largest_component": [] if fingerprint.slices else fingerprint.in_one_piece(), "fill_holes": False},
        "merged_pairs": [list(pair) for pair in data.pairs],
        "training": {"data": about.about},
        "licence": data_licence(about.licence),
        "views": chosen.views,
        "labels": [label.to_dict() for label in labels],
    }


def _most_steps(data: _Data, chosen: _Chosen) -> int:
    """As many as show each slice of the training cases 200 times, in batches of the last phase."""
    slices = len(data.split.training) * sum(chosen.pixels[axis_of(view["plane"])] for view in chosen.views)
    return int(max(200 * slices // chosen.phases[-1]["batch"], 1))


def _reasons(data: _Data, chosen: _Chosen, machine: Machine) -> list[str]:
    split, spacing, modality = data.split, data.fingerprint.spacing, data.fingerprint.description.modality
    cases = len(split.training) + len(split.validation) + len(split.test)
    return [
        f"{counted(cases, 'case')}: {len(split.training)} for training, {len(split.validation)} for validation, "
        f"{len(split.test)} for test"
        + (f"; cases that begin alike ({data.group_pattern}) stay together" if data.group_pattern else ""),
        f"grid {_by(chosen.spacing)} mm: the cases' median is {_by(spacing)} mm; {_by(chosen.pixels)} voxels",
        _why_views(chosen.views, chosen.across),
        f"intensities: {_why_intensity(chosen.intensity)}; modality {modality or 'not stated'}",
        f"mirrored: {_why_mirror(data)}",
        f"network: {chosen.levels} levels from {chosen.base} channels, slices of {chosen.size[0]} x {chosen.size[1]} "
        f"pixels, for {machine.gigabytes:.0f} GB on {machine.device.type}",
        f"class balance: {'volumes of labels differ more than fourfold' if data.is_uneven else 'none needed'}",
    ]


def _why_views(views: Sequence[dict[str, Any]], across: int | None) -> str:
    planes = ", ".join(view["plane"] for view in views)
    why = "voxels are about as long as wide" if across is None else "slices are thick or single"
    return f"views: {planes}, {views[0]['thickness']} slices at once: {why}"


def _why_intensity(intensity: dict[str, Any]) -> str:
    ends = f"{intensity['lower']:g} to {intensity['upper']:g}"
    if intensity["type"] == "window":
        return f"{ends}, the labelled voxels' range"
    return f"percentiles {ends} of {intensity.get('foreground', 'all')} voxels"


def _why_mirror(data: _Data) -> str:
    if data.alone:
        return f"no: {', '.join(data.alone)} has a side and no counterpart"
    if data.aside:  # in a mirror image nothing would tell the sides of the pairs
        return f"no: left and right are distinguished by what lies on one side: {', '.join(data.aside)}"
    return f"yes: labels that change sides: {len(data.pairs)} pair(s)" if data.pairs else "yes: no label has a side"


def _expected(extents: np.ndarray) -> list[list[float]]:
    """Smallest and largest extent in mm to be expected along each axis, a little beyond those seen."""
    ends = zip(extents.min(0), extents.max(0), strict=True)
    return [[float(np.floor(0.7 * low)), float(np.ceil(1.4 * high))] for low, high in ends]


def _names(names: Sequence[str]) -> str:
    listed = some_of(names, 6)
    return listed[:1].upper() + listed[1:]


def _round(value: float) -> float:
    return float(f"{value:.2g}")


def _by(numbers: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{number:g}" for number in np.round(numbers, 4))


def _split_most_for_training(
    names: Sequence[str], validation: int, test: int, group_pattern: str
) -> tuple[int, int, Split]:
    """How many cases to keep out, fewer where patients of many cases would leave less than half; and the split."""
    for numbers in ((validation, test), (0, test), (0, min(test, 1))):
        with suppress(InputError):  # nothing would be left
            split = split_cases(names, *numbers, SPLIT_SEED, group_pattern)
            if 2 * len(split.training) >= len(names):
                return *numbers, split
    return 0, 0, split_cases(names, 0, 0, SPLIT_SEED, group_pattern)
