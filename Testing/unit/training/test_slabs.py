"""Slabs: the plain slice where nothing is deformed, labels never interpolated, mirrors that know left from right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from SESegmentationLib.inference import views
from SESegmentationTraining.slabs import PLANE_AXES, Deformation, VolumeBank
from SESegmentationTraining.sources import UNDEFORMED

PLANES = tuple(PLANE_AXES)
SAME = np.arange(256, dtype=np.uint8)
BENT = Deformation(rotation_degrees=20, scale=0.2, elastic_mm=(3, 1), shift_mm=4, mirror=True)


def draw(
    bank, planes=PLANES, batch=6, thickness=3, size=(16, 16), spacing=1.0, deformation=UNDEFORMED, seed=0, rare=0.5
):
    generator = torch.Generator().manual_seed(seed)
    return bank.draw(planes, [1.0] * len(planes), batch, thickness, size, spacing, deformation, generator, rare)


def voxels_of(bank, slabs, volume=0):
    """Array indices (B, 3, T, H, W) of a slab's pixels, from where it says they are."""
    middle = (torch.tensor(bank.shapes[volume].tolist()) - 1) / 2
    return slabs.points_mm / bank.voxel_mm[None, :, None, None, None] + middle[None, :, None, None, None]


shapes = st.tuples(*[st.integers(7, 14)] * 3)


@settings(max_examples=40, deadline=None)
@given(shape=shapes, plane=st.sampled_from(PLANES), thickness=st.sampled_from([1, 3, 5]), seed=st.integers(0, 999))
def test_undeformed_slabs_are_the_slices_that_inference_cuts(shape, plane, thickness, seed):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 9, shape).astype(np.uint8)
    image = random.integers(0, 1000, shape).astype(np.float32)
    bank = VolumeBank([labels], [image], (1, 1, 1), SAME)
    axis, rows, columns = PLANE_AXES[plane]
    slabs = draw(bank, [plane], 8, thickness, (shape[rows], shape[columns]), seed=seed)
    positions = voxels_of(bank, slabs)[:, axis, thickness // 2, 0, 0].round().int().tolist()
    for array, drawn in ((labels, slabs.labels), (image, slabs.images)):
        for slab, position in zip(drawn, positions, strict=True):
            # as the views of a model define a slice: rows k or j, columns i or j
            where = {"axial": np.s_[position], "coronal": np.s_[:, position], "sagittal": np.s_[:, :, position]}[plane]
            np.testing.assert_array_equal(slab[thickness // 2].numpy(), array[where])
            expected = views.slab(torch.from_numpy(array), plane, slice(position, position + 1), thickness)[0]
            np.testing.assert_array_equal(slab.numpy(), expected.numpy())


@settings(max_examples=40, deadline=None)
@given(shape=shapes, size=st.tuples(st.integers(5, 18), st.integers(5, 18)), plane=st.sampled_from(PLANES))
def test_undeformed_slabs_of_any_size_lie_on_voxels(shape, size, plane):
    image = np.random.default_rng(0).integers(1, 1000, shape)
    bank = VolumeBank([(image % 250).astype(np.uint8)], [image.astype(np.float32)], (1, 1, 1), SAME)
    slabs = draw(bank, [plane], 2, 1, size)
    voxels = voxels_of(bank, slabs)
    torch.testing.assert_close(voxels, voxels.round(), atol=1e-4, rtol=0)
    padded = np.pad(image, 20)  # outside is nothing
    expected = padded[tuple(voxels.round().int().unbind(1)[axis].numpy() + 20 for axis in range(3))]
    np.testing.assert_array_equal(slabs.images.numpy(), expected)
    np.testing.assert_array_equal(slabs.labels.numpy(), expected % 250)


@settings(max_examples=20, deadline=None)
@given(shape=shapes, plane=st.sampled_from(PLANES), seed=st.integers(0, 99))
def test_undeformed_stacks_are_the_whole_volume_and_nothing_round_it(shape, plane, seed):
    image = np.random.default_rng(seed).integers(1, 1000, shape)
    bank = VolumeBank([(image % 250).astype(np.uint8)], [image.astype(np.float32)], (1, 1, 1), SAME)
    stacked = np.transpose(image, PLANE_AXES[plane])
    depth, *size = (length + 4 for length in stacked.shape)
    generator = torch.Generator().manual_seed(seed)
    slabs = bank.draw([plane], [1.0], 2, depth, tuple(size), 1.0, UNDEFORMED, generator, 1.0, stacks=True)
    for images, labels in zip(slabs.images.numpy(), slabs.labels.numpy(), strict=True):
        np.testing.assert_array_equal(images, np.pad(stacked, 2))
        np.testing.assert_array_equal(labels, np.pad(stacked, 2) % 250)


def test_stacks_are_shifted_and_bent_as_slabs_are():
    labels = np.zeros((20, 24, 28), np.uint8)
    labels[6:14, 6:18, 7:21] = 3
    bank = VolumeBank([labels], [labels * 50.0], (1, 1, 1), SAME)
    generator = torch.Generator().manual_seed(0)
    slabs = bank.draw(["coronal"], [1.0], 8, 24, (20, 28), 1.0, BENT, generator, 1.0, stacks=True)
    voxels = voxels_of(bank, slabs)
    middles = torch.tensor([9.5, 11.5, 13.5]) - voxels[:, :, 11:13, 9:11, 13:15].mean((2, 3, 4))
    assert (middles.abs() < 10).all(), "shifted by 4 mm and deformed by some, not centred on a slice of its own"
    assert middles.std(0).min() > 0.5
    assert set(slabs.labels.unique().tolist()) == {0, 3}


def test_coarser_slabs_skip_voxels():
    labels = np.random.default_rng(0).integers(0, 200, (9, 20, 20)).astype(np.uint8)
    slabs = draw(VolumeBank([labels], None, (1, 1, 1), SAME), ["axial"], 1, 3, (10, 10), spacing=2.0)
    voxels = voxels_of(VolumeBank([labels], None, (1, 1, 1), SAME), slabs)[0]
    assert voxels[1, 0, :, 0].diff().tolist() == [2.0] * 9
    assert voxels[2, 0, 0, :].diff().tolist() == [2.0] * 9
    np.testing.assert_array_equal(slabs.labels[0].numpy(), labels[tuple(voxels.int().numpy())])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), spacing=st.sampled_from([0.7, 1.0, 2.0]))
def test_labels_are_never_interpolated(seed, spacing):
    labels = np.random.default_rng(seed).choice(np.array([0, 40, 200], np.uint8), (12, 14, 13))
    slabs = draw(VolumeBank([labels], None, (1, 1.5, 0.8), SAME), deformation=BENT, seed=seed, spacing=spacing)
    assert set(slabs.labels.unique().tolist()) <= {0, 40, 200}
    assert slabs.labels.dtype == torch.uint8


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), axis=st.integers(0, 2), mirror=st.booleans())
def test_points_say_where_the_pixels_come_from(seed, axis, mirror):
    shape, voxel_mm = (20, 24, 22), (1.0, 1.5, 0.8)
    ramp = np.broadcast_to(np.indices(shape)[axis], shape).astype(np.float32)
    deformation = Deformation(rotation_degrees=20, scale=0.2, elastic_mm=(3, 1), shift_mm=4, mirror=mirror)
    bank = VolumeBank([np.ones(shape, np.uint8)], [ramp], voxel_mm, SAME)
    slabs = draw(bank, deformation=deformation, seed=seed)
    voxels = voxels_of(bank, slabs)
    top = torch.tensor(shape)[None, :, None, None, None] - 1
    inside = ((voxels >= 0) & (voxels <= top)).all(1)
    assert inside.any()
    torch.testing.assert_close(slabs.images[inside], voxels[:, axis][inside], atol=2e-3, rtol=0)
    # a voxel reaches half its size beyond its centre
    reached = ((voxels > -0.49) & (voxels < top + 0.49)).all(1)
    beyond = ((voxels < -0.51) | (voxels > top + 0.51)).any(1)
    assert slabs.labels[reached].bool().all()
    assert not slabs.labels[beyond].bool().any()


def test_mirrored_labels_keep_their_side():
    labels = np.ones((12, 12, 12), np.uint8)
    labels[..., 6:] = 2  # i runs to the right
    swapped = SAME.copy()
    swapped[1], swapped[2] = 2, 1
    mirror = Deformation(rotation_degrees=0, scale=0, elastic_mm=(0, 0), shift_mm=0, mirror=True)
    slabs = draw(VolumeBank([labels], None, (1, 1, 1), swapped), ["axial", "coronal"], 40, 1, (12, 12), 1.0, mirror)
    left, right = slabs.labels[..., :6], slabs.labels[..., 6:]
    assert set(left.unique().tolist()) == {1}
    assert set(right.unique().tolist()) == {2}
    to_the_right = slabs.points_mm[:, 2, 0, 0, -1] > slabs.points_mm[:, 2, 0, 0, 0]
    assert 5 < int(to_the_right.sum()) < 35  # about half of them came from the other side


@pytest.mark.parametrize("stacks", [False, True])
def test_beliefs_lie_where_the_labels_do_and_change_sides_with_them(stacks):
    random = np.random.default_rng(0)
    shapes = [(9, 8, 11), (8, 9, 7)]
    labels = [random.integers(0, 4, shape).astype(np.uint8) for shape in shapes]
    table = SAME.copy()
    table[[1, 3]] = 3, 1
    bank = VolumeBank(labels, [one.astype(np.float32) for one in labels], (1, 1, 1), table)
    assert draw_stacks(bank, stacks, UNDEFORMED).soft_targets is None
    bank.set_soft_targets([np.stack([one == value for value in (1, 2, 3)]).astype(np.float16) for one in labels])
    mirror = Deformation(rotation_degrees=0, scale=0, elastic_mm=(0, 0), shift_mm=2, mirror=True)
    for seed in range(4):
        slabs = draw_stacks(bank, stacks, mirror, seed)
        target = slabs.labels if stacks else slabs.labels[:, 1:2]
        for value, soft_target in enumerate(slabs.soft_targets.unbind(1), start=1):
            torch.testing.assert_close(soft_target, (target == value).float(), atol=1e-5, rtol=0)


def test_beliefs_are_bent_as_the_image_is():
    ramp = np.random.default_rng(0).random((12, 13, 14)).astype(np.float16)
    bank = VolumeBank([np.ones(ramp.shape, np.uint8)], [ramp], (1, 1, 1), SAME)
    bank.set_soft_targets([ramp[None]])
    slabs = draw(bank, deformation=BENT)
    torch.testing.assert_close(slabs.soft_targets[:, 0], slabs.images[:, 1:2])


def draw_stacks(bank, stacks, deformation, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return bank.draw(["coronal"], [1.0], 6, 3, (9, 11), 1.0, deformation, generator, 0.5, stacks)


def test_a_bank_that_may_not_mirror_does_not():
    labels = np.ones((8, 8, 8), np.uint8)
    still = Deformation(rotation_degrees=0, scale=0, elastic_mm=(0, 0), shift_mm=0, mirror=False)
    slabs = draw(VolumeBank([labels], None, (1, 1, 1), SAME), ["axial"], 40, 1, (8, 8), 1.0, still)
    assert (slabs.points_mm[:, 2, 0, 0, -1] > slabs.points_mm[:, 2, 0, 0, 0]).all()


def test_the_same_seed_draws_the_same_batch():
    random = np.random.default_rng(1)
    labels = [random.integers(0, 5, shape).astype(np.uint8) for shape in ((9, 11, 10), (12, 8, 14))]
    images = [array.astype(np.float32) for array in labels]
    bank = VolumeBank(labels, images, (1, 1, 1), SAME)
    first, again, other = (draw(bank, deformation=BENT, seed=seed) for seed in (3, 3, 4))
    for part in ("labels", "images", "planes", "points_mm"):
        assert torch.equal(getattr(first, part), getattr(again, part))
    assert not torch.equal(first.images, other.images)


def test_volumes_of_different_shapes_do_not_mix():
    shapes = ((6, 20, 9), (15, 7, 12), (10, 10, 10))
    labels = [np.full(shape, value, np.uint8) for value, shape in enumerate(shapes, start=1)]
    bank = VolumeBank(labels, [array.astype(np.float32) * 10 for array in labels], (1, 1, 1), SAME)
    assert len(bank) == 3
    slabs = draw(bank, batch=60, thickness=1, size=(24, 24))
    seen = set()
    for label, image, plane in zip(slabs.labels, slabs.images, slabs.planes, strict=True):
        values = set(label.unique().tolist()) - {0}
        assert len(values) == 1
        value = values.pop()
        seen.add(value)
        shape, (_, rows, columns) = shapes[value - 1], PLANE_AXES[PLANES[plane]]
        assert int((label == value).sum()) == shape[rows] * shape[columns]
        assert torch.equal(image, 10.0 * label)
    assert seen == {1, 2, 3}


def test_rare_labels_are_looked_for():
    labels = [np.zeros((20, 20, 20), np.uint8) for _ in range(4)]
    labels[0][3:17] = 1
    labels[2][11, 5, 5] = 7
    bank = VolumeBank(labels, None, (1, 1, 1), SAME)
    rare = draw(bank, batch=60, thickness=1, size=(20, 20), rare=1.0)
    assert 15 < sum(bool((slab == 7).any()) for slab in rare.labels) < 45  # one label of two
    uniform = draw(bank, batch=60, thickness=1, size=(20, 20), rare=0.0)
    assert sum(bool((slab == 7).any()) for slab in uniform.labels) < 6  # one slice of eighty


def test_planes_are_drawn_by_their_weights():
    bank = VolumeBank([np.ones((8, 8, 8), np.uint8)], None, (1, 1, 1), SAME)
    generator = torch.Generator().manual_seed(0)
    slabs = bank.draw(PLANES, [0.0, 3.0, 1.0], 200, 1, (4, 4), 1.0, UNDEFORMED, generator)
    counts = slabs.planes.bincount(minlength=3).tolist()
    assert counts[0] == 0
    assert 120 < counts[1] < 180


def test_slabs_are_centred_on_the_focus():
    labels = np.ones((30, 30, 30), np.uint8)
    box = ((4, 10, 20), (10, 20, 30))
    bank = VolumeBank([labels], None, (1, 1, 1), SAME, focus=[box])
    slabs = draw(bank, batch=30, thickness=1, size=(5, 5), rare=0.0)
    assert float(slabs.points_mm.abs().max()) <= 5.0  # from the middle of the focus
    middle = torch.tensor([6.5, 14.5, 24.5])[None, :, None, None, None]
    assert torch.equal((slabs.points_mm + middle).round(), slabs.points_mm + middle)


def test_a_bank_without_any_label_can_be_drawn_from():
    bank = VolumeBank([np.zeros((6, 6, 6), np.uint8)], None, (1, 1, 1), SAME)
    assert not draw(bank, batch=3, size=(6, 6), rare=1.0).labels.any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_the_same_batch():
    labels = np.random.default_rng(1).integers(0, 5, (30, 32, 34)).astype(np.uint8)
    on_cpu, on_gpu = (VolumeBank([labels], None, (1, 1, 1), SAME, device=device) for device in ("cpu", "cuda"))
    first, second = (draw(bank, deformation=BENT) for bank in (on_cpu, on_gpu))
    assert (first.labels == second.labels.cpu()).float().mean() > 0.999  # rounding at voxel borders


def test_only_a_share_of_the_slabs_is_bent():
    image = np.random.default_rng(4).integers(1, 1000, (20, 20, 20)).astype(np.float32)
    bank = VolumeBank([np.zeros(image.shape, np.uint8)], [image], (1, 1, 1), SAME)
    some = Deformation(rotation_degrees=20, scale=0.2, elastic_mm=(3, 1), shift_mm=2, mirror=True, share=0.3)
    voxels = voxels_of(bank, draw(bank, batch=200, deformation=some))
    on_voxels = (voxels - voxels.round()).abs().flatten(1).max(1).values < 1e-4
    assert 110 < int(on_voxels.sum()) < 165  # 140 expected, standard deviation 6.5
