"""Corrections as clinicians make them, simulated: which slices they choose, and what they change there.

Used to train the correction network, and in the benchmark of refinement. Label maps are
arrays (k, j, i) of non-negative numbers, 0 the background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from SESegmentationLib.io.volume_image import voxels_of

#: how slices are chosen: with the most wrong voxels; with the most doubt; the most wrong one and its neighbours; evenly
#: over the structures; with the most doubt of all three axes, apart
POLICIES = ("wrong", "doubtful", "neighbours", "spread", "mixed")
#: what is changed in a slice: everything is as it should be; the same of a single structure; everything, but drawn
#: coarsely; only the largest piece that was wrong
MANNERS = ("exact", "one structure", "coarse", "stroke")
#: slices of one axis that are chosen by "mixed" are at least this far apart
APART = 4

#: one slice: axis of the array, and number along it
Slice = tuple[int, int]


@dataclass(frozen=True)
class SimulatedCorrection:
    """Label map after a simulated correction.

    Attributes:
        labels: (k, j, i), corrected in the slices and as they were elsewhere.
        seen: (k, j, i) bool, the slices that were corrected.
        edited: (k, j, i) bool, voxels that were changed.
        slices: the same slices by axis and number.
    """

    labels: np.ndarray
    seen: np.ndarray
    edited: np.ndarray
    slices: list[Slice]


def choose_slices(
    policy: str, own: np.ndarray, truth: np.ndarray, doubt: np.ndarray, count: int, axis: int
) -> list[Slice]:
    """The slices that a clinician would correct, at most ``count``.

    Args:
        policy: one of :data:`POLICIES`.
        own: labels of the model.
        truth: labels that are right.
        doubt: probability that a voxel's label is wrong.
        count: of slices.
        axis: of the array, along which slices lie; "mixed" chooses among all three.
    """
    if policy == "mixed":
        return _apart([(a, n, v) for a in range(3) for n, v in enumerate(_along(doubt, a))], count)
    wrong = _along(own != truth, axis)
    if policy == "wrong":
        return [(axis, int(n)) for n in np.argsort(-wrong, kind="stable")[:count] if wrong[n]]
    if policy == "doubtful":
        return [(axis, int(n)) for n in np.argsort(-_along(doubt, axis), kind="stable")[:count]]
    there = np.flatnonzero(_along((own > 0) | (truth > 0), axis))
    if not len(there):
        return []
    low, high = int(there[0]), int(there[-1])
    count = min(count, high - low + 1)
    if policy == "neighbours":
        first = min(max(int(wrong.argmax()) - count // 2, low), high - count + 1)
        return [(axis, first + n) for n in range(count)]
    if policy == "spread":
        return [(axis, low + int((n + 0.5) * (high - low + 1) / count)) for n in range(count)]
    raise ValueError(f"there is no policy {policy!r}")


def simulate_correction(
    own: np.ndarray, truth: np.ndarray, slices: Sequence[Slice], manner: str, structure: int = 0
) -> SimulatedCorrection:
    """What is left after slices of ``own`` were corrected.

    Args:
        own: labels of the model.
        truth: labels that are right.
        slices: which are corrected.
        manner: one of :data:`MANNERS`.
        structure: the one of "one structure"; where 0, that with the most wrong voxels in the slices.
    """
    seen = np.zeros(own.shape, bool)
    for axis, number in slices:
        np.moveaxis(seen, axis, 0)[number] = True
    labels = own.copy()
    if manner == "stroke":
        for axis, number in slices:
            there = np.moveaxis(labels, axis, 0)[number]
            right = np.moveaxis(truth, axis, 0)[number]
            piece = _largest_piece(there, right)
            there[piece] = right[piece]
    elif manner == "one structure":
        chosen = structure or _most_wrong(own[seen], truth[seen])
        labels[seen & (own == chosen)] = 0
        labels[seen & (truth == chosen)] = chosen
    elif manner in ("exact", "coarse"):
        right = coarse(truth) if manner == "coarse" else truth
        labels[seen] = right[seen]
    else:
        raise ValueError(f"there is no manner {manner!r}")
    return SimulatedCorrection(labels, seen, labels != own, list(slices))


def coarse(truth: np.ndarray) -> np.ndarray:
    """Labels drawn coarsely: every structure after morphological opening and closing by one voxel."""
    drawn = np.zeros_like(truth)
    for value in np.unique(truth[truth > 0]).tolist():
        image = sitk.GetImageFromArray((truth == value).astype(np.uint8))
        image = sitk.BinaryMorphologicalClosing(sitk.BinaryMorphologicalOpening(image, [1] * 3), [1] * 3)
        drawn[voxels_of(image) > 0] = value
    return drawn


def _along(values: np.ndarray, axis: int) -> np.ndarray:
    """Sums over the slices of an axis."""
    return values.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.float64)


def _apart(candidates: list[tuple[int, int, float]], count: int) -> list[Slice]:
    chosen: list[Slice] = []
    for axis, number, _ in sorted(candidates, key=lambda entry: -entry[2]):
        if len(chosen) == count:
            break
        if all(other != axis or abs(place - number) >= APART for other, place in chosen):
            chosen.append((axis, number))
    return chosen


def _most_wrong(own: np.ndarray, truth: np.ndarray) -> int:
    wrong = own != truth
    counts = np.bincount(own[wrong], minlength=256) + np.bincount(truth[wrong], minlength=256)
    counts[0] = 0
    return int(counts.argmax()) if counts.any() else int(max(truth.max(initial=0), own.max(initial=0)))


def _largest_piece(own: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The largest connected piece of a slice in which labels are wrong in one way."""
    best = np.zeros(own.shape, bool)
    wrong = own != truth
    for pair in np.unique(np.stack([own[wrong], truth[wrong]], 1), axis=0):
        mask = (own == pair[0]) & (truth == pair[1])
        pieces = sitk.GetArrayFromImage(sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8))))
        sizes = np.bincount(pieces.ravel())[1:]
        if sizes.max() > best.sum():
            best = pieces == sizes.argmax() + 1
    return best
