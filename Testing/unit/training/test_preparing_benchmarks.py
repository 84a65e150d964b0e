"""The recipes of the paper's benchmarks, each from data laid out as the originals are to a measured model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from SESegmentationLib.cli import main
from SESegmentationLib.errors import InputError
from SESegmentationLib.models import ModelCard, verify_package
from SESegmentationLib.models.labels import PAIRED_BRAIN_STRUCTURES
from SESegmentationTraining import preparation
from SESegmentationTraining.dataset import find_cases
from SESegmentationTraining.recipe import Recipe
from SESegmentationTraining.training_plan import draft_card

#: what the recipes are too large for in a test
SMALL = """
extends = "{name}"
name = "{name}"
[network]
channels = {channels}
blocks = 2
kernel = 3
dropout = 0.0
[data]
validation = {validation}
[fit]
learning_rate = 1e-2
warmup = 2
average = 0.9
validate_every = {steps}
validation_batches = 1
[[phases]]
steps = {steps}
batch = 4
size = {size}
[deformation]
shift_mm = {shift_mm}
"""


def train(tmp_path: Path, dataset: Path, name: str, **small: object) -> ModelCard:
    """Train the recipe ``name``, made small, by the command; the card of what comes of it."""
    recipe = tmp_path / f"small-{name}.toml"
    recipe.write_text(
        SMALL.format(**{"name": name, "channels": 4, "validation": 1, "shift_mm": 2.0} | small), encoding="utf-8"
    )
    assert main(["train", str(dataset), "--recipe", str(recipe), "-o", str(tmp_path / name), "--device", "cpu"]) == 0
    return verify_package(tmp_path / name).card


def blocks(values: list[int], shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Label array (k, j, i) that holds each of ``values`` in a slab of its own, shuffled, between background."""
    labels = np.zeros(shape, np.int32)
    edges = np.linspace(1, shape[2] - 1, len(values) + 1).astype(int)
    for value, low, high in zip(np.random.default_rng(seed).permutation(values), edges[:-1], edges[1:], strict=True):
        labels[1:-1, 1:-1, low:high] = value
    return labels


def write(path: Path, array: np.ndarray, to_image, spacing=(1.0, 1.0, 1.0)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(to_image(array, spacing), str(path))


@pytest.fixture
def malc_archive(tmp_path, to_image) -> Path:
    """The challenge's folders with made-up brains: its numbers, cortical parcels and unused ones among them."""
    values = [*preparation.FREESURFER_VALUES, 100, 101, 206, 207, 46, 69, 15]
    for kind, names in (("training", ("1000_3", "1001_3", "1006_3")), ("testing", ("1003_3",))):
        for seed, name in enumerate(names):
            labels = blocks(values, (12, 14, 80), seed)
            image = labels * 2.0 + np.random.default_rng(seed).normal(0, 3, labels.shape)
            write(tmp_path / f"archive/{kind}-images/{name}.nii", image.astype(np.float32), to_image)
            write(tmp_path / f"archive/{kind}-labels/{name}_glm.nii", labels.astype(np.int16), to_image)
    return tmp_path / "archive"


def test_malc_from_the_challenges_folders(malc_archive, tmp_path, capfd):
    dataset = tmp_path / "data"
    assert main(["prepare", "malc", str(malc_archive), str(dataset)]) == 0
    assert "3 cases for training, 1 for test" in capfd.readouterr().out
    original = sitk.GetArrayFromImage(sitk.ReadImage(str(malc_archive / "training-labels/1001_3_glm.nii")))
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(dataset / "labelsTr/1001_3.nii.gz")))
    # left white matter, right hippocampus, third ventricle, brain stem; odd parcels left, even ones right
    for theirs, ours in ((45, 2), (47, 53), (4, 14), (35, 16), (101, 3), (207, 3), (100, 42), (206, 42)):
        assert set(np.unique(labels[original == theirs])) == {ours}, theirs
    assert not labels[np.isin(original, (0, 46, 69, 15))].any()
    card = train(tmp_path, dataset, "malc", steps=3, size=[12, 80])
    assert set(np.unique(labels)) == {0, *(label.value for label in card.labels)}
    assert len(card.labels) == 27
    assert card.training["cases"] == {"training": 2, "validation": 1, "test": 0}
    assert card.accuracy["cases"] == 1  # those of imagesTs
    assert set(card.accuracy["labels"]) == {str(label.value) for label in card.labels}


def test_malc_has_the_names_of_the_brain_model():
    """So that results of both can be compared: FreeSurfer's values and the same words."""
    malc, brain = ({label.value: label for label in draft_card(Recipe.load(n)).labels} for n in ("malc", "brain-t1"))
    assert {value: label.name for value, label in malc.items()} == {value: brain[value].name for value in malc}
    assert set(brain) - set(malc) == {5, 44, 26, 58, 24}
    pairs = {(left, right) for left, right, _ in PAIRED_BRAIN_STRUCTURES if left in malc}
    assert set(draft_card(Recipe.load("malc")).merged_pairs) == pairs
    learnt = {*preparation.FREESURFER_VALUES.values(), preparation.LEFT_CORTEX, preparation.RIGHT_CORTEX}
    assert learnt == set(malc)


@pytest.fixture
def visceral_folder(tmp_path, to_image) -> Path:
    """Volumes and a file a structure, as VISCERAL calls them; the last case lacks a structure."""
    for seed, case in enumerate(
        ("10000100_1_CTce_ThAb", "10000104_1_CTce_ThAb", "10000105_1_CTce_ThAb", "10000999_1_CT_wb")
    ):
        labels = blocks(list(preparation.RADLEX_VALUES), (8, 20, 40), seed)
        hu = np.where(labels > 0, labels % 700 - 300, -1000) + np.random.default_rng(seed).normal(0, 5, labels.shape)
        write(tmp_path / f"original/Volumes/{case}.nii.gz", hu.astype(np.int16), to_image, (2.0, 2.0, 2.0))
        for radlex in preparation.RADLEX_VALUES:
            if case == "10000999_1_CT_wb" and radlex == 237:
                continue
            path = tmp_path / f"original/Segmentations/{case}_{radlex}_7.nii.gz"
            write(path, (labels == radlex).astype(np.uint8), to_image, (2.0, 2.0, 2.0))
        # a structure that is not learnt
        write(tmp_path / f"original/Segmentations/{case}_7578_7.nii.gz", (labels == 0).astype(np.uint8), to_image)
    return tmp_path / "original"


def test_visceral_from_a_file_a_structure(visceral_folder, tmp_path, capfd):
    dataset = tmp_path / "data"
    assert main(["prepare", "visceral", str(visceral_folder), str(dataset)]) == 0
    assert capfd.readouterr().out == "3 cases; without all structures: 10000999_1_CT_wb\n"
    assert main(["prepare", "visceral", str(visceral_folder), str(dataset), "--test"]) == 0
    case = find_cases(dataset)[0]
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(case.label)))
    liver = sitk.GetArrayFromImage(sitk.ReadImage(str(visceral_folder / f"Segmentations/{case.name}_58_7.nii.gz")))
    np.testing.assert_array_equal(labels == 1, liver > 0)
    card = train(tmp_path, dataset, "visceral", steps=3, size=[20, 40])
    assert [label.name for label in card.labels][:4] == ["liver", "spleen", "right kidney", "left kidney"]
    assert set(np.unique(labels)) == {0, *(label.value for label in card.labels)}
    assert set(preparation.RADLEX_VALUES.values()) == {label.value for label in card.labels}
    assert card.accuracy["cases"] == 3
    # labels of a side say so, in name and code, as RadLex numbers them
    sides = {label.value: label.modifier.meaning for label in card.labels if label.modifier}
    assert sides == {3: "Right", 4: "Left", 5: "Right", 6: "Left", 7: "Right", 8: "Left"}


def test_duke_oct_from_pictures(tmp_path, capfd):
    """110 pictures in the original, of ten subjects; here 12 of four."""
    dataset = tmp_path / "data"
    for folder in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (dataset / folder).mkdir(parents=True)
    for subject in range(4):
        for number in range(3):
            random = np.random.default_rng(10 * subject + number)
            rows, columns = np.mgrid[:64, :48]
            depth = rows - 8 + 3 * np.sin(columns / 11 + random.uniform(0, 6))
            labels = np.where((depth >= 0) & (depth < 49), depth // 7 + 1, 0).astype(np.uint8)
            labels[24:30, 20:28] = 8
            grey = np.array([20, 60, 90, 120, 150, 180, 210, 240, 0])[labels] + random.normal(0, 4, labels.shape)
            part = "Ts" if subject == 3 else "Tr"
            name = f"S{subject + 1:02}_{number + 1:02}"
            Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(dataset / f"images{part}" / f"{name}_0000.png")
            Image.fromarray(labels).save(dataset / f"labels{part}" / f"{name}.png")
    small = {"steps": 100, "size": [64, 48], "validation": 2, "channels": 12, "shift_mm": 0.02}
    card = train(tmp_path, dataset, "duke-oct", **small)
    assert [label.value for label in card.labels] == list(range(1, 9))
    assert card.training["cases"] == {"training": 6, "validation": 3, "test": 0}  # the subject's third comes along
    split = json.loads((tmp_path / "duke-oct/training/split.json").read_text(encoding="utf-8"))
    assert len({name[:3] for name in split["validation"]}) == 1
    assert card.accuracy["cases"] == 3
    assert card.accuracy["mean_dice"] > 0.5
    out = tmp_path / "out"
    assert main(["run", str(dataset / "imagesTs"), "--model", str(tmp_path / "duke-oct"), "-o", str(out)]) == 0
    assert np.asarray(Image.open(out / "S04_02.png")).shape == (64, 48)


def test_what_is_missing_is_named(malc_archive, visceral_folder, tmp_path, capfd):
    (malc_archive / "testing-labels" / "1003_3_glm.nii").unlink()
    with pytest.raises(InputError, match="no 1003_3_glm"):
        preparation.lay_out_malc(malc_archive, tmp_path / "data")
    with pytest.raises(InputError, match="training-images"):
        preparation.lay_out_malc(tmp_path, tmp_path / "data")
    with pytest.raises(InputError, match="no volume"):
        preparation.lay_out_visceral(malc_archive, tmp_path / "data")
    liver = visceral_folder / "Segmentations" / "10000104_1_CTce_ThAb_58_7.nii.gz"
    image = sitk.ReadImage(str(liver))
    image.SetOrigin((0, 50, 0))
    sitk.WriteImage(image, str(liver))
    with pytest.raises(InputError, match="grid"):
        preparation.lay_out_visceral(visceral_folder, tmp_path / "data")
    assert main(["prepare", "malc", str(tmp_path / "absent"), str(tmp_path / "data")]) == 2
    assert len(capfd.readouterr().err.splitlines()) == 2
