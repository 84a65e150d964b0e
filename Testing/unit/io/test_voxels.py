"""Views of an image's voxels: not copied, and never of memory that is no longer the image's."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationLib.io.volume_image import voxels_of


def test_nothing_is_copied():
    image = sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    voxels = voxels_of(image)
    np.testing.assert_array_equal(voxels, np.arange(24).reshape(2, 3, 4))
    image[3, 2, 1] = 100
    assert voxels[1, 2, 3] == 100


def test_nothing_can_be_written():
    with pytest.raises(ValueError, match="read-only"):
        voxels_of(sitk.Image(4, 4, 4, sitk.sitkUInt8))[0, 0, 0] = 1


def test_the_image_is_kept():
    # so large that the memory of a freed image goes back to the system, where reading it would end the process
    views = [voxels_of(sitk.Image(160, 160, 160, sitk.sitkUInt8) + value) for value in (1, 2, 3)]
    gc.collect()
    assert [(int(view.min()), int(view.max())) for view in views] == [(1, 1), (2, 2), (3, 3)]


def test_a_part_keeps_it_too():
    part = voxels_of(sitk.Image(160, 160, 160, sitk.sitkUInt8) + 7)[80:, ::2].reshape(-1)
    gc.collect()
    assert set(np.unique(part)) == {7}
