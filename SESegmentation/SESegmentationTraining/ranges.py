"""The ranges in which numbers of a recipe make sense, each with what is said of one outside.

The upper ends are far above what anybody trains with: beyond them images hold nothing any more, or numbers overflow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from .fit_settings import OPTIMIZERS, Fit
from .slabs import Deformation
from .synthesis import FULL_SCALE, Contrast, Synthesis
from .transforms import THINNEST, IntensityAugmentation

if TYPE_CHECKING:
    from .recipe import Phase

#: pixels of a phase relative to the model's, and how many of them, or slabs, there are along one axis
FINEST, COARSEST, MOST_PIXELS = 0.1, 16.0, 4096
#: in mm
FARTHEST = 1000.0
#: of logarithms: factors of e^5 are 150
LARGEST_LOG = 5.0
#: of standard deviations of blurs in pixels, of thicknesses in voxels, and of exponents
WIDEST = 100.0
#: of a standard deviation of noise, where intensities are about 1
NOISIEST = 10.0
#: of exponents of class weights, and of weights of parts of the loss
LARGEST_EXPONENT, HEAVIEST = 10.0, 1000.0
#: whether it is valid, and what is said where it is not
Check = tuple[bool, str]


def of_fit(fit: Fit) -> list[Check]:
    """Of [fit]."""
    return [
        (fit.optimizer in OPTIMIZERS, f"[fit] optimizer is one of {', '.join(OPTIMIZERS)}, not {fit.optimizer!r}"),
        (fit.step_decays >= 0, "[fit] step_decays is a number, at least 0"),
        (0 < fit.learning_rate <= 1e30, "[fit] learning_rate is a number above 0, at most 1e30"),
        (
            min(fit.weight_decay, fit.checkpoint_seconds, fit.minutes) >= 0,
            "[fit] weight_decay, checkpoint_seconds and minutes are numbers, at least 0",
        ),
        (0 <= fit.class_balance <= LARGEST_EXPONENT, f"[fit] class_balance is a number from 0 to {LARGEST_EXPONENT:g}"),
        (_strengths((fit.boundary, fit.dice), HEAVIEST), f"[fit] boundary and dice are numbers from 0 to {HEAVIEST:g}"),
        (0 <= fit.average < 1 and 0 <= fit.momentum < 1, "[fit] average and momentum are numbers from 0, below 1"),
        (0 <= fit.rare_share <= 1, "[fit] rare_share is a number from 0 to 1"),
        (
            min(fit.warmup, fit.validate_every) >= 0 and fit.validation_batches > 0,
            "[fit] warmup and validate_every are at least 0, validation_batches above 0",
        ),
    ]


def of_phases(phases: Sequence[Phase]) -> list[Check]:
    """Of each part of the schedule."""
    counts = [count for phase in phases for count in (phase.batch, phase.depth, *phase.size)]
    return [
        (all(phase.steps > 0 for phase in phases), "steps of a phase must be above 0"),
        (
            all(0 < count <= MOST_PIXELS for count in counts),
            f"batch, size and depth of a phase must be above 0, at most {MOST_PIXELS}",
        ),
        (
            all(FINEST <= phase.spacing <= COARSEST for phase in phases),
            f"spacing of a phase, relative to the model's, is a number from {FINEST:g} to {COARSEST:g}",
        ),
    ]


def of_warmup(fit: Fit, schedules: Mapping[str, Sequence[Phase]]) -> list[Check]:
    """Of the warm-up of [fit]: no network's training ends in it.

    Args:
        fit: the table.
        schedules: phases by what the recipe calls them.
    """
    lasts = {name: sum(phase.steps for phase in phases) for name, phases in schedules.items() if phases}
    return [
        (fit.warmup <= steps, f"[fit] warmup, {fit.warmup} steps, must not be longer than {name}, {steps} steps")
        for name, steps in lasts.items()
    ]


def of_deformation(deformation: Deformation) -> list[Check]:
    """Of [deformation]."""
    lengths = (*deformation.elastic_mm, deformation.shift_mm)
    return [
        (0 <= deformation.rotation_degrees <= 180, "[deformation] rotation_degrees is a number from 0 to 180"),
        (0 <= deformation.scale < 1, "[deformation] scale is a number from 0, below 1"),
        (_shares(deformation.share), "[deformation] share is a number from 0 to 1"),
        (
            _strengths(lengths, FARTHEST),
            f"[deformation] elastic_mm and shift_mm are numbers from 0 to {FARTHEST:g}",
        ),
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
                _strengths((each.bias, each.gamma, each.structures, each.darkening), LARGEST_LOG)
                for each in augmentations
            ),
            f"[augmentation] bias, gamma, structures and darkening are numbers from 0 to {LARGEST_LOG:g}",
        ),
        (
            all(0 <= each.blur_pixels <= WIDEST for each in augmentations),
            f"[augmentation] blur_pixels is a number from 0 to {WIDEST:g}",
        ),
        (
            all(0 <= each.noise <= NOISIEST for each in augmentations),
            f"[augmentation] noise is a number from 0 to {NOISIEST:g}",
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
            0 <= synthesis.least_partial_volume <= synthesis.partial_volume <= WIDEST,
            f"[synthesis] partial_volume is a number from least_partial_volume, which is at least 0, to {WIDEST:g}",
        ),
        (
            THINNEST <= synthesis.thickest <= WIDEST,
            f"[synthesis] thickest is a number from {THINNEST}, the thickness of the thinnest thick slices, to "
            f"{WIDEST:g}",
        ),
        (drawn <= 1 + 1e-6, "the shares of [synthesis] contrasts add up to 1 at most"),
        *(check for contrast in synthesis.contrasts for check in _of_contrast(contrast)),
    ]


def _of_contrast(contrast: Contrast) -> list[Check]:
    name, (least, most), (low, high) = contrast.name, contrast.exponents, contrast.texture
    bright = all(0 <= mean <= FULL_SCALE and 0 <= deviation <= FULL_SCALE for _, mean, deviation in contrast.means)
    return [
        (_shares(contrast.share, contrast.random_rest), f"share and random_rest of {name} are numbers from 0 to 1"),
        (bright, f"a mean of {name} is a number from 0 to {FULL_SCALE:g}, and so is its deviation"),
        (0 < least <= most <= WIDEST, f"exponents of {name} are above 0, at most {WIDEST:g}, the least first"),
        (0 <= low <= high <= FULL_SCALE, f"texture of {name} is from 0 to {FULL_SCALE:g}, the least first"),
    ]


def _shares(*values: float) -> bool:
    return all(0 <= value <= 1 for value in values)


def _strengths(values: Iterable[float], largest: float) -> bool:
    return all(0 <= value <= largest for value in values)
