"""What an automatic recipe holds: everything but the number of steps, decided from a plain look at the data.

Axes are the patient's, 0 right-left, 1 posterior-anterior and 2 inferior-superior, unless arrays are spoken of.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from SESegmentationLib.errors import available_gigabytes
from SESegmentationLib.inference.cascade import LARGEST_CROP_MM
from SESegmentationLib.inference.device import choose_device, fast_precision
from SESegmentationLib.io.formats import SLICES
from SESegmentationLib.models.card import PLANES
from SESegmentationLib.progress import Progress, no_progress

from .dataset import find_cases, split_cases
from .fingerprint import Fingerprint, data_licence, extract_fingerprint, make_labels, mirrored_pairs
from .slabs import PLANE_AXES

#: if voxels are this many times as long as wide, only the plane of their short edges is used
ANISOTROPIC = 3.0
#: beyond this distance in mm neighbouring slices carry little information about each other
FARTHEST_NEIGHBOUR_MM = 10.0
#: bytes of memory for a pixel of a batch and a channel of the finest level, with a margin (measured: 180 saved for the
#: backward pass in single precision)
BYTES_PER_PIXEL = 400
#: bytes for a voxel of the training cases, image and label
BYTES_PER_VOXEL = 3
SPLIT_SEED = 2019
#: fewest cases with a structure from which its plausible volumes are estimated
FEW_VOLUMES = 5


@dataclass(frozen=True)
class Machine:
    """The device to train on.

    Attributes:
        device: where.
        gigabytes: of memory that may be used there, in GB.
        bf16: whether bfloat16 is fast there.
    """

    device: torch.device
    gigabytes: float
    bf16: bool

    @classmethod
    def of(cls, name: str = "auto") -> Machine:
        """The machine's device of that name, as training chooses it; DeviceError where there is none."""
        device = choose_device("cpu" if name == "auto" and not torch.cuda.is_available() else name)
        free = torch.cuda.mem_get_info(device)[0] / 1e9 if device.type == "cuda" else available_gigabytes() or 4.0
        return cls(device, 0.6 * free, fast_precision(device) == torch.bfloat16)

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.device.type == "cuda"


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
    cases = {case.name: case for case in find_cases(dataset)}
    group_pattern = same_patient(list(cases))
    validation, test = kept_out(len(cases))
    if (dataset / "labelsTs").is_dir():
        test = 0
    split = split_cases(list(cases), validation, test, SPLIT_SEED, group_pattern)
    fingerprint = extract_fingerprint(dataset, [cases[case] for case in split.training], progress)
    description = fingerprint.description
    pairs, alone = mirrored_pairs(description.labels)
    aside = [] if fingerprint.slices else [description.labels[value] for value in fingerprint.to_one_side(pairs)]
    across = thick_axis(fingerprint)
    spacing = choose_spacing(fingerprint, across, len(split.training), machine)
    extent = np.median(fingerprint.extents, axis=0)
    pixels = np.maximum(np.rint(extent / spacing), 1).astype(int)
    views = choose_views(spacing, across, fingerprint.slices, bool(pairs))
    levels, size = choose_size(pixels, views, machine)
    base = 32 if machine.is_gpu else 16
    phases, shares = choose_phases(size, levels, base, machine)
    intensity, augmentation = choose_intensity(fingerprint)
    seen = {value: ml for value in description.labels if len(ml := fingerprint.millilitres(value)) >= FEW_VOLUMES}
    plausible = {value: (_round(0.5 * min(ml)), _round(2 * max(ml))) for value, ml in seen.items()}
    labels = make_labels(description.labels, {} if fingerprint.slices else plausible)
    volumes = [float(np.mean(fingerprint.millilitres(value) or [0])) for value in description.labels]
    uneven = len(volumes) > 1 and max(volumes) > 4 * min(volumes)
    patch_mm = np.array(size) * min(spacing)
    beyond = [
        np.median(fingerprint.extents, axis=0)[axis] - patch_mm.min() for view in views for axis in _in_plane(view)
    ]
    kind = SLICES if fingerprint.slices else "crop" if (fingerprint.extents < LARGEST_CROP_MM).all() else "volume"
    whole = [] if fingerprint.slices else fingerprint.in_one_piece()
    entries = {
        "name": name,
        "network": {
            "type": "PyramidUNet",
            "channels": [base * 2**level for level in range(levels)],
            "se": "scSE",
            "dropout": 0.1 if len(split.training) < 20 else 0.05,
        },
        "data": {
            "source": "folder",
            "validation": validation,
            "test": test,
            "split_seed": SPLIT_SEED,
            "group_pattern": group_pattern,
            "mirrored_pairs": [list(pair) for pair in pairs],
        },
        "deformation": {
            "rotation_degrees": 15.0,
            "scale": 0.15,
            "elastic_mm": [_round(0.03 * patch_mm.min()), _round(0.012 * patch_mm.min())],
            "shift_mm": _round(max(0.1 * patch_mm.min(), max(beyond) / 2)),
            "mirror": not (alone or aside),
            "share": 0.8,
            "in_plane": across is not None,
        },
        "augmentation": augmentation,
        "fit": {
            "seed": 1,
            "learning_rate": 2e-3,
            "class_balance": 0.25 if uneven else 0.0,
            "rare_share": 0.6 if uneven else 0.4,
            "bf16": machine.bf16,
            "validation_batches": 8,
        },
        "phases": phases,
        "card": {
            "title": f"{name} ({description.modality})" if description.modality else name,
            "version": "1.0.0",
            "summary": f"{_names([label.name for label in labels])} in {description.modality or 'images'}.",
            "modality": "CT" if fingerprint.is_ct else "MR" if is_mr(fingerprint) else "OT",
            "contrast": "" if fingerprint.is_ct else description.modality,
            "spacing": spacing.tolist(),
            "intensity": intensity,
            "margin_mm": 10.0,
            "input": {
                "kind": kind,
                "extent_mm": None if fingerprint.pictures else _expected(fingerprint.extents),
                "limits": [
                    f"Trained on {len(split.training)} cases of one dataset; images of other kinds were not measured.",
                    "Not a medical device; a trained person must review every result.",
                ],
            },
            "cleanup": {"largest_component": whole, "fill_holes": False},
            "merged_pairs": [list(pair) for pair in pairs],
            "training": {"data": description.about},
            "licence": data_licence(description.licence),
            "views": views,
            "labels": [label.to_dict() for label in labels],
        },
    }
    per_view = [pixels[_axis(view["plane"])] for view in views]
    most = max(200 * len(split.training) * sum(per_view) // phases[-1]["batch"], 1)
    reasons = [
        f"{len(cases)} cases: {len(split.training)} for training, {len(split.validation)} for validation, "
        f"{len(split.test)} for test"
        + (f"; cases that begin alike ({group_pattern}) stay together" if group_pattern else ""),
        f"grid {_by(spacing)} mm: the cases' median is {_by(fingerprint.spacing)} mm; {_by(pixels)} voxels",
        _why_views(views, across),
        f"intensities: {_why_intensity(intensity)}; modality {description.modality or 'not stated'}",
        f"mirrored: {_why_mirror(pairs, alone, aside)}",
        f"network: {levels} levels from {base} channels, slices of {size[0]} x {size[1]} pixels, for "
        f"{machine.gigabytes:.0f} GB on {machine.device.type}",
        f"class balance: {'volumes of labels differ more than fourfold' if uneven else 'none needed'}",
    ]
    return RecipeDraft(entries, reasons, shares, int(most))


def kept_out(cases: int) -> tuple[int, int]:
    """How many of ``cases`` to keep out for validation and for test: none of very few, a share of many, at most 40."""
    if cases < 4:
        return 0, 1 if cases == 3 else 0
    return min(max(round(0.1 * cases), 1), 20), min(max(round(0.2 * cases), 1), 40)


def same_patient(names: Sequence[str]) -> str:
    """A regular expression that groups cases of one patient by name: "P07_12" and "P07_13" belong together.

    Empty if names do not tell: all cases have the same name apart from the last number, or no two have.
    """
    expression = r"(.+)[_-]\d+$"
    found = [re.match(expression, name) for name in names]
    patients = {match[1] for match in found if match}
    return expression if all(found) and 3 <= len(patients) < len(names) else ""


def thick_axis(fingerprint: Fingerprint) -> int | None:
    """Axis along which slices are thick or single, or None."""
    if fingerprint.slices:
        return 2
    axis = int(np.argmax(fingerprint.spacing))
    return axis if fingerprint.spacing[axis] >= ANISOTROPIC * fingerprint.spacing.min() else None


def choose_spacing(fingerprint: Fingerprint, across: int | None, cases: int, machine: Machine) -> np.ndarray:
    """Voxel size (3) of the grid in mm: the median, coarser in the slices' plane where it would be too many voxels.

    Args:
        across: see :func:`thick_axis`.
        cases: that are kept in memory.
    """
    spacing = fingerprint.spacing.copy()
    if fingerprint.slices:
        return spacing.round(4)
    axes = [axis for axis in range(3) if axis != across]
    median = np.median(fingerprint.extents, axis=0)
    longest = 512 if machine.is_gpu else 256
    factor = max(1.0, float((median[axes] / spacing[axes]).max()) / longest)
    voxels = cases * float(np.mean(np.prod(fingerprint.extents, axis=1))) / float(np.prod(spacing * factor))
    room = 0.5 * machine.gigabytes * 1e9 / BYTES_PER_VOXEL
    factor *= max(1.0, voxels / room) ** (1 / len(axes))
    spacing[axes] *= factor
    return spacing.round(2 if spacing.min() > 0.5 else 4)


def choose_views(spacing: np.ndarray, across: int | None, slices: bool, paired: bool) -> list[dict[str, Any]]:
    """Views of the card: all planes, or that of thick slices alone.

    In sagittal slices left and right look alike; they are one class there where labels have sides (``paired``).
    """
    planes = PLANES if across is None else [plane for plane in PLANES if _axis(plane) == across]
    near = not slices and (across is None or spacing[across] <= FARTHEST_NEIGHBOUR_MM)
    areas = [float(np.prod(np.delete(spacing, _axis(plane)))) for plane in planes]
    views = []
    for plane, area in zip(planes, areas, strict=True):
        merged = plane == "sagittal" and paired and across is None
        weight = 0.5 if merged or area > 1.5 * min(areas) else 1.0
        thickness = 3 if near else 1
        views.append({"plane": plane, "weight": weight, "network": "planes", "thickness": thickness, "merged": merged})
    return views


def choose_size(pixels: np.ndarray, views: Sequence[dict[str, Any]], machine: Machine) -> tuple[int, tuple[int, int]]:
    """Levels of the network, and height and width of the slices that it is trained on."""
    largest = 320 if machine.is_gpu else 192
    height, width = (min(max(pixels[_in_plane(view)[side]] for view in views), largest) for side in (0, 1))
    levels = int(np.clip(math.log2(max(min(height, width), 1) / 6) + 1, 2, 5))
    stride = 2 ** (levels - 1)
    return levels, (-(-int(height) // stride) * stride, -(-int(width) // stride) * stride)


def choose_phases(
    size: tuple[int, int], levels: int, base: int, machine: Machine
) -> tuple[list[dict[str, Any]], list[float]]:
    """Phases of one step each and their shares of the time: coarse first, where slices are large."""
    fitting = 0.5 * machine.gigabytes * 1e9 / (BYTES_PER_PIXEL * base)
    pixels = min(1_500_000 if machine.is_gpu else 75_000, fitting)

    def phase(height: int, width: int, spacing: float) -> dict[str, Any]:
        batch = int(np.clip(pixels / (height * width), 2, 64 if machine.is_gpu else 16))
        return {"steps": 1, "batch": batch, "size": [height, width], "spacing": spacing}

    if min(size) < 96:
        return [phase(*size, 1.0)], [1.0]
    stride = 2 ** (levels - 1)
    height, width = (-(-side // (2 * stride)) * stride for side in size)
    return [phase(height, width, 2.0), phase(*size, 1.0)], [0.4, 0.6]


def choose_intensity(fingerprint: Fingerprint) -> tuple[dict[str, Any], dict[str, Any]]:
    """The card's recipe for the intensities, and the strength of their random augmentation.

    CT: a window from the labelled voxels' 0.5th to 99.5th percentile (as nnU-Net clips: Isensee et al., Nature Methods
    2021). All else: percentiles of each image by itself, of its foreground where there is much background.
    """
    if fingerprint.is_ct:
        low, high = np.floor(fingerprint.labelled_percentiles((0.5, 99.5)) / 10) * 10 + (0, 10)
        window = {"type": "window", "lower": float(low), "upper": float(high)}
        return window, {"bias": 0.0, "blur_pixels": 0.7, "gamma": 0.1, "noise": 0.05, "gain": 0.05}
    recipe: dict[str, Any] = {"type": "percentile", "lower": 0.5, "upper": 99.5}
    if np.median([case.zeros for case in fingerprint.cases]) > 0.2:
        recipe |= {"lower": 0.0, "foreground": "nonzero"}
    elif is_mr(fingerprint) and (fingerprint.extents >= LARGEST_CROP_MM).any():
        recipe |= {"lower": 0.0, "foreground": "bright"}
    return recipe, {"bias": 0.25, "blur_pixels": 0.8, "gamma": 0.25, "noise": 0.06, "gain": 0.15}


def is_mr(fingerprint: Fingerprint) -> bool:
    """Whether the images are MRI: by the channel's name ("MRI", "T1", "FLAIR", ...), which must begin so."""
    return re.match(r"(mr|t1|t2|pd|flair|dwi|adc|dce|swi)", fingerprint.description.modality.lower()) is not None


def _axis(plane: str) -> int:
    """Axis along which a plane's slices are stacked."""
    return 2 - PLANE_AXES[plane][0]


def _in_plane(view: dict[str, Any]) -> tuple[int, int]:
    """Axes of a view's rows and columns (height and width of its slices)."""
    _, rows, columns = PLANE_AXES[view["plane"]]
    return 2 - rows, 2 - columns


def _expected(extents: np.ndarray) -> list[list[float]]:
    """Smallest and largest extent in mm to be expected along each axis, a little beyond those seen."""
    ends = zip(extents.min(0), extents.max(0), strict=True)
    return [[float(np.floor(0.7 * low)), float(np.ceil(1.4 * high))] for low, high in ends]


def _round(value: float) -> float:
    return float(f"{value:.2g}")


def _by(numbers: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{number:g}" for number in np.round(numbers, 4))


def _names(names: Sequence[str]) -> str:
    listed = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return listed[:1].upper() + listed[1:]


def _why_intensity(intensity: dict[str, Any]) -> str:
    ends = f"{intensity['lower']:g} to {intensity['upper']:g}"
    if intensity["type"] == "window":
        return f"{ends}, the labelled voxels' range"
    return f"percentiles {ends} of {intensity.get('foreground', 'all')} voxels"


def _why_views(views: Sequence[dict[str, Any]], across: int | None) -> str:
    planes = ", ".join(view["plane"] for view in views)
    why = "voxels are about as long as wide" if across is None else "slices are thick or single"
    return f"views: {planes}, {views[0]['thickness']} slices at once: {why}"


def _why_mirror(pairs: Sequence[tuple[int, int]], alone: Sequence[str], aside: Sequence[str]) -> str:
    if alone:
        return f"no: {', '.join(alone)} has a side and no counterpart"
    if aside:  # in a mirror image nothing would tell the sides of the pairs
        return f"no: left and right are told by what lies to one side: {', '.join(aside)}"
    return f"yes: labels that change sides: {len(pairs)} pair(s)" if pairs else "yes: no label has a side"
