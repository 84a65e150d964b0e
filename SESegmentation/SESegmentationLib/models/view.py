"""The views of a model: planes, and what its networks see in them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .fields import Fields

PLANES = ("axial", "coronal", "sagittal")
#: that a network sees at once
MOST_PIXELS = 1 << 27


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
            are padded to it with zeros, for what cSE blocks squeeze is a mean over the whole slice. None: slices of
            any size are taken as they are.
        mirrored: whether the network looks at the left-right mirror image too, and the mean of both counts; for
            networks that were trained on mirrored images. Takes twice the time.
        volumetric: whether the network sees all slices at once, in three dimensions, and segments them all; "plane"
            then says along which axis they are stacked, and "thickness" is 1. For what fits into memory whole.
        spacing: pixel size of its slices relative to the model's grid, at least 1: coarse pixels serve a view that is
            there to see the whole, and cost less. "size" counts these pixels.
    """

    plane: str
    weight: float
    network: str
    thickness: int = 1
    merged: bool = False
    size: tuple[int, ...] | None = None
    mirrored: bool = False
    volumetric: bool = False
    spacing: float = 1.0

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
            spacing=fields.number("spacing", 1.0, low=1, high=100),
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
            **({"spacing": self.spacing} if self.spacing > 1 else {}),
        }


def _size(fields: Fields, lengths: int) -> tuple[int, ...]:
    size = fields.sequence("size")
    if len(size) != lengths or not all(type(length) is int and 0 < length <= 4096 for length in size):
        fields.fail("size", f"{lengths} whole numbers of pixels")
    if math.prod(size) > MOST_PIXELS:
        fields.fail("size", f"at most {MOST_PIXELS} pixels in all")
    return tuple(size)
