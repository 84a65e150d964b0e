"""A model finds both hippocampi in a head, another one their parts; of the right one it sees the mirror image."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationLib.errors import CancelledError, ModelError
from SESegmentationLib.geometry import Geometry
from SESegmentationLib.inference import cascade
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.inference.model_grid import to_model_grid
from SESegmentationLib.models.labels import structure_label
from SESegmentationLib.result import SegmentOptions
from SESegmentationTraining.repeatability import measure_repeatability

PIPELINE = {
    "locator": "phantom",
    "margin_mm": 3,
    "targets": [
        {"locator_value": 17, "mirror": False, "values": {"1": 1, "2": 2}},
        {"locator_value": 53, "mirror": True, "values": {"1": 3, "2": 4}},
    ],
}
NAMES = [(1, "anterior hippocampus"), (2, "posterior hippocampus")]


def part_entries(**changes: Any) -> dict[str, Any]:
    """Card of a model of crops whose label 1 is the first half of the columns, which run to the right."""
    labels = [structure_label(1, "anterior hippocampus"), structure_label(2, "posterior hippocampus")]
    return {
        "name": "parts",
        "networks": {"sided": {"type": "SidedThreshold", "in_channels": 1}},
        "views": [
            {"plane": plane, "weight": 1.0, "network": "sided", "thickness": 1} for plane in ("axial", "coronal")
        ],
        "labels": [label.to_dict() for label in labels],
        "merged_pairs": [],
        "input": {"kind": "crop", "extent_mm": [[10, 50], [10, 50], [10, 50]]},
        "pipeline": PIPELINE,
    } | changes


@pytest.fixture(scope="module")
def parts(make_package, tmp_path_factory):
    """The package, with its locator beside it."""
    folder = tmp_path_factory.mktemp("cascade")
    make_package(folder / "phantom")
    return make_package(folder / "parts", **part_entries())


@pytest.fixture(scope="module")
def phantom(make_phantom):
    return make_phantom(spacing=(1.0, 1.2, 0.9))


@pytest.fixture(scope="module")
def result(parts, phantom):
    return Engine(parts, device="cpu").segment(phantom[0])


def test_both_sides_are_found_and_named(result):
    assert [(structure.label.value, structure.label.name) for structure in result.structures] == [
        (1, "left anterior hippocampus"),
        (2, "left posterior hippocampus"),
        (3, "right anterior hippocampus"),
        (4, "right posterior hippocampus"),
    ]
    assert [structure.label.modifier.meaning for structure in result.structures] == ["Left", "Left", "Right", "Right"]
    assert all(structure.confidence > 0.8 for structure in result.structures)


def test_the_crops_are_where_the_structures_are(result, phantom, dice):
    image, truth = phantom
    assert Geometry.of(result.labels) == Geometry.of(image)
    labels = sitk.GetArrayFromImage(result.labels)
    assert dice((labels == 1) | (labels == 2), truth == 1) > 0.98
    assert dice((labels == 3) | (labels == 4), truth == 2) > 0.98


def test_the_right_one_is_seen_in_the_mirror_and_turned_back(result):
    """The network calls the first columns 1: on the left the patient's left half, in the mirror the right half."""
    x = {structure.label.value: structure.centre_lps[0] for structure in result.structures}
    assert x[1] > x[2] + 5  # LPS: x grows to the left
    assert x[2] > x[4] + 10
    assert x[4] > x[3] + 5


def test_seconds_are_told_for_each_target(result):
    assert list(result.timings) == ["locate", "prepare", "left hippocampus", "right hippocampus", "measure"]


def test_a_side_that_is_not_there_is_missing(parts, phantom):
    array = sitk.GetArrayFromImage(phantom[0])
    array[:, :, array.shape[2] // 2 :] = 0  # the right side
    half = sitk.GetImageFromArray(array)
    half.CopyInformation(phantom[0])
    result = Engine(parts, device="cpu").segment(half)
    assert [structure.voxels > 0 for structure in result.structures] == [True, True, False, False]
    assert "not-found" in {finding.code for finding in result.findings}


def test_a_crop_is_segmented_as_it_is(parts, phantom):
    image = phantom[0][:34, :, 2:-2]
    result = Engine(parts, device="cpu").segment(image)
    assert [structure.label.value for structure in result.structures] == [1, 2]
    assert "axial" in result.timings


def test_a_region_is_segmented_without_looking_for_it(parts, phantom):
    image, truth = phantom
    roi = Geometry.of(image).image((truth == 2).astype(np.uint8))
    result = Engine(parts, device="cpu").segment(image, SegmentOptions(roi=roi))
    assert [structure.label.value for structure in result.structures] == [1, 2]
    labels = sitk.GetArrayFromImage(result.labels)
    assert labels[truth == 2].mean() > 0.9
    assert not labels[truth == 1].any()


def test_locating_can_be_cancelled(parts, phantom):
    told = []

    def cancel(phase: str, fraction: float, seconds_left: float | None) -> None:
        told.append((phase, fraction))
        if fraction > 0.3:
            raise CancelledError("Cancelled.")

    with pytest.raises(CancelledError):
        Engine(parts, device="cpu").segment(phantom[0], progress=cancel)
    assert {phase for phase, _ in told} == {"locate"}


def test_boxes_have_a_margin_and_stay_on_the_grid(parts, phantom):
    targets = cascade.plan_targets(parts.card, cascade.find_locator(parts).card)
    assert [(target.name, target.located_as, target.mirrored) for target in targets] == [
        ("left hippocampus", 17, False),
        ("right hippocampus", 53, True),
    ]
    geometry = Geometry((60, 60, 60), (1.0, 1.0, 1.0), (0.0,) * 3)  # RAS, as the grid
    array = np.zeros(geometry.shape, np.uint8)
    array[20:30, 10:15, 1:9] = 17
    _, grid = to_model_grid(geometry.image(np.random.default_rng(0).normal(size=geometry.shape)), parts.card)
    box, nothing = cascade.locate_targets(targets, geometry.image(array), grid, 4.0)
    assert nothing is None
    for side, (first, last) in zip(box, ((16, 34), (6, 19), (0, 13)), strict=True):
        assert side.start in (first, max(first - 1, 0))  # corners lie between voxels, where rounding decides
        assert side.stop in (last, last + 1)


def test_pairs_are_sides_of_the_same_part(parts):
    targets = cascade.plan_targets(parts.card, cascade.find_locator(parts).card)
    assert cascade.sided_pairs(targets) == [(1, 3), (2, 4)]
    assert cascade.sided_pairs(targets[:1]) == []


def test_without_its_locator_the_model_says_what_is_missing(parts, phantom, tmp_path, monkeypatch):
    monkeypatch.delenv("SESEGMENTATION_MODELS", raising=False)
    shutil.copytree(parts.path, tmp_path / "parts")
    with pytest.raises(ModelError) as raised:
        Engine(replace(parts, path=tmp_path / "parts"), device="cpu").segment(phantom[0])
    assert "needs the model phantom" in raised.value.cause
    assert "region of interest" in raised.value.remedy


def test_a_locator_on_the_search_path_is_found(parts, tmp_path, monkeypatch):
    shutil.copytree(parts.path, tmp_path / "parts")
    monkeypatch.setenv("SESEGMENTATION_MODELS", str(parts.path.parent))
    assert cascade.find_locator(replace(parts, path=tmp_path / "parts")).card.name == "phantom"


@pytest.mark.parametrize(
    "pipeline",
    [
        {"locator": "phantom"},
        {"locator": "phantom", "targets": 3},
        {"locator": "phantom", "targets": [{"values": {"1": 1}}]},
        {"locator": "phantom", "targets": [{"locator_value": 99, "values": {"1": 1}}]},
        {"locator": "phantom", "targets": [{"locator_value": 17, "values": {"9": 1}}]},
    ],
)
def test_a_pipeline_that_suits_nothing_is_the_model_s_fault(parts, pipeline):
    locator = cascade.find_locator(parts).card
    with pytest.raises(ModelError, match="pipeline of the model parts"):
        cascade.plan_targets(replace(parts.card, pipeline=pipeline), locator)


def test_a_pipeline_without_locator_is_the_model_s_fault(parts):
    with pytest.raises(ModelError, match="names no locator"):
        cascade.find_locator(replace(parts, card=replace(parts.card, pipeline={"targets": []})))


def test_all_that_a_model_can_return_with_its_own_values(parts):
    sides = [(own, f"{side} {part}") for side in ("left", "right") for own, part in NAMES]
    found = cascade.possible_structures(parts.card, parts.path.parent)
    assert [(own, label.name) for own, label in found] == [*NAMES, *sides]
    assert [label.value for _, label in found] == [1, 2, 1, 2, 3, 4]
    lonely = replace(parts.card, pipeline=PIPELINE | {"locator": "absent"})
    assert [label for _, label in cascade.possible_structures(lonely)] == list(parts.card.labels)
    assert [label.name for _, label in cascade.possible_structures(replace(parts.card, pipeline=None))] == [
        name for _, name in NAMES
    ]


def test_both_sides_count_for_the_noise_of_the_card_s_own_structures(parts, phantom, tmp_path, capsys):
    scan = tmp_path / "head.nii.gz"
    sitk.WriteImage(phantom[0], str(scan))
    volumes = {"left anterior": (1.0, 1.1), "left posterior": (1, 1), "right anterior": (1.0, 1.3)}

    def segment(engine, image, options):
        time = times.pop(0)
        found = [replace(s, volume_ml=pair[time]) for s, pair in zip(every, volumes.values(), strict=True)]
        return replace(whole, structures=found)

    whole = Engine(parts, device="cpu").segment(phantom[0])
    every = [s for s in whole.structures if s.label.name.removesuffix(" hippocampus") in volumes]
    times = [0, 1]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Engine, "segment", segment)
        measure_repeatability(str(parts.path), [], [scan])
    shares = json.loads(capsys.readouterr().out)["within_scan_sd"]
    both = np.sqrt(np.mean(np.square([0.1 / 1.05, 0.3 / 1.15])) / 2)
    assert shares == {"1": pytest.approx(both, abs=1e-4), "2": 0.0}


def test_structures_are_listed_without_torch(shipped_weights):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from SESegmentationLib.inference.cascade import possible_structures\n"
        "from SESegmentationLib.models import find_model\n"
        "print(len(possible_structures(find_model('hippocampus-t1').card)))"
    )
    folder = str(shipped_weights.parent / "SESegmentation")
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, timeout=60)
    assert told.stdout.strip() == "6", told.stderr


@pytest.mark.parametrize(("degrees", "axis"), [(0, 2), (40, 2), (45, 0), (70, 1), (90, 0)])
def test_a_turned_crop_is_a_crop_and_a_turned_volume_a_volume(parts, degrees, axis):
    """A crop of 45 mm that is turned by 45 degrees reaches over 64 mm."""
    turn = sitk.VersorTransform([float(n == axis) for n in range(3)], np.radians(degrees)).GetMatrix()
    for size, is_whole in (((45, 45, 49), False), ((45, 45, 55), True), ((70, 70, 70), True)):
        image = sitk.Image(size, sitk.sitkUInt8)
        image.SetDirection(turn)
        assert (cascade.Cascade.for_volume(parts, image) is not None) == is_whole
