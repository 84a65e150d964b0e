"""The rules of the automatic recipe: each chooses one thing from a plain look at the data; :mod:`.recipe_draft` asks.

Axes are the patient's, 0 right-left, 1 posterior-anterior and 2 inferior-superior, unless arrays are spoken of.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from SESegmentationLib.inference.cascade import LARGEST_CROP_MM
from SESegmentationLib.inference.device import choose_device, fast_precision
from SESegmentationLib.memory import available_gigabytes
from SESegmentationLib.models.card import PLANES

from .fingerprint import Fingerprint
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
    planes = PLANES if across is None else [plane for plane in PLANES if axis_of(plane) == across]
    near = not slices and (across is None or spacing[across] <= FARTHEST_NEIGHBOUR_MM)
    areas = [float(np.prod(np.delete(spacing, axis_of(plane)))) for plane in planes]
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
    height, width = (min(max(pixels[axes_in_plane(view["plane"])[side]] for view in views), largest) for side in (0, 1))
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


def axis_of(plane: str) -> int:
    """Axis along which a plane's slices are stacked."""
    return 2 - PLANE_AXES[plane][0]


def axes_in_plane(plane: str) -> tuple[int, int]:
    """Axes of the rows and columns of a plane's slices (their height and width)."""
    _, rows, columns = PLANE_AXES[plane]
    return 2 - rows, 2 - columns
