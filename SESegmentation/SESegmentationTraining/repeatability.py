"""How far a model's volumes differ between two scans of a patient who did not change.

There are two kinds of pairs: scans of one patient, and simulated rescans (a scan moved a little, with another bias
field and noise, twice). For each structure the within-scan standard deviation is given as a share of its volume: the
larger one of the two kinds. Scans of a patient differ in every respect, and true changes count as noise too; rescans
differ less, and would dilute that if all pairs were pooled.

Source: Bland and Altman, "Measuring agreement in method comparison studies", Stat. Methods Med. Res. 8, 1999.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from SESegmentationLib.errors import UsageError
from SESegmentationLib.files import same_content
from SESegmentationLib.geometry import Geometry
from SESegmentationLib.inference.cascade import possible_structures
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.io.reading import read_volume
from SESegmentationLib.io.volume_image import voxels_of
from SESegmentationLib.models import update_card, verify_model
from SESegmentationLib.result import SegmentOptions

from .accuracy import test_cases

#: largest rotation of a rescan about each axis, in degrees, and shift along it, in mm
ROTATION_DEGREES, SHIFT_MM = 3.0, 3.0
#: standard deviation of the log of the sensitivity, and of the noise as a share of the brightest tissue
BIAS, NOISE = 0.1, 0.02
#: structures smaller than this in both scans are left out, in ml: a rest that the field of view cut off
LEAST_ML = 0.02
SEED = 23


def rescan(image: sitk.Image, seed: int) -> sitk.Image:
    """A scan as it might be if the patient lay down once more: moved a little, other sensitivity, other noise.

    Args:
        image: the scan; the result has its grid, and is float32.
        seed: of the random changes.
    """
    random = np.random.default_rng(seed)
    centre = image.TransformContinuousIndexToPhysicalPoint([(size - 1) / 2 for size in image.GetSize()])
    motion = sitk.Euler3DTransform(
        centre, *np.deg2rad(random.uniform(-ROTATION_DEGREES, ROTATION_DEGREES, 3)), random.uniform(-1, 1, 3) * SHIFT_MM
    )
    darkest = float(voxels_of(image).min())
    moved = sitk.Resample(image, image, motion, sitk.sitkBSpline, darkest, sitk.sitkFloat32)
    values = sitk.GetArrayFromImage(moved) - darkest
    knots = sitk.GetImageFromArray(random.normal(size=(4, 4, 4)).astype(np.float32))
    spacing = [3 / max(size - 1, 1) for size in image.GetSize()]  # the outer knots lie on the outer voxels
    field = sitk.Resample(knots, image.GetSize(), sitk.Transform(), sitk.sitkBSpline, (0.0,) * 3, spacing)
    values = np.maximum(values, 0) * np.exp(BIAS * sitk.GetArrayFromImage(field))
    bright = np.percentile(values, 99)
    real, imaginary = NOISE * bright * random.normal(size=(2, *values.shape))
    return Geometry.of(image).image((np.hypot(values + real, imaginary) + darkest).astype(np.float32))


def within_scan_deviations(pairs: Sequence[tuple[dict[int, float], dict[int, float]]]) -> dict[int, float]:
    """The within-scan standard deviation of each structure's volume, as a share of the volume.

    Args:
        pairs: volumes by label value, in ml, of two scans each.
    """
    found = {}
    for value in sorted({value for pair in pairs for value in pair[0]}):
        volumes = [(first.get(value, 0.0), second.get(value, 0.0)) for first, second in pairs]
        differences = [(b - a) / ((a + b) / 2) for a, b in volumes if max(a, b) >= LEAST_ML]
        if differences:
            found[value] = float(np.sqrt(np.mean(np.square(differences)) / 2))
    return found


def larger_deviations(*kinds: Sequence[tuple[dict[int, float], dict[int, float]]]) -> dict[int, float]:
    """The larger one of the deviations of each structure in several kinds of pairs, see the module."""
    found = [within_scan_deviations(pairs) for pairs in kinds]
    values = sorted({value for deviations in found for value in deviations})
    return {value: max(deviations.get(value, 0.0) for deviations in found) for value in values}


def measure_repeatability(
    model: str,
    pairs: Sequence[tuple[Path, Path]],
    scans: Sequence[Path] = (),
    dataset: Path | None = None,
    data: str = "",
    write: bool = False,
) -> None:
    """Print the within-scan standard deviations of a model as JSON.

    Args:
        model: name or folder.
        pairs: scans of one patient each, between whom little changed.
        scans: of which two rescans are made each.
        dataset: that the model was trained on; its test cases are scans too.
        data: description of all of these, for the card.
        write: into the card.

    Raises:
        SegmentationError: model, dataset or a volume cannot be used, there is no scan, or a pair is one scan.
    """
    package = verify_model(model)
    cases = [case.image for case in test_cases(package, dataset)] if dataset else []
    if not pairs and not scans and not cases:
        raise UsageError("There is no scan to measure on.", "Give --pair, --scan or --dataset.")
    for earlier, later in pairs:
        if same_content(earlier, later):
            raise UsageError(
                f"{earlier} and {later} are one scan, not two.",
                "Give two scans of the patient with --pair, or one with --scan, of which rescans are simulated.",
            )
    engine = Engine(package, device="cpu")
    every = _all_pairs(pairs, [*scans, *cases])
    measured = [(_volumes(engine, first), _volumes(engine, second)) for first, second in every]
    own = {label.name: value for value, label in possible_structures(package.card, package.path.parent)}
    deviations = larger_deviations(*[_by_value(kind, own) for kind in (measured[: len(pairs)], measured[len(pairs) :])])
    options = [
        *["--pair EARLIER LATER"] * bool(pairs),
        *["..."] * (len(pairs) > 1),
        *["--scan IMAGE"] * bool(scans),
        *["..."] * (len(scans) > 1),
        *["--dataset DATASET"] * bool(dataset),
    ]
    entry = {
        **({"data": data} if data else {}),
        "command": " ".join([f"sesegment measure repeatability {package.path.name}", *options]),
        "pairs": len(measured),
        "within_scan_sd": {str(value): round(share, 4) for value, share in deviations.items()},
    }
    print(json.dumps(entry, indent=1))
    if write:
        update_card(package, {"repeatability": entry})


def _all_pairs(pairs: Sequence[tuple[Path, Path]], scans: Sequence[Path]) -> Iterator[tuple[sitk.Image, sitk.Image]]:
    for earlier, later in pairs:
        print(f"{earlier.name}, {later.name}", file=sys.stderr)
        yield read_volume(earlier), read_volume(later)
    for number, path in enumerate(scans):
        print(f"{path.name}, twice", file=sys.stderr)
        image = read_volume(path)
        yield rescan(image, SEED + 2 * number), rescan(image, SEED + 2 * number + 1)


def _volumes(engine: Engine, image: sitk.Image) -> dict[str, float]:
    result = engine.segment(image, SegmentOptions(grid="auto"))
    return {structure.label.name: structure.volume_ml for structure in result.structures}


def _by_value(
    pairs: Sequence[tuple[dict[str, float], dict[str, float]]], own: Mapping[str, int]
) -> list[tuple[dict[int, float], dict[int, float]]]:
    """Volumes by the card's own value, a pair for each structure: in a pipeline, left and right share one value."""
    return [
        ({own[name]: ml}, {own[name]: second.get(name, 0.0)}) for first, second in pairs for name, ml in first.items()
    ]
