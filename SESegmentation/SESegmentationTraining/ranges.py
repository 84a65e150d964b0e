"""The ranges in which numbers of a recipe make sense, each with what is said of one outside."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from .fit_settings import OPTIMIZERS, Fit
from .slabs import Deformation
from .synthesis import FULL_SCALE, Contrast, Synthesis
from .transforms import THINNEST, IntensityAugmentation

#: whether it is valid, and what is said where it is not
Check = tuple[bool, str]


def of_fit(fit: Fit) -> list[Check]:
    """Of [fit]."""
    least = min(fit.weight_decay, fit.class_balance, fit.boundary, fit.dice, fit.checkpoint_seconds, fit.minutes)
    return [
        (fit.optimizer in OPTIMIZERS, f"[fit] optimizer is one of {', '.join(OPTIMIZERS)}, not {fit.optimizer!r}"),
        (fit.step_decays >= 0, "[fit] step_decays is a number, at least 0"),
        (0 < fit.learning_rate <= 1e30, "[fit] learning_rate is a number above 0, at most 1e30"),
        (
            least >= 0,
            "[fit] weight_decay, class_balance, boundary, dice, checkpoint_seconds and minutes are numbers, at least 0",
        ),
        (0 <= fit.average < 1 and 0 <= fit.momentum < 1, "[fit] average and momentum are numbers from 0, below 1"),
        (0 <= fit.rare_share <= 1, "[fit] rare_share is a number from 0 to 1"),
        (
            min(fit.warmup, fit.validate_every) >= 0 and fit.validation_batches > 0,
            "[fit] warmup and validate_every are at least 0, validation_batches above 0",
        ),
    ]


def of_deformation(deformation: Deformation) -> list[Check]:
    """Of [deformation]."""
    lengths = (*deformation.elastic_mm, deformation.shift_mm)
    return [
        (0 <= deformation.rotation_degrees <= 180, "[deformation] rotation_degrees is a number from 0 to 180"),
        (0 <= deformation.scale < 1, "[deformation] scale is a number from 0, below 1"),
        (_shares(deformation.share), "[deformation] share is a number from 0 to 1"),
        (_strengths(lengths), "[deformation] elastic_mm and shift_mm are numbers, at least 0"),
    ]


def of_augmentations(augmentations: Sequence[IntensityAugmentation]) -> list[Check]:
    """Of [augmentation], for each network."""
    return [
        (
            all(_shares(each.contrast, each.gain) for each in augmentations),
            "[augmentation] contrast and gain are numbers from 0 to 1",
        ),
        (
            all(
                _strengths((each.bias, each.blur_pixels, each.gamma, each.noise, each.structures, each.darkening))
                for each in augmentations
            ),
            "[augmentation] bias, blur_pixels, gamma, noise, structures and darkening are numbers, at least 0",
        ),
    ]


def of_synthesis(synthesis: Synthesis) -> list[Check]:
    """Of [synthesis] and its contrasts."""
    shares = (
        *("random_contrast", "wide", "stripped", "defaced", "cropped"),
        *("thick_share", "lesions", "vessels", "large_ventricles"),
    )
    drawn = sum(contrast.share for contrast in synthesis.contrasts)
    return [
        (
            _shares(*(getattr(synthesis, name) for name in shares)),
            f"[synthesis] {', '.join(shares)} are numbers from 0 to 1",
        ),
        (0 <= synthesis.saturation < 1, "[synthesis] saturation is a number from 0, below 1"),
        (
            0 <= synthesis.least_partial_volume <= synthesis.partial_volume < math.inf,
            "[synthesis] partial_volume is a number, at least least_partial_volume, and that at least 0",
        ),
        (
            THINNEST <= synthesis.thickest < math.inf,
            f"[synthesis] thickest is a number, at least {THINNEST}, the thickness of the thinnest thick slices",
        ),
        (drawn <= 1 + 1e-6, "the shares of [synthesis] contrasts add up to 1 at most"),
        *(check for contrast in synthesis.contrasts for check in _of_contrast(contrast)),
    ]


def _of_contrast(contrast: Contrast) -> list[Check]:
    name, (least, most), (low, high) = contrast.name, contrast.exponents, contrast.texture
    bright = all(0 <= mean <= FULL_SCALE and 0 <= deviation < math.inf for _, mean, deviation in contrast.means)
    return [
        (_shares(contrast.share, contrast.random_rest), f"share and random_rest of {name} are numbers from 0 to 1"),
        (bright, f"a mean of {name} is a number from 0 to {FULL_SCALE:g}, and its deviation at least 0"),
        (0 < least <= most < math.inf, f"exponents of {name} are two numbers above 0, the least first"),
        (0 <= low <= high < math.inf, f"texture of {name} is two numbers, at least 0, the least first"),
    ]


def _shares(*values: float) -> bool:
    return all(0 <= value <= 1 for value in values)


def _strengths(values: Iterable[float]) -> bool:
    return all(0 <= value < math.inf for value in values)
