"""Whole volumes made unlike those of the training, the way scanners and protocols do: for measuring, not for training.

Each shift takes intensities (k, j, i) of any range and gives new ones of the range 0 to 1, float32; the geometry stays,
and so does the truth. They are stronger than what networks see in training, or of another kind.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import SimpleITK as sitk

from ..inference.voxels import voxels_of

#: standard deviation of the logarithm of the bias field
BIAS = 0.5
#: standard deviation of the noise in each channel of the receiver, as a share of the brightest tissue
NOISE = 0.12
#: exponent that lifts grey matter up to white matter
FLATTENING = 3.0
#: slices that are averaged into one
THICKNESS = 4


def bias_field(unit: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A smooth field of sensitivity, as of a surface coil."""
    knots = sitk.GetImageFromArray(random.normal(size=(3, 3, 3)).astype(np.float32))
    size = unit.shape[::-1]
    spacing = [2 / max(n - 1, 1) for n in size]  # the outer knots lie on the outer voxels
    identity = sitk.Transform(3, sitk.sitkIdentity)
    field = sitk.GetArrayFromImage(sitk.Resample(knots, size, identity, sitk.sitkBSpline, (0.0,) * 3, spacing))
    return unit * np.exp(BIAS * (field - field.mean()) / field.std())


def noise(unit: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Rician noise, as in magnitude images of a fast or weak scanner (Gudbjartsson & Patz, MRM 1995)."""
    real, imaginary = NOISE * random.normal(size=(2, *unit.shape))
    return np.hypot(unit + real, imaginary)


def low_contrast(unit: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Grey matter nearly as bright as white matter, as with a badly chosen inversion time, and a little noise."""
    return 1 - (1 - unit) ** FLATTENING + 0.02 * random.normal(size=unit.shape)


def thick_slices(unit: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Axial slices averaged over ``THICKNESS``, interpolated again to the old distance."""
    numbers = np.arange(len(unit))
    blocks = (numbers + random.integers(THICKNESS)) // THICKNESS
    thick = np.stack([unit[blocks == block].mean(0) for block in np.unique(blocks)])
    centres = [numbers[blocks == block].mean() for block in np.unique(blocks)]
    position = np.interp(numbers, centres, np.arange(len(centres)))
    below = position.astype(int)
    above = np.minimum(below + 1, len(thick) - 1)
    share = (position - below)[:, None, None]
    return (1 - share) * thick[below] + share * thick[above]


def other_contrast(unit: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Dark tissue bright and bright tissue dark, as in T2-weighted images."""
    return 1 - unit


#: every shift by its name
SHIFTS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "bias field": bias_field,
    "noise": noise,
    "low contrast": low_contrast,
    "thick slices": thick_slices,
    "other contrast": other_contrast,
}


def shift_array(array: np.ndarray, name: str, seed: int) -> np.ndarray:
    """Intensities (k, j, i) under the shift ``name``; the same ``seed`` gives the same result."""
    array = array.astype(np.float32)
    low, high = np.percentile(array, (0.5, 99.5))
    unit = np.clip((array - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1)
    return SHIFTS[name](unit, np.random.default_rng(seed)).astype(np.float32)


def shift_volume(image: sitk.Image, name: str, seed: int) -> sitk.Image:
    """A volume under the shift ``name``, float32, on the same grid."""
    shifted = sitk.GetImageFromArray(shift_array(voxels_of(image), name, seed))
    shifted.CopyInformation(image)
    return shifted
