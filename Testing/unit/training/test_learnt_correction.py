"""Training what corrects: mistakes are collected once, steps are resumed, harm costs, and bad recipes are told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from safetensors.torch import load_file

from drawn_hippocampus import draw_sample
from SESegmentationLib.errors import InputError
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.models import ModelPackage
from SESegmentationLib.networks.correction import CorrectionNetwork
from SESegmentationLib.networks.weights import from_eight_bits
from SESegmentationLib.refine.learnt_correction import ANY_MODEL, LearntCorrection
from SESegmentationTraining import learnt_correction
from SESegmentationTraining.correction_examples import (
    CorrectionExamples,
    Example,
    SegmentedCase,
    segment_case,
    segment_cases,
    shifts_of,
)
from SESegmentationTraining.dataset import Split, find_cases
from SESegmentationTraining.learnt_correction import CorrectionRecipe, correction_loss, train_correction

QUICK = replace(CorrectionRecipe.load("any-model"), channels=(4, 8), steps=2, batch=2, size=16, settled=0.5)


@pytest.fixture(scope="module")
def engine(tiny_model):
    return Engine(ModelPackage.from_folder(tiny_model), "cpu")


@pytest.fixture
def dataset(tmp_path) -> Path:
    """Two cases, the second the mirror image of the first."""
    sample = draw_sample()
    for name, turn in (("a", lambda image: image), ("b", lambda image: sitk.Flip(image, (True, False, False)))):
        for folder, image, end in (("imagesTr", sample.image, "_0000"), ("labelsTr", sample.labels, "")):
            (tmp_path / folder).mkdir(exist_ok=True)
            sitk.WriteImage(turn(image), str(tmp_path / folder / f"{name}{end}.nii.gz"))
    return tmp_path


@pytest.fixture
def train(dataset, tmp_path, tiny_model, monkeypatch):
    """Function that trains on the first case, the other one kept out."""
    monkeypatch.setattr(learnt_correction, "recipe_of", lambda package: None)
    monkeypatch.setattr(learnt_correction, "split_by_recipe", lambda names, recipe: Split(["a"], [], ["b"]))
    monkeypatch.setattr("SESegmentationTraining.correction_examples.shifts_of", lambda case: [(), ("noise",)])

    def run(steps: int = 2, name: str = "out") -> Path:
        (tmp_path / name).mkdir(exist_ok=True)
        return train_correction(dataset, replace(QUICK, model=str(tiny_model), steps=steps), tmp_path / name)

    return run


def test_mistakes_are_those_of_the_model_and_are_kept(engine, dataset, tmp_path):
    case = find_cases(dataset)[0]
    files = list(segment_cases(engine, [case], tmp_path / "kept"))
    assert len(files) == len(shifts_of("a")) == len(set(files)) and shifts_of("a") == shifts_of("a")
    before = {path: path.stat().st_mtime_ns for path in files}
    assert list(segment_cases(engine, [case], tmp_path / "kept")) == files
    assert {path: path.stat().st_mtime_ns for path in files} == before
    plain = next(found for found in map(SegmentedCase.load, files) if not found.shifts)
    sample = draw_sample()
    assert (plain.truth == sitk.GetArrayFromImage(sitk.DICOMOrient(sample.labels, "RAS"))).all()
    again = segment_case(engine, sample.image, sample.labels, (), "a")
    assert (again.probabilities == plain.probabilities).all() and (again.own == plain.own).all()


def test_it_is_trained_resumed_and_written_with_its_split(train, capsys):
    first = train(steps=2)
    card = json.loads(first.with_suffix(".json").read_text(encoding="utf-8"))
    assert card["split"] == {"training": ["a"], "validation": [], "test": ["b"]}
    assert card["licence"]["spdx"] and card["least_gain"] == QUICK.least_gain and card["data"]
    assert {path.name.split("+")[0].split(".")[0] for path in (first.parent / "mistakes").iterdir()} == {"a"}
    weights = from_eight_bits(load_file(first))
    CorrectionNetwork(tuple(card["channels"])).load_state_dict(weights)
    resumed = from_eight_bits(load_file(train(steps=3)))
    assert any(not torch.equal(value, weights[key]) for key, value in resumed.items())
    steps = [json.loads(line)["step"] for line in (first.parent / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert steps == [2, 3]


def test_the_network_of_one_model_begins_as_the_one_for_any(dataset, tiny_model, train, tmp_path):
    general = LearntCorrection.load(ANY_MODEL).network.state_dict()
    own = replace(CorrectionRecipe.load("hippocampus-t1"), model=str(tiny_model), steps=1, batch=1, size=16, rate=0.0)
    train(steps=1)  # the split is known from here on
    trained = train_correction(dataset, own, tmp_path / "own")
    assert trained.name == "hippocampus-t1.safetensors"
    kept = from_eight_bits(load_file(trained))
    for key, value in general.items():
        if "running" not in key and "num_batches" not in key:
            assert torch.allclose(kept[key].float(), value, atol=0.02 * float(value.abs().max()) + 1e-6), key


def test_examples_of_one_model_lie_as_in_its_scans(tmp_path):
    """They are mirrored from left to right alone: what is higher, or further to the front, stays so."""
    own = np.zeros((16, 16, 16), np.uint8)
    own[2:7, 2:8, 4:13] = 1  # low, and at the back
    own[9:14, 9:15, 4:13] = 2
    truth = own.copy()
    truth[6, 2:8, 4:13] = 0
    chance = np.stack([own == value for value in range(3)]).astype(np.uint8) * 255
    image = np.random.default_rng(0).random(own.shape, np.float32)
    SegmentedCase(image, chance, own, truth, (), "a").save(tmp_path / "a.npz")

    def turned(any_model: bool) -> int:
        examples = CorrectionExamples([tmp_path / "a.npz"], 16, 1.0, seed=1, any_model=any_model)
        count = 0
        for _ in range(40):
            structure, other = examples.draw(1).inputs[0, [1, 3]] > 0.5
            if other.any():
                low, high = sorted((structure.nonzero().float().mean(0), other.nonzero().float().mean(0)), key=sum)
                count += not bool(low[0] < high[0] and low[1] < high[1] and abs(low[2] - high[2]) < 1.5)
        return count

    assert turned(any_model=False) == 0
    assert turned(any_model=True) > 5


def test_examples_hide_what_was_not_looked_at(tmp_path):
    """Where nobody looked the input says nothing of the truth, and only there it counts."""
    sample = draw_sample()
    truth = sitk.GetArrayFromImage(sample.labels).astype(np.uint8)
    own = np.roll(truth, 2, axis=1)
    chance = np.stack([np.where(own == value, 200, 27) for value in range(3)]).astype(np.uint8)
    image = sitk.GetArrayFromImage(sample.image).astype(np.float16)
    SegmentedCase(image, chance, own, truth, (), "a").save(tmp_path / "a.npz")
    examples = CorrectionExamples([tmp_path / "a.npz"], 24, 1.0, seed=3)
    for _ in range(8):
        example = examples.draw(1)
        known, labels, error = (example.inputs[0, channel] for channel in (4, 5, 7))
        unseen = known == 0
        assert not labels[unseen].any() and not error[unseen].any()
        assert (example.counts[0] <= unseen.float()).all() and example.counts.any()


def test_a_structure_that_is_nowhere_to_be_seen_gives_no_example(tmp_path):
    """The one structure lies where nobody looks and the model has none of it; the other is corrected in its slices."""
    own, truth = np.zeros((2, 12, 12, 12), np.uint8)
    own[2:5, 3:6, 3:6], truth[2:5, 3:8, 3:8] = 1, 1
    truth[10:, 10:, 10:] = 2
    probabilities = np.stack([own == channel for channel in range(3)]).astype(np.uint8) * 255
    path = tmp_path / "case.npz"
    SegmentedCase(np.random.default_rng(0).random(own.shape, np.float32), probabilities, own, truth, (), "case").save(
        path
    )
    example = CorrectionExamples([path], 12, 1.0, 0).draw(60)
    assert len(example.truth) == 60


def test_harm_costs_more_than_the_same_good_gains():
    """What was right and is spoilt weighs more than what was wrong and is left."""
    truth = torch.zeros(1, 8, 8, 8)
    truth[0, 2:6, 2:6, 2:6] = 1
    right, half = truth * 0.8 + 0.1, truth.clone()
    half[0, 4:] = 0
    example = Example(torch.zeros(1, 10, 8, 8, 8), right, truth, torch.ones_like(truth))
    spoilt = (half - 0.5) * 6
    costs = [float(correction_loss(spoilt, torch.zeros(1), example, harm)) for harm in (0.0, 3.0)]
    assert costs[1] > costs[0] + 0.3
    kept = (truth - 0.5) * 6
    assert float(correction_loss(kept, torch.zeros(1), example, 3.0)) == pytest.approx(
        float(correction_loss(kept, torch.zeros(1), example, 0.0))
    )


def test_recipes_that_cannot_be_used_are_told(tmp_path):
    (tmp_path / "bad.toml").write_text("model = 'x'\n", encoding="utf-8")
    for name in ("nothing", str(tmp_path / "bad.toml"), str(tmp_path / "absent.toml")):
        with pytest.raises(InputError, match="cannot be used"):
            CorrectionRecipe.load(name)
