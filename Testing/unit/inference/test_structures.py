"""Counting voxels, boxes and centres."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from SESegmentationLib.geometry import find_extents

VALUES = (3, 200, 1, 7)


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.int32]),
        st.tuples(*[st.integers(1, 6)] * 3),
        elements=st.sampled_from([0, 0, 1, 3, 5, 200]),  # 5 is nobody's, 7 is nowhere
    )
)
def test_every_structure_is_counted(array):
    extents = find_extents(array, VALUES)
    assert tuple(extents) == VALUES
    for value, extent in extents.items():
        where = np.argwhere(array == value)
        assert extent.voxels == len(where)
        if len(where):
            assert extent.centre == pytest.approx(where.mean(0))
            assert extent.box == tuple(slice(a, b + 1) for a, b in zip(where.min(0), where.max(0), strict=True))
        else:
            assert extent.box is None
            assert np.isnan(extent.centre).all()


def test_values_larger_than_any_in_the_array():
    assert find_extents(np.zeros((2, 2, 2), np.uint8), (40000,))[40000].voxels == 0
