"""Images synthesised from label maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from SESegmentationLib.errors import InputError
from SESegmentationLib.inference.intensity import normalise
from SESegmentationTraining.recipe import Recipe
from SESegmentationTraining.slabs import Slabs
from SESegmentationTraining.synthesis import ImageSynthesiser, Synthesis, TissuePriors, scale_to_unit

#: background, left and right white matter, left and right caudate, fluid, skull
VALUES = np.array([0, 2, 41, 11, 50, 24, 258])
CLASSES = np.array([0, 1, 1, 2, 2, 3, 4])
BRAIN = np.array([False, True, True, True, True, False, False])
FLUID = VALUES == 24
MEANS = np.array([[0, 180, 120, 40, 90.0], [0, 10, 10, 10, 10]])
SPREADS = np.array([[0, 5, 5, 5, 5.0], [0, 1, 1, 1, 1]])
WHOLE = {"stripped": 0, "defaced": 0, "cropped": 0}


def synthesiser(spreads=SPREADS, **settings_of_synthesis) -> ImageSynthesiser:
    priors = TissuePriors(VALUES, CLASSES, VALUES, MEANS, spreads)
    return ImageSynthesiser(priors, Synthesis(**settings_of_synthesis), BRAIN, FLUID)


def head(batch: int = 6, size: int = 40) -> Slabs:
    """Concentric skull, fluid and brain of 2 mm pixels; the brain's quarters have a label each. Rows go up (k)."""
    row, column = np.indices((size, size)) - (size - 1) / 2
    radius = np.hypot(row, column)
    quarters = 1 + (column > 0) + 2 * (row > 0)  # 1 to 4
    labels = np.where(radius < 10, quarters, np.where(radius < 12, 5, np.where(radius < 18, 6, 0)))
    labels = torch.from_numpy(np.tile(labels.astype(np.uint8), (batch, 3, 1, 1)))
    points = np.broadcast_to(2.0 * np.stack([row, column, 0 * row])[:, None], (3, 3, size, size))
    points = torch.from_numpy(np.tile(points, (batch, 1, 1, 1, 1))).float()
    return Slabs(labels, None, torch.zeros(batch, dtype=torch.long), points)


def synthesise(seed: int = 0, slabs: Slabs | None = None, **changes):
    return synthesiser(**changes)(slabs or head(), torch.Generator().manual_seed(seed))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), random=st.sampled_from([0.0, 1.0]))
def test_labels_of_one_class_look_alike(seed, random):
    slabs = head()
    images, _ = synthesise(seed, slabs, spreads=0 * SPREADS, partial_volume=0, random_contrast=random, **WHOLE)
    for image, labels in zip(images, slabs.labels, strict=True):
        for first, second in ((1, 2), (3, 4)):
            values = torch.cat([image[labels == first], image[labels == second]])
            assert float(values.max() - values.min()) < 1e-6
    assert len(images[:, 0, 20, 15].unique()) > 1  # another contrast in each image, though bright ones are cut at 1


def test_random_contrast_leaves_the_priors():
    slabs = head(batch=200)
    brighter = {}
    for random in (0.0, 1.0):
        images, _ = synthesise(0, slabs, spreads=0 * SPREADS, partial_volume=0, random_contrast=random, **WHOLE)
        brighter[random] = float((images[:, 0, 15, 15] > images[:, 0, 25, 15]).float().mean())
    assert brighter[0.0] > 0.95  # in T1, white matter is brighter than the caudate
    assert 0.35 < brighter[1.0] < 0.65


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_intensities_lie_between_0_and_1(seed):
    images, removed = synthesise(seed, stripped=0.5, defaced=0.5, cropped=0.5)
    assert images.shape == removed.shape == (6, 3, 40, 40)
    assert removed.dtype == torch.bool
    assert torch.isfinite(images).all()
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    assert (images.flatten(1).amax(1) == 1).all()


def test_an_image_of_which_nothing_is_left_is_black():
    slabs = head()
    far = Slabs(slabs.labels, None, slabs.planes, slabs.points_mm + 1000)
    images, removed = synthesise(0, far, stripped=0, defaced=0, cropped=1)
    gone = removed.all(dim=(1, 2, 3))
    assert gone.any()
    assert not images[gone].any()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_stripping_keeps_the_brain_and_removes_the_skull(seed):
    slabs = head()
    images, removed = synthesise(seed, slabs, stripped=1, defaced=0, cropped=0, partial_volume=0)
    brain = torch.from_numpy(BRAIN)[slabs.labels.long()]
    radius = slabs.points_mm.norm(dim=1) / 2
    assert not (removed & brain).any()
    assert removed[radius > 16].all()  # at most a margin of 3 pixels beside brain or fluid
    for image, mask in zip(images, removed, strict=True):
        assert float(image[mask].max() - image[mask].min()) < 1e-6  # one dark value
        assert float(image[mask].max()) < 0.1


def test_stripping_keeps_the_fluid_in_half_of_the_cases():
    slabs = head(batch=200)
    _, removed = synthesise(1, slabs, stripped=1, defaced=0, cropped=0)
    outer = (slabs.labels == 5) & (slabs.points_mm.norm(dim=1) / 2 > 11.5)
    kept = [bool((~mask & edge).any()) for mask, edge in zip(removed, outer, strict=True)]
    assert 60 < sum(kept) < 140 or all(kept)  # all where the margin of this batch is wider than the fluid


def test_defacing_takes_away_what_lies_in_front_and_below_but_no_brain():
    slabs = head(batch=40)
    forward = Slabs(slabs.labels, None, slabs.planes, slabs.points_mm * 4)  # a head as large as a head
    _, removed = synthesise(0, forward, stripped=0, defaced=1, cropped=0)
    assert removed.any()
    assert not (removed & torch.from_numpy(BRAIN)[slabs.labels.long()]).any()
    k, j = forward.points_mm[:, 0][removed], forward.points_mm[:, 1][removed]
    # the plane leans forward by 17 to 52 degrees
    assert float(torch.maximum(j - 0.3 * k, j - 1.3 * k).min()) > 75


def test_a_field_of_view_ends_at_a_plane_away_from_the_middle():
    slabs = head(batch=40)
    wide = Slabs(slabs.labels, None, slabs.planes, slabs.points_mm * 4)
    _, removed = synthesise(0, wide, stripped=0, defaced=0, cropped=1)
    assert removed.any(dim=(1, 2, 3)).float().mean() > 0.5
    assert float(wide.points_mm.norm(dim=1)[removed].min()) >= 40
    # what lies opposite of something removed is not removed
    assert not (removed & removed.flip(-1, -2)).any()


def test_the_same_seed_gives_the_same_images():
    first, again, other = (synthesise(seed)[0] for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("seed", range(4))
def test_training_scales_intensities_as_inference_does(seed):
    images, _ = synthesise(seed, partial_volume=0)
    raw = 37 + 900 * images
    recipe = Recipe.load("brain-t1").card["intensity"]
    for one in raw:
        expected = normalise(one.numpy(), recipe)
        # the percentile is that of every fifth pixel
        np.testing.assert_allclose(scale_to_unit(one[None])[0].numpy(), expected, atol=0.03)


def save_priors(folder, **changes):
    arrays = {
        "generation_labels": VALUES,
        "generation_classes_contrast_specific": CLASSES,
        "synthseg_segmentation_labels": VALUES,
        "prior_means_t1": MEANS,
        "prior_stds_t1": SPREADS,
    } | changes
    for name, array in arrays.items():
        if array is not None:
            np.save(folder / f"{name}.npy", array, allow_pickle=True)


def test_priors_are_read(tmp_path):
    save_priors(tmp_path)
    priors = TissuePriors.from_folder(tmp_path)
    np.testing.assert_array_equal(priors.values, VALUES)
    np.testing.assert_array_equal(priors.means, MEANS)


@pytest.mark.parametrize(
    "changes",
    [
        {"prior_means_t1": None},
        {"generation_labels": VALUES[:-1]},
        {"generation_classes_contrast_specific": CLASSES + 1},
        {"synthseg_segmentation_labels": VALUES[1:]},
        {"prior_means_t1": MEANS[:, :-1]},
        {"prior_means_t1": MEANS[0]},
        {"prior_stds_t1": SPREADS[:, 1:]},
        {"generation_labels": VALUES[::-1]},
        {"generation_labels": np.array([{}] * len(VALUES), dtype=object)},
    ],
    ids=["missing", "label", "class", "target", "mean", "no-deviations", "spread", "background-last", "pickled"],
)
def test_unfit_priors_are_refused(tmp_path, changes):
    save_priors(tmp_path, **changes)
    with pytest.raises(InputError, match="intensity priors") as caught:
        TissuePriors.from_folder(tmp_path)
    assert caught.value.remedy


def test_a_text_file_is_no_prior(tmp_path):
    save_priors(tmp_path)
    (tmp_path / "prior_stds_t1.npy").write_text("no array", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read"):
        TissuePriors.from_folder(tmp_path)


def test_the_shared_priors_cover_the_labels_of_their_maps(shared_data):
    priors = TissuePriors.from_folder(shared_data / "brain-labelmaps" / "priors")
    assert len(priors.values) == 54
    assert priors.means.shape == (2, 25)
    recipe = Recipe.load("brain-t1")
    learnt = set(priors.targets.tolist()) | set(recipe.data.fluid_values)
    assert {label["value"] for label in recipe.card["labels"]} <= learnt
