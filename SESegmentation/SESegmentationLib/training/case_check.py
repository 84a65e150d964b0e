"""Every case is read before any work begins: one that cannot be used is told at once, not after hours."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..errors import InputError
from ..inference.voxels import voxels_of
from ..models import Label
from ..progress import Progress, no_progress
from .dataset import Case, read_case

#: cases that are named in a message
MOST_NAMED = 5

ReadCase = Callable[[Case], tuple]


def check_cases(
    cases: Sequence[Case],
    structures: Sequence[Label],
    pixel_mm: Sequence[float] | None,
    progress: Progress = no_progress,
    read: ReadCase | None = None,
) -> dict[int, list[str]]:
    """Read images and labels of all cases.

    Args:
        structures: those that there may be.
        pixel_mm: see :func:`.dataset.read_case`.
        read: gives image and labels of a case; :func:`.dataset.read_case` if None.

    Returns:
        Names of the cases that hold a structure, by value.

    Raises:
        InputError: names every case that cannot be used, and why.
    """
    holders: dict[int, list[str]] = {label.value: [] for label in structures}
    failures: list[tuple[str, InputError]] = []
    for number, case in enumerate(cases):
        progress(f"check {case.name}", number / len(cases), None)
        try:
            _, labels = read(case) if read else read_case(case, structures, pixel_mm)
        except InputError as error:
            failures.append((case.name, error))
            continue
        for value in np.unique(voxels_of(labels)).tolist():
            if value in holders:
                holders[value].append(case.name)
    if len(failures) == 1:
        raise failures[0][1]
    if failures:
        told = [error.cause if name in error.cause else f"{name}: {error.cause}" for name, error in failures]
        more = f" And {len(told) - MOST_NAMED} more." if len(told) > MOST_NAMED else ""
        raise InputError(
            f"{len(failures)} of {len(cases)} cases cannot be used. {' '.join(told[:MOST_NAMED])}{more}",
            failures[0][1].remedy,
        )
    return holders
