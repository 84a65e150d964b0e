"""Small volumes, several at once: the slices of a crop are too small for one network to keep all cores busy."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..errors import SegmentationError
from ..inference.formats import read_header
from ..inference.pictures import is_picture

#: a volume with more voxels on the model's grid, about 100^3, keeps all cores busy by itself, and needs the memory
SMALL = 1_000_000

Done = TypeVar("Done")
Task = TypeVar("Task")


def all_small(volumes: Sequence[Path], spacing: Sequence[float]) -> bool:
    """Whether every volume has at most ``SMALL`` voxels of ``spacing`` (mm); a DICOM folder counts as large.

    Only headers are read; a file that has none that is known here counts as small where it has few bytes.
    """
    return not any(volume.is_dir() or _voxels(volume, spacing) > SMALL for volume in volumes)


def _voxels(volume: Path, spacing: Sequence[float]) -> float:
    try:
        header = None if is_picture(volume) else read_header(volume)
        if header is None:
            return volume.stat().st_size
        extent = np.multiply(header.size, np.linalg.norm(header.affine[:3, :3], axis=0))
    except (SegmentationError, OSError):
        return 0  # it will be refused
    return float(np.prod(extent / np.asarray(spacing)))


def side_by_side(work: Callable[[Task], Done], tasks: Iterable[Task]) -> Iterator[Done]:
    """What ``work`` gives for each of ``tasks``, in their order, each on one core. What it raises ends the rest.

    Tasks are drawn in the thread that asks for results, a few ahead of what is done.
    """
    from ..inference.cores import MOST, compute_pool

    cores = min(MOST, os.cpu_count() or 1)
    begun: deque[Future[Done]] = deque()
    with compute_pool(cores) as pool:
        for task in tasks:
            begun.append(pool.submit(work, task))
            if len(begun) == 2 * cores:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
