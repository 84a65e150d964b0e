"""Slices of a volume by name, and those in which strokes were made. Needs no torch: panels use it too.

Slices are counted from 0 along a voxel axis of the file: i, j or k, the order in which its header gives the sizes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..errors import InputError, UsageError

#: axis of the arrays (k, j, i) by its letter
AXES = {"k": 0, "j": 1, "i": 2}
_SLICES = re.compile(r"([ijk]):(\d+(?:,\d+)*)")


@dataclass(frozen=True)
class Slices:
    """Some slices along one axis.

    Attributes:
        axis: "i", "j" or "k", the voxel axis of the file.
        numbers: from 0.
    """

    axis: str
    numbers: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Slices:
        """Read "AXIS:N[,N...]", for example "k:12,17".

        Raises:
            UsageError: it is something else.
        """
        match = _SLICES.fullmatch(text.strip().replace(" ", ""))
        if match is None:
            raise UsageError(
                f"{text!r} does not name slices.", "Write AXIS:N[,N...] with AXIS i, j or k, for example k:12,17."
            )
        return cls(match[1], tuple(sorted({int(number) for number in match[2].split(",")})))

    def __str__(self) -> str:
        return f"{self.axis}:{','.join(map(str, self.numbers))}"


def slices_mask(slices: Iterable[Slices], shape: tuple[int, ...]) -> np.ndarray:
    """Where some slices are in an array of this shape (k, j, i), bool.

    Raises:
        InputError: a slice is outside.
    """
    mask = np.zeros(shape, dtype=bool)
    for entry in slices:
        count = shape[AXES[entry.axis]]
        outside = [number for number in entry.numbers if number >= count]
        if outside:
            raise InputError(
                f"There is no slice {entry.axis}:{outside[0]}: along {entry.axis} the volume has {count} slices.",
                f"Slices are counted from 0 to {count - 1}.",
            )
        np.moveaxis(mask, AXES[entry.axis], 0)[list(entry.numbers)] = True
    return mask


def edited_slices(differs: np.ndarray) -> list[Slices]:
    """The slices in which strokes were made, from the voxels (k, j, i) that they changed.

    Who corrects slice by slice changes voxels in few slices of one axis and in many of the others: the axis with the
    fewest counts; of several with as few, the first of k, j, i.
    """
    found = [
        Slices(letter, tuple(np.flatnonzero(differs.any(axis=tuple(a for a in range(3) if a != axis))).tolist()))
        for letter, axis in AXES.items()
    ]
    fewest = min(found, key=lambda entry: len(entry.numbers))
    return [fewest] if fewest.numbers else []
