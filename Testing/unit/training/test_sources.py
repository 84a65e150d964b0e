"""Where training examples come from."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from SESegmentationLib.errors import InputError, UsageError
from SESegmentationLib.models.labels import LEFT, RIGHT, structure_label
from SESegmentationTraining import sources
from SESegmentationTraining.begun import contents_of
from SESegmentationTraining.dataset import find_cases, load_case
from SESegmentationTraining.sources import exchanged, open_source
from SESegmentationTraining.training_plan import draft_card

CPU = torch.device("cpu")
MERGED = [
    {"plane": "axial", "weight": 1.0, "network": "planes", "thickness": 3},
    {"plane": "sagittal", "weight": 1.0, "network": "planes", "thickness": 3, "merged": True},
]

STACK = {"plane": "coronal", "weight": 1.0, "network": "stack", "volumetric": True}


def opened(folder, recipe):
    return open_source(folder, recipe, draft_card(recipe), CPU)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_test_cases_are_not_even_read(blobs_folder, blobs_recipe, monkeypatch):
    read = []

    def load_case(case, card, load=sources.load_case):
        read.append(case.name)
        return load(case, card)

    monkeypatch.setattr(sources, "load_case", load_case)
    source = opened(blobs_folder, blobs_recipe())
    assert len(source.split.test) == 1
    assert sorted(read) == sorted([*source.split.training, *source.split.validation])


def test_test_cases_are_given_whole_when_asked_for(blobs_folder, blobs_recipe):
    recipe = blobs_recipe(data={"test": 2})
    source = opened(blobs_folder, recipe)
    volumes = {name: parts for name, *parts in source.whole_volumes(torch.Generator(), "test")}
    assert list(volumes) == source.split.test
    cases = {case.name: case for case in find_cases(blobs_folder)}
    for name, parts in volumes.items():
        for ours, theirs in zip(parts, load_case(cases[name], draft_card(recipe)), strict=True):
            assert np.array_equal(ours, theirs)
    assert [name for name, *_ in source.whole_volumes(torch.Generator())] == source.split.validation


def test_batches_of_a_folder(blobs_folder, blobs_recipe):
    recipe = blobs_recipe(card={"views": MERGED})
    source = opened(blobs_folder, recipe)
    views = draft_card(recipe).views
    for batch in (
        source.batch(views, recipe.phases[1], generator()),
        source.validation_batch(views, recipe.phases[1], generator()),
    ):
        assert batch.images.shape == (4, 3, 24, 24)
        assert batch.images.dtype == torch.float32
        assert batch.target.shape == (4, 24, 24)
        assert batch.target.dtype == torch.int64
        assert batch.merged.shape == (4,)
        assert not (batch.target[batch.merged] == 2).any()  # right is left where they are one
    targets = torch.cat(
        [
            batch.target[~batch.merged]
            for n in range(5)
            if (batch := source.batch(views, recipe.phases[1], generator(n)))
        ]
    )
    assert set(targets.unique().tolist()) == {0, 1, 2}


def test_the_target_is_that_of_the_middle_slice(blobs_folder, blobs_recipe):
    still = {"rotation_degrees": 0, "scale": 0, "elastic_mm": [0, 0], "shift_mm": 0, "mirror": False}
    nothing = {"bias": 0, "blur_pixels": 0, "gamma": 0, "noise": 0, "gain": 0}
    recipe = blobs_recipe(deformation=still, augmentation=nothing)
    batch = opened(blobs_folder, recipe).batch(draft_card(recipe).views, recipe.phases[1], generator())
    middle = batch.images[:, 1]
    assert (batch.target > 0).any()
    assert float(middle[batch.target > 0].min()) > 0.6  # the balls are bright
    assert float(middle[batch.target == 0].max()) < 0.6


def test_validation_does_not_deform_or_change_images(blobs_folder, blobs_recipe):
    recipe, other = blobs_recipe(), blobs_recipe(deformation={"rotation_degrees": 40}, augmentation={"noise": 9.0})
    views = draft_card(recipe).views
    first, second = (opened(blobs_folder, r).validation_batch(views, r.phases[1], generator()) for r in (recipe, other))
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.target, second.target)


def test_class_counts_are_those_of_the_training_cases(blobs_folder, blobs_recipe):
    source = opened(blobs_folder, blobs_recipe())
    arrays = [
        sitk.GetArrayFromImage(sitk.ReadImage(str(blobs_folder / "labelsTr" / f"{case}.nii.gz")))
        for case in source.split.training
    ]
    expected = [sum(int((array == value).sum()) for array in arrays) for value in (0, 17, 53)]
    assert source.class_counts().tolist() == expected


def test_too_few_cases_are_refused(blobs_folder, blobs_recipe):
    with pytest.raises(InputError, match="4 cases, too few to keep out 2 for validation and 3 for test"):
        opened(blobs_folder, blobs_recipe(data={"validation": 2, "test": 3}))


def test_labels_that_are_all_empty_are_refused(own_blobs_folder, blobs_recipe):
    for path in (own_blobs_folder / "labelsTr").iterdir():
        sitk.WriteImage(sitk.ReadImage(str(path)) * 0, str(path))
    with pytest.raises(InputError, match="nothing to learn"):
        opened(own_blobs_folder, blobs_recipe())


def test_a_side_without_the_other_is_not_mirrored(blobs_folder, blobs_recipe):
    lonely = {"data": {"mirrored_pairs": []}, "card": {"merged_pairs": []}}
    with pytest.raises(UsageError, match="left hippocampus") as caught:
        opened(blobs_folder, blobs_recipe(**lonely))
    assert "mirror = false" in caught.value.remedy
    opened(blobs_folder, blobs_recipe(**lonely, deformation={"mirror": False}))
    opened(blobs_folder, blobs_recipe(card={"merged_pairs": []}))  # named in [data]
    opened(blobs_folder, blobs_recipe(data={"mirrored_pairs": []}))  # named in [card]


def test_a_mirror_exchanges_left_and_right_labels(blobs_folder, blobs_recipe):
    mirror = {"rotation_degrees": 0, "scale": 0, "elastic_mm": [0, 0], "shift_mm": 0, "mirror": True}
    recipe = blobs_recipe(deformation=mirror)
    batch = opened(blobs_folder, recipe).batch(draft_card(recipe).views, recipe.phases[1], generator())
    columns = torch.arange(24).expand(batch.target.shape)
    assert (columns[batch.target == 1] < 12).all()  # columns run to the right
    assert (columns[batch.target == 2] >= 12).all()


def test_an_unknown_pair_is_refused(blobs_folder, blobs_recipe):
    with pytest.raises(UsageError, match="mirrored_pairs: there is no label 98, 99"):
        opened(blobs_folder, blobs_recipe(data={"mirrored_pairs": [[98, 99]]}))


def test_exchanging():
    table = exchanged([(1, 3), (5, 2)])
    assert table[:7].tolist() == [0, 3, 5, 1, 4, 2, 6]
    assert (table[table] == np.arange(256)).all()


#: background, left and right white matter, fluid, left and right skull
VALUES = np.array([0, 2, 41, 24, 258, 259])


@pytest.fixture
def maps_folder(tmp_path, to_image):
    """Label maps of heads: white matter (left and right), fluid round it, a skull; with priors."""
    k, j, i = np.indices((40, 44, 48)) - np.array([19.5, 21.5, 23.5])[:, None, None, None]
    radius = np.sqrt(k**2 + j**2 + i**2)
    for case in range(3):
        brain = np.where(i < 0, 2, 41)
        labels = np.where(radius < 9 + case, brain, np.where(radius < 12, 24, np.where(radius < 16, 258, 0)))
        labels[(labels == 258) & (i > 0)] = 259
        sitk.WriteImage(to_image(labels.astype(np.uint16)), str(tmp_path / f"map.{case}.nii.gz"))
    (tmp_path / "priors").mkdir()
    for name, array in {
        "generation_labels": VALUES,
        "generation_classes_contrast_specific": np.array([0, 1, 1, 2, 3, 3]),
        "synthseg_segmentation_labels": np.array([0, 2, 41, 0, 0, 0]),
        "prior_means_t1": np.array([[0, 180, 100, 140.0], [0, 1, 1, 1]]),
        "prior_stds_t1": np.array([[0, 2, 2, 2.0], [0, 0.1, 0.1, 0.1]]),
    }.items():
        np.save(tmp_path / "priors" / f"{name}.npy", array)
    return tmp_path


@pytest.fixture
def maps_recipe(blobs_recipe):
    """Function that gives a recipe for ``maps_folder``, with changes."""
    labels = [
        structure_label(2, "cerebral white matter", LEFT).to_dict(),
        structure_label(41, "cerebral white matter", RIGHT).to_dict(),
        structure_label(24, "cerebrospinal fluid").to_dict(),
    ]

    def make(**changes):
        entries = {
            "data": {
                "source": "label-maps",
                "validation": 1,
                "test": 0,
                "fluid_values": [24],
                "mirrored_pairs": [[2, 41], [258, 259]],
            },
            "augmentation": {"bias": 0, "blur_pixels": 0, "gamma": 0, "noise": 0, "gain": 0},
            "synthesis": {"random_contrast": 0, "wide": 0, "partial_volume": 0},
            "card": {"labels": labels, "merged_pairs": [[2, 41]], "views": MERGED},
            "phases": [{"steps": 2, "batch": 12, "size": [40, 40]}],
        }
        for part, table in changes.items():
            entries[part] = entries.get(part, {}) | table
        return blobs_recipe(**entries)

    return make


def test_images_of_test_maps_are_the_same_for_a_seed(maps_folder, maps_recipe):
    source = opened(maps_folder, maps_recipe(data={"validation": 0, "test": 2}))
    once, again = (list(source.whole_volumes(torch.Generator().manual_seed(5), "test")) for _ in range(2))
    assert [name for name, *_ in once] == source.split.test
    assert len(once) == 2
    for (_, *ours), (_, *theirs) in zip(once, again, strict=True):
        assert all(map(np.array_equal, ours, theirs))
        assert ours[0].shape == ours[1].shape


def test_targets_of_synthesised_images_are_labels(maps_folder, maps_recipe):
    recipe = maps_recipe()
    source = opened(maps_folder, recipe)
    views = draft_card(recipe).views
    batch = source.batch(views, recipe.phases[0], generator())
    assert batch.images.shape == (12, 3, 40, 40)
    assert set(batch.target.unique().tolist()) == {0, 1, 2, 3}
    assert not (batch.target[batch.merged] == 2).any()
    upright = source.validation_batch(views, recipe.phases[0], generator())
    sided = ~upright.merged
    columns = torch.arange(40).expand(upright.target.shape)
    assert (columns[sided][upright.target[sided] == 1] < 20).all()
    assert (columns[sided][upright.target[sided] == 2] >= 20).all()


def test_what_is_removed_from_an_image_is_background_in_the_target(maps_folder, maps_recipe):
    """Tissue is brighter than what was removed, which is black."""
    recipe = maps_recipe(synthesis={"cropped": 0.5, "stripped": 0.5, "partial_volume": 0, "random_contrast": 0})
    source = opened(maps_folder, recipe)
    source.synthesise.settings = recipe.synthesis
    views = draft_card(recipe).views
    with_fluid = []
    for seed in range(4):
        batch = source.batch(views, recipe.phases[0], generator(seed))
        assert float(batch.images[:, 1][batch.target > 0].min()) > 0.2
        with_fluid += [bool((target == 3).any()) for target in batch.target]
    assert any(with_fluid)
    assert not all(with_fluid)  # stripping sometimes takes it away


def test_class_counts_of_label_maps_are_by_channel(maps_folder, maps_recipe):
    source = opened(maps_folder, maps_recipe())
    arrays = [
        sitk.GetArrayFromImage(sitk.ReadImage(str(maps_folder / f"{case}.nii.gz"))) for case in source.split.training
    ]
    counts = source.class_counts().tolist()
    assert counts[1:] == [sum(int((array == value).sum()) for array in arrays) for value in (2, 41, 24)]
    assert sum(counts) == sum(array.size for array in arrays)


def test_files_that_label_maps_are_learnt_with_are_told_apart(maps_folder, maps_recipe):
    source = opened(maps_folder, maps_recipe())
    learnt = contents_of(maps_folder, source.recipe, source.split.training)
    priors = {f"priors/{path.name}" for path in (maps_folder / "priors").iterdir()}
    assert priors and set(learnt) == {f"{name}.nii.gz" for name in source.split.training} | priors
    for path in sorted(learnt):
        (maps_folder / path).write_bytes((maps_folder / path).read_bytes() + b" ")
        now = contents_of(maps_folder, source.recipe, source.split.training)
        assert {name for name, digest in now.items() if digest != learnt[name]} == {path}
        learnt = now


def test_scans_may_be_shown_as_they_are(maps_folder, maps_recipe, to_image):
    """Stripes of one voxel are lost in thick slices, which are simulated unless the recipe changes scans otherwise."""
    for folder in ("imagesTr", "labelsTr"):
        (maps_folder / "scans" / folder).mkdir(parents=True)
    stripes = np.indices((40, 40, 40)).sum(0) % 2
    sitk.WriteImage(to_image(100 + 100.0 * stripes), str(maps_folder / "scans" / "imagesTr" / "scan_0000.nii.gz"))
    labels = np.full((40, 40, 40), 24, np.uint8)
    sitk.WriteImage(to_image(labels), str(maps_folder / "scans" / "labelsTr" / "scan.nii.gz"))
    none = {"bias": 0, "blur_pixels": 0, "gamma": 0, "noise": 0, "gain": 0}

    def contrast(**changes):
        recipe = maps_recipe(
            data={"scans": "scans", "scans_share": 1.0},
            deformation={"share": 0.0, "mirror": False, "shift_mm": 0},
            synthesis={"thick_share": 1.0, "thickest": 6.0},
            **changes,
        )
        batch = opened(maps_folder, recipe).batch(draft_card(recipe).views, recipe.phases[0], generator())
        assert (batch.target == 3).float().mean() > 0.9
        return float(batch.images[:, 1, 5:-5, 5:-5].std(dim=(1, 2)).min())

    assert contrast(scans_augmentation=none) > 2 * contrast()


def test_labels_that_the_maps_cannot_teach_are_named(maps_folder, maps_recipe):
    labels = [
        structure_label(value, name).to_dict() for value, name in ((16, "brain stem"), (24, "cerebrospinal fluid"))
    ]
    card = {"labels": labels, "merged_pairs": [], "views": MERGED[:1]}
    with pytest.raises(UsageError, match="no label 16 to learn"):
        opened(maps_folder, maps_recipe(card=card))


def test_pairs_that_the_maps_do_not_hold_are_named(maps_folder, maps_recipe):
    with pytest.raises(UsageError, match="mirrored_pairs: there is no label 10, 49"):
        opened(maps_folder, maps_recipe(data={"mirrored_pairs": [[2, 41], [10, 49]]}))


def test_a_map_without_a_brain_is_named(maps_folder, maps_recipe, to_image):
    sitk.WriteImage(to_image(np.full((20, 20, 20), 258, np.uint16)), str(maps_folder / "shell.nii.gz"))
    with pytest.raises(InputError, match="shell holds no structure"):
        opened(maps_folder, maps_recipe(data={"validation": 0}))


def test_volumetric_views_get_stacks_and_all_their_labels(blobs_folder, blobs_recipe):
    phase = {"steps": 1, "batch": 3, "size": [22, 26], "depth": 24}
    recipe = blobs_recipe(card={"views": [STACK]}, phases=[], volumetric={"phases": [phase]})
    source = opened(blobs_folder, recipe)
    card = draft_card(recipe)
    assert card.views[0].size == (24, 22, 26)
    assert card.networks["stack"]["dimensions"] == 3
    batch = source.validation_batch(card.views, recipe.volumetric.phases[0], generator())
    assert batch.images.shape == (3, 1, 24, 22, 26)
    assert batch.target.shape == (3, 24, 22, 26)
    case = next(case for case in find_cases(blobs_folder) if case.name == source.split.validation[0])
    image, labels = load_case(case, card)
    np.testing.assert_array_equal(batch.target[0].numpy(), labels.transpose(1, 0, 2))
    np.testing.assert_array_equal(batch.images[0, 0].numpy(), image.transpose(1, 0, 2).astype(np.float32))


def test_a_network_may_have_an_appearance_of_its_own(blobs_folder, blobs_recipe):
    off = {"bias": 0.0, "blur_pixels": 0.0, "gamma": 0.0, "noise": 0.0, "gain": 0.0}
    change = {"gamma": 0.5, "gain": 0.1}
    views = [{"plane": "axial", "weight": 1.0, "network": name} for name in ("usual", "other")]

    def images(view, augmentation, **networks):
        recipe = blobs_recipe(card={"views": views}, augmentation=augmentation, networks=networks)
        source = opened(blobs_folder, recipe)
        return source.batch(draft_card(recipe).views[view : view + 1], recipe.phases[0], generator()).images

    changed = {"other": {"augmentation": change}}
    assert torch.equal(images(1, off, **changed), images(1, off | change))
    assert not torch.equal(images(1, off), images(1, off | change))
    assert torch.equal(images(0, off, **changed), images(0, off))
