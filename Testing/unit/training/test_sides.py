"""Swapped sides and islands are counted, whatever the head's position and orientation."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from sides import island_voxels, swapped_voxels

RAS = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
PAIRS = [(10, 49), (17, 53), (26, 58)]


def head(turned_degrees: float = 0.0) -> sitk.Image:
    """Left structures in the patient's left half, right ones in the right half, 1 mm, RAS, about the z axis turned."""
    array = np.zeros((40, 60, 80), np.uint8)  # i runs to the right
    for (left, right), j in zip(PAIRS, (5, 25, 45), strict=True):
        array[10:20, j : j + 10, 10:39] = left
        array[10:20, j : j + 10, 41:70] = right
    image = sitk.GetImageFromArray(array)
    turn = sitk.VersorRigid3DTransform()
    turn.SetRotation((0, 0, 1), np.radians(turned_degrees))
    image.SetDirection((np.reshape(turn.GetMatrix(), (3, 3)) @ np.reshape(RAS, (3, 3))).ravel().tolist())
    image.SetOrigin((30.0, -20.0, 10.0))
    return image


@pytest.mark.parametrize("degrees", [0, 20, -35])
def test_swapped_sides_are_counted(degrees):
    image = head(degrees)
    assert swapped_voxels(image, PAIRS) == 0
    array = sitk.GetArrayFromImage(image)
    array[10:20, 5:15, 12:20] = 49  # 800 voxels of the left one, far from the middle
    part = sitk.GetImageFromArray(array)
    part.CopyInformation(image)
    assert swapped_voxels(part, PAIRS) == 800
    swapped = sitk.ChangeLabel(image, {a: b for left, right in PAIRS for a, b in ((left, right), (right, left))})
    assert swapped_voxels(swapped, PAIRS) == 6 * 10 * 10 * (29 - 9), "all but those within 10 mm of the middle"


def test_nothing_is_swapped_where_there_are_no_sides():
    empty = head() * 0
    assert swapped_voxels(empty, PAIRS) == 0
    assert swapped_voxels(head(), []) == 0
    assert island_voxels(empty) == 0


def test_islands_are_pieces_far_from_the_largest():
    image = head()
    bridged = sitk.GetArrayFromImage(image)
    bridged[10:20, 5:55, 39:41] = 16
    bridged[10:20, 15:45, 10:12] = 16
    bridged[10:20, 15:45, 68:70] = 16
    near, far = bridged.copy(), bridged.copy()
    near[26:28, 20:22, 30:32] = 17  # 7 mm above
    far[35:38, 20:22, 30:32] = 17  # 12 voxels, 16 mm above
    images = [sitk.GetImageFromArray(array) for array in (bridged, near, far)]
    assert [island_voxels(image) for image in images] == [0, 0, 12]
