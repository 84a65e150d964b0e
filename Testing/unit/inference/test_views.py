"""Slices of a volume and their way back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from SESegmentationLib.inference.views import add_along, along, logits_of, slab, split_merged, stack
from SESegmentationLib.models.card import View

#: array axis of the slices, and those of their rows and columns, as the module's description says
PLANES = {"axial": (0, 1, 2), "coronal": (1, 0, 2), "sagittal": (2, 0, 1)}


def volume() -> torch.Tensor:
    return torch.arange(5 * 6 * 7, dtype=torch.float32).reshape(5, 6, 7)


@pytest.mark.parametrize("plane", PLANES)
def test_a_slab_is_a_slice_and_its_neighbours(plane):
    batch = slab(volume(), plane, slice(1, 4), thickness=3)
    turned = volume().permute(PLANES[plane])
    assert batch.shape == (3, 3, *turned.shape[1:])
    for n, centre in enumerate((1, 2, 3)):
        for t, neighbour in enumerate((-1, 0, 1)):
            assert torch.equal(batch[n, t], turned[centre + neighbour])


def test_beyond_the_ends_the_outermost_slice_is_repeated():
    whole = volume()
    assert slab(whole, "axial", slice(0, 1), thickness=5)[0, :, 0, 0].tolist() == whole[[0, 0, 0, 1, 2], 0, 0].tolist()
    assert slab(whole, "axial", slice(4, 5), thickness=5)[0, :, 0, 0].tolist() == whole[[2, 3, 4, 4, 4], 0, 0].tolist()


@pytest.mark.parametrize("plane", PLANES)
def test_slices_are_read_and_written_along_a_plane(plane):
    total = torch.zeros(2, 5, 6, 7)
    count = volume().shape[PLANES[plane][0]]
    for start in range(0, count, 2):
        which = slice(start, min(start + 2, count))
        piece = slab(volume(), plane, which)
        assert torch.equal(along(volume(), plane, which), piece[:, 0])
        along(total, plane, which)[:, 1] = piece[:, 0]
    assert torch.equal(total[1], volume())
    assert not total[0].any()


def columns(*values: list[float]) -> torch.Tensor:
    """(1, C, 1, 1) for each pixel, side by side along W."""
    return torch.tensor(values).T[None, :, None, :]


def test_a_pair_is_divided_as_the_other_views_say():
    merged = columns([0.2, 0.8, 0.0], [0.2, 0.3, 0.5], [0.4, 0.6, 0.0])
    others = columns([0.1, 0.0, 0.3], [0.1, 0.3, 0.1], [0.9, 0.0, 0.0])  # the last one knows of neither
    divided = split_merged(merged, others, [(1, 2)])
    torch.testing.assert_close(divided, columns([0.2, 0.0, 0.8], [0.2, 0.6, 0.2], [0.4, 0.3, 0.3]), atol=2e-3, rtol=0)


@given(seed=st.integers(0, 999))
def test_dividing_changes_neither_sums_nor_other_classes(seed):
    torch.manual_seed(seed)
    merged, others = torch.randn(2, 6, 3, 4).softmax(1), torch.rand(2, 6, 3, 4)
    before = merged.clone()
    divided = split_merged(merged, others, [(1, 3), (4, 2)])
    assert torch.equal(merged, before)
    torch.testing.assert_close(divided[:, 1] + divided[:, 3], merged[:, 1] + merged[:, 3])
    torch.testing.assert_close(divided[:, 4] + divided[:, 2], merged[:, 4] + merged[:, 2])
    assert torch.equal(divided[:, [0, 5]], merged[:, [0, 5]])
    torch.testing.assert_close(divided[:, 1] * others[:, 3], divided[:, 3] * others[:, 1], atol=2e-4, rtol=0)


def test_without_pairs_nothing_is_divided():
    merged = torch.rand(1, 3, 2, 2)
    assert split_merged(merged, torch.rand(1, 3, 2, 2), []) is merged


@pytest.mark.parametrize("volumetric", [False, True])
@pytest.mark.parametrize("frame", [None, (32, 40)])
def test_a_view_sees_its_size_and_its_answer_lies_where_it_was_asked(volumetric, frame):
    rows, columns = torch.meshgrid(torch.arange(20.0), torch.arange(31.0), indexing="ij")
    whole = (rows + 3 * columns).expand(5, -1, -1)
    shapes = []

    def network(maps: torch.Tensor) -> torch.Tensor:
        """Gives back the slices that it sees."""
        shapes.append(tuple(maps.shape))
        return maps

    size = None if frame is None else (5, *frame) if volumetric else frame
    view = View("axial", 1.0, "net", volumetric=volumetric, size=size)
    batch = stack(whole, "axial") if volumetric else slab(whole, "axial", slice(0, 5))
    answer = logits_of(network, view, batch)
    assert shapes == [(1, 1, 5, *(frame or (20, 31))) if volumetric else (5, 1, *(frame or (20, 31)))]
    assert answer.shape == (5, 1, 20, 31)
    assert torch.equal(answer[:, 0], whole)


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("channels_last", [True, False])
def test_slices_are_added_where_they_lie(plane, channels_last):
    torch.manual_seed(0)
    target = torch.rand(5, 6, 7, 8).half()
    if channels_last:
        target = target.movedim(0, -1).contiguous().movedim(-1, 0)
    expected, which = target.float(), slice(2, 4)
    values = torch.rand(along(target, plane, which).shape).half()
    along(expected, plane, which).add_(values.float(), alpha=0.25)
    add_along(target, plane, which, values, 0.25)
    torch.testing.assert_close(target.float(), expected, rtol=1e-3, atol=1e-3)
