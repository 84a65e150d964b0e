"""The sections of a card, from the intensities to the repeatability. Each is checked whenever a card is read.

The calibration was measured on validation cases (``SESegmentationTraining.calibration``) and holds, for results of all
views and of one view alone ("--fast"), by label value, a few points of a rising line: "confidence" and "dice". Above
the last point it stays level; below the first one, where nothing was seen, it falls to 0 with the confidence: a
structure that the networks agree on less than in any case measured must not be promised the Dice of the worst of those.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from ..files.json_files import Fields

PLANES = ("axial", "coronal", "sagittal")
#: largest number of pixels that a network sees at once
MOST_PIXELS = 1 << 27
#: largest number of entries of one kind in a list
MOST = 1000
_NETWORK_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
#: smallest and largest whole number of a network's arguments
_NETWORK_BOUNDS = {
    "in_channels": (1, 99),
    "classes": (2, 256),
    "convolutions": (1, 8),
    "reduction": (1, 1024),
    "dimensions": (2, 3),
    "flat": (0, 7),
    "blocks": (1, 8),
}
_MOST_CHANNELS = 2048
_MOST_LEVELS = 8
_LARGEST_KERNEL = 31
_MEASURES = ("dice", "hausdorff95_mm", "surface_mm")
#: entries of "calibration", by whether several views were used
SEVERAL_VIEWS, ONE_VIEW = "views", "fast"
#: least change that can be distinguished from noise, in within-scan standard deviations
REPEATABILITY_COEFFICIENT = 1.96 * math.sqrt(2)


@dataclass(frozen=True)
class View:
    """One plane in which a network looks at the volume.

    Attributes:
        plane: "axial", "coronal" or "sagittal", in patient axes.
        weight: share of this view in the fused probabilities; the shares need not sum to 1.
        network: key of ``ModelCard.networks``.
        thickness: slices that the network sees at once, odd; the middle one is segmented.
        merged: whether left and right are one class in this view.
        size: rows and columns of the slices in training, of a volumetric view slices, rows and columns; smaller ones
            are padded to it with zeros, since cSE blocks squeeze by the mean over the whole slice. None: slices of
            any size are taken as they are.
        mirrored: whether the network looks at the left-right mirror image too, and the mean of both counts; for
            networks that were trained on mirrored images. Takes twice the time.
        volumetric: whether the network sees all slices at once, in three dimensions, and segments them all; "plane"
            then says along which axis they are stacked, and "thickness" is 1. For crops that fit into memory as a
            whole.
    """

    plane: str
    weight: float
    network: str
    thickness: int = 1
    merged: bool = False
    size: tuple[int, ...] | None = None
    mirrored: bool = False
    volumetric: bool = False

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any], where: str = "view") -> View:
        """Read one entry of "views" in model.json; ModelError where that fails."""
        fields = Fields(entry, where)
        thickness = fields.integer("thickness", 1, low=1, high=99)
        if thickness % 2 == 0:
            fields.fail("thickness", "an odd number")
        volumetric = fields.flag("volumetric", False)
        if volumetric and thickness > 1:
            fields.fail("thickness", "1 where the view is volumetric")
        return cls(
            plane=fields.text("plane", choices=PLANES),
            weight=fields.number("weight", low=0, high=1e6, above=True),
            network=fields.text("network", longest=64),
            thickness=thickness,
            merged=fields.flag("merged", False),
            size=_size(fields, 3 if volumetric else 2) if fields.has("size") else None,
            mirrored=fields.flag("mirrored", False),
            volumetric=volumetric,
        )

    def to_dict(self) -> dict[str, Any]:
        """The view as it stands in model.json."""
        return {
            "plane": self.plane,
            "weight": self.weight,
            "network": self.network,
            "thickness": self.thickness,
            "merged": self.merged,
            **({"size": list(self.size)} if self.size else {}),
            **({"mirrored": True} if self.mirrored else {}),
            **({"volumetric": True} if self.volumetric else {}),
        }


def _size(fields: Fields, lengths: int) -> tuple[int, ...]:
    size = fields.sequence("size")
    if len(size) != lengths or not all(type(length) is int and 0 < length <= 4096 for length in size):
        fields.fail("size", f"{lengths} whole numbers of pixels")
    if math.prod(size) > MOST_PIXELS:
        fields.fail("size", f"at most {MOST_PIXELS} pixels in all")
    return tuple(size)


def check_intensity(fields: Fields) -> None:
    """The recipe for the intensities, see ``inference.intensity``."""
    kind = fields.text("type")
    if fields.has("foreground"):
        fields.text("foreground", choices=("all", "nonzero", "bright"))
    if fields.has("clip"):
        low, high = fields.numbers("clip", 2, low=0, high=100)
        if low >= high:
            fields.fail("clip", "the lower percentile first")
    if kind in ("percentile", "window"):
        ends = (0, 100) if kind == "percentile" else (-1e6, 1e6)
        low, high = (fields.number(key, low=ends[0], high=ends[1]) for key in ("lower", "upper"))
        if low >= high:
            fields.fail("lower", "a number below upper")


def check_networks(fields: Fields, names: list[str]) -> None:
    """Descriptions for ``networks.build_network``: sizes and counts, before any memory is taken."""
    for name in names:
        if not _NETWORK_NAME.fullmatch(name):
            fields.fail(name[:80], "a name of letters, digits, '_' and '-'")
        network, stated = fields.section(name), fields.mapping(name)
        network.text("type", longest=64)
        # what is stated is a number: null is refused, as by the schema
        for key, (low, high) in _NETWORK_BOUNDS.items():
            if key in stated:
                network.integer(key, low=low, high=high)
        for key, most in (("channels", _MOST_CHANNELS), ("widened", _MOST_CHANNELS), ("kernel", _LARGEST_KERNEL)):
            if key not in stated:
                continue
            if isinstance(stated[key], list | tuple):
                longest = {"channels": _MOST_LEVELS, "widened": 2 * _MOST_LEVELS, "kernel": 2}[key]
                shortest = 2 if key == "channels" else 0
                network.whole_numbers(key, low=0 if key == "widened" else 1, high=most, most=longest, least=shortest)
            else:
                network.integer(key, low=1, high=most)
        if network.has("dropout") and network.number("dropout", low=0, high=1) >= 1:
            network.fail("dropout", "a number below 1")
        for key in ("se", "aggregation"):
            if network.has(key):
                network.text(key, longest=64)
        if network.has("positions"):
            network.texts("positions", most=8)


def check_input(fields: Fields) -> None:
    """What the model expects of a volume."""
    if fields.has("kind"):
        fields.text("kind", longest=64)
    if fields.has("extent_mm"):
        extent = fields.value("extent_mm")
        nested = isinstance(extent, list | tuple) and extent and isinstance(extent[0], list | tuple)
        pairs = Fields({str(n): pair for n, pair in enumerate(extent)}, "input.extent_mm") if nested else fields
        keys = [str(n) for n in range(len(extent))] if nested else ["extent_mm"]
        if nested and len(extent) != 3:
            fields.fail("extent_mm", "a smallest and largest length for each of three axes")
        for key in keys:
            low, high = pairs.numbers(key, 2, low=0, high=1e5)
            if low > high:
                pairs.fail(key, "the smaller length first")
    if fields.has("needs_stripping"):
        fields.flag("needs_stripping")
    if fields.has("limits"):
        fields.texts("limits", most=100)


def check_cleanup(fields: Fields) -> None:
    """The entry "cleanup", see ``inference.cleanup``, ``inference.smoothing`` and ``inference.ventricle_wall``."""
    for key in ("largest_union", "faces", "fill_holes"):
        if fields.has(key):
            fields.flag(key)
    if fields.has("largest_component") and fields.value("largest_component") != "all":
        fields.whole_numbers("largest_component", low=1, high=65535, most=MOST)
    if fields.has("loose"):
        loose = fields.section("loose")
        loose.only("values", "erosion_mm", "reach_mm")
        loose.whole_numbers("values", low=1, high=65535, most=MOST, least=1)
        for key in ("erosion_mm", "reach_mm"):
            loose.number(key, low=0, high=1000, above=True)
    for number, entry in enumerate(fields.sequence("smoothing", [], most=MOST)):
        smoothing = Fields(entry, f"cleanup.smoothing[{number}]")
        smoothing.only("values", "sigma_mm")
        smoothing.whole_numbers("values", low=1, high=65535, most=MOST, least=1)
        smoothing.number("sigma_mm", low=0, high=10, above=True)
    if fields.has("fluid"):
        fluid = fields.section("fluid")
        fluid.only("values", "tissue")
        for key in ("values", "tissue"):
            fluid.whole_numbers(key, low=1, high=65535, most=MOST, least=1)


def check_pipeline(fields: Fields) -> None:
    """The cascade of ``inference.cascade``."""
    fields.text("locator", longest=64)
    if fields.has("margin_mm"):
        fields.number("margin_mm", low=0, high=1000)
    targets = fields.sequence("targets", most=100)
    if not targets:
        fields.fail("targets", "at least one target")
    for number, entry in enumerate(targets):
        target = Fields(entry, f"pipeline.targets[{number}]")
        target.integer("locator_value", low=1, high=65535)
        if target.has("mirror"):
            target.flag("mirror")
        values = target.section("values")
        for key in target.mapping("values"):
            _value_key(values, key)
            values.integer(key, low=1, high=65535)


def check_accuracy(fields: Fields) -> None:
    """What was measured."""
    for key in ("data", "command"):
        if fields.has(key):
            fields.text(key, "")
    for key in ("cases", "folds"):
        if fields.has(key):
            fields.integer(key, low=0)
    if fields.has("mean_dice"):
        fields.number("mean_dice", low=0, high=1)
    if fields.has("not_in_mean"):
        fields.whole_numbers("not_in_mean", low=1, high=65535, most=MOST)
    labels = fields.section("labels", {})
    for value in fields.mapping("labels", {}):
        _value_key(labels, value)
        measures = labels.section(value)
        for name in _MEASURES:
            if measures.has(name):
                measure = measures.section(name)
                measure.number("mean", low=0, high=1 if name == "dice" else math.inf)
                measure.number("std", low=0)
                measure.integer("n", low=1)


def check_calibration(fields: Fields) -> None:
    """The curves of :func:`expected_dice`."""
    fields.only("data", "command", "views", "fast")
    for key in ("data", "command"):
        if fields.has(key):
            fields.text(key)
    for kind in ("views", "fast"):
        curves = fields.section(kind, {})
        for value in fields.mapping(kind, {}):
            _value_key(curves, value)
            curve = curves.section(value)
            curve.only("confidence", "dice")
            points = len(curve.sequence("confidence", most=MOST))
            confidence, _ = (curve.numbers(key, points, low=0, high=1) for key in ("confidence", "dice"))
            if not points or list(confidence) != sorted(confidence):
                curve.fail("confidence", "rising numbers, at least one")


def check_repeatability(fields: Fields) -> None:
    """How far volumes of an unchanged patient differ between scans."""
    fields.only("data", "command", "pairs", "within_scan_sd")
    for key in ("data", "command"):
        if fields.has(key):
            fields.text(key)
    if fields.has("pairs"):
        fields.integer("pairs", low=1)
    deviations = fields.section("within_scan_sd", {})
    for value in fields.mapping("within_scan_sd", {}):
        _value_key(deviations, value)
        deviations.number(value, low=0, high=10)


def check_training(fields: Fields) -> None:
    """How it was trained; most fields are free-form."""
    if fields.has("test_cases"):
        fields.texts("test_cases", most=100_000)


def _value_key(fields: Fields, key: Any) -> None:
    """Refuse a key that is not a voxel value."""
    if not (str(key).isascii() and str(key).isdecimal() and 0 < int(str(key)[:6]) <= 65535 and str(key)[0] != "0"):
        fields.fail(str(key)[:80], "the value of a label as the key")


def least_change(repeatability: Mapping[str, Any], value: int) -> float | None:
    """The least change of a structure's volume that exceeds noise, as a share of its mean in two scans.

    It is the repeatability coefficient, 1.96 times the standard deviation of the difference of two scans (Bland and
    Altman, Stat. Methods Med. Res. 8, 1999): in 95 of 100 patients who did not change, volumes differ by less.

    Args:
        repeatability: of the card.
        value: of the structure's label.

    Returns:
        None where the card does not tell.
    """
    deviation = repeatability.get("within_scan_sd", {}).get(str(value))
    return None if deviation is None else REPEATABILITY_COEFFICIENT * float(deviation)


def expected_dice(calibration: Mapping[str, Any], value: int, confidence: float, views: int) -> float | None:
    """The expected Dice of a structure with the truth.

    Args:
        calibration: of the card.
        value: of the structure's label.
        confidence: of the structure in the result.
        views: how many were used; the confidences of one and of several are not comparable.

    Returns:
        0 to 1, or None where the card does not tell.
    """
    curve = calibration.get(SEVERAL_VIEWS if views > 1 else ONE_VIEW, {}).get(str(value))
    if curve is None:
        return None
    points = list(zip(curve["confidence"], curve["dice"], strict=True))
    if points[0][0] > 0:
        points.insert(0, (0.0, 0.0))
    position = bisect_right(points, confidence, key=itemgetter(0))
    if position == len(points):
        return float(points[-1][1])
    (left, low), (right, high) = points[position - 1 : position + 1]
    return float(low + (high - low) * (confidence - left) / (right - left))
