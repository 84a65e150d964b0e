"""Training what corrects: mistakes are collected once, steps are resumed, harm costs, and bad recipes are told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from safetensors.torch import load_file, save_file

from drawn_hippocampus import draw_sample
from SESegmentationLib.errors import InputError, SegmentationError, UsageError
from SESegmentationLib.inference.intensity import normalise
from SESegmentationLib.models import ModelPackage
from SESegmentationLib.networks.correction import CorrectionNetwork
from SESegmentationLib.networks.quantisation import from_eight_bits
from SESegmentationLib.refine.learnt_correction import ANY_MODEL, LearntCorrection
from SESegmentationTraining import correction_examples, learnt_correction, mistakes
from SESegmentationTraining.correction_examples import CorrectionExamples, Example
from SESegmentationTraining.dataset import Split
from SESegmentationTraining.learnt_correction import CorrectionRecipe, correction_loss, train_correction
from SESegmentationTraining.mistakes import (
    MistakesRecord,
    SegmentedCase,
    collect_mistakes,
    load_cases,
    shifts_of,
    with_share,
)

QUICK = replace(CorrectionRecipe.load("any-model"), channels=(4, 8), steps=2, batch=2, size=16, settled=0.5)
SPLIT = Split(["a"], [], ["b"])


class TwoVolumes:
    """A source of two cases, the second kept out for test."""

    split = SPLIT

    def __init__(self, image: np.ndarray, truth: np.ndarray) -> None:
        self.volumes = {"a": (image, truth), "b": (image[::-1], truth[::-1])}

    def whole_volumes(self, generator, group="validation"):
        for name in getattr(self.split, group):
            yield name, *self.volumes[name]


@pytest.fixture
def collect(tmp_path, tiny_model, monkeypatch):
    """Function that collects the mistakes of a tiny model."""
    package = ModelPackage.from_folder(tiny_model)
    sample = draw_sample()
    image = normalise(sitk.GetArrayFromImage(sample.image).astype(np.float32), package.card.intensity)
    source = TwoVolumes(image, sitk.GetArrayFromImage(sample.labels).astype(np.uint8))
    asked = []
    monkeypatch.setattr(mistakes, "recipe_of", lambda package, name: asked.append(name))
    monkeypatch.setattr(mistakes, "open_source", lambda *arguments: source)
    monkeypatch.setattr(mistakes, "ONE", 1)
    monkeypatch.setattr(mistakes, "TWO", 1)

    def run(
        name: str = "mistakes", group: str = "training", test_cases: Sequence[str] = ("b",), recipe: str | None = None
    ) -> list[Path]:
        card = replace(package.card, training={**package.card.training, "test_cases": list(test_cases)})
        return collect_mistakes(replace(package, card=card), tmp_path, tmp_path / name, group, recipe=recipe)

    run.asked = asked
    return run


@pytest.fixture
def train(collect, tmp_path):
    """Function that trains on the first case, the other one kept out."""

    def run(steps: int = 2, name: str = "out") -> Path:
        folder = collect()[0].parent
        return train_correction([(folder, 1.0)], replace(QUICK, steps=steps), tmp_path / name)

    return run


def test_mistakes_are_those_of_the_model_and_are_kept(collect, tmp_path):
    files = collect()
    assert len(files) == len(set(files)) == 3
    before = {path: path.stat().st_mtime_ns for path in files}
    assert collect() == files
    assert {path: path.stat().st_mtime_ns for path in files} == before
    found = [case for path in files for case in load_cases(path)]
    assert sorted(len(case.shifts) for case in found) == [0, 1, 2] and {case.case for case in found} == {"a"}
    sample = draw_sample()
    for case in found:
        assert (case.truth == sitk.GetArrayFromImage(sample.labels)).all() and not case.single
        assert case.own.shape == case.truth.shape == case.image.shape == case.probabilities.shape[1:]
        assert abs(case.probabilities.astype(int).sum(0) - 255).max() <= len(case.probabilities)
    record = MistakesRecord.load(tmp_path / "mistakes")
    assert record.split == SPLIT and record.group == "training" and record.licence["spdx"]
    assert {case.case for path in collect("test", "test") for case in load_cases(path)} == {"b"}
    with pytest.raises(UsageError, match="no group"):
        collect("other", "others")
    with pytest.raises(InputError, match="do not split"):
        collect("other", test_cases=["c"])
    assert shifts_of("a") == shifts_of("a")


def test_the_recipe_of_a_model_may_be_a_file_of_ones_own(collect):
    collect(recipe="own.toml")
    collect()
    assert collect.asked == ["own.toml", None]


def test_of_large_volumes_every_structure_is_kept_with_what_lies_round_it(collect, monkeypatch):
    whole = load_cases(collect("whole")[0])[0]
    monkeypatch.setattr(mistakes, "LARGEST_WHOLE", 100)
    monkeypatch.setattr(mistakes, "LARGEST_PART", 24)
    monkeypatch.setattr(mistakes, "ONE_HEAD", 1)
    monkeypatch.setattr(mistakes, "TWO_HEAD", 0)
    files = collect("parts")
    assert len(files) == 2
    for path in files:
        parts = load_cases(path)
        assert parts and all(part.single and set(np.unique(part.truth)) <= {0, 1, 2} for part in parts)
        assert all(max(part.own.shape) <= 24 and (part.truth == 1).any() for part in parts)
    assert len(load_cases(files[0])) == len(set(np.unique(whole.truth)) - {0})


def test_a_share_of_mistakes_is_a_number_above_0():
    assert with_share("a folder") == (Path("a folder"), 1.0) and with_share("b=0.35") == (Path("b"), 0.35)
    for entry in ("a=0", "a=-1", "a=half", "a=inf", "a="):
        with pytest.raises(UsageError, match="not a number above 0"):
            with_share(entry)


def test_it_is_trained_resumed_and_written_with_its_cases(train):
    first = train(steps=2)
    card = json.loads(first.with_suffix(".json").read_text(encoding="utf-8"))
    (learnt,) = card["learnt_from"]
    assert learnt["split"] == {"training": ["a"], "validation": [], "test": ["b"]} and learnt["cases"] == ["a"]
    assert learnt["licence"]["spdx"] and learnt["data"] and card["least_gain"] == QUICK.least_gain
    weights = from_eight_bits(load_file(first))
    CorrectionNetwork(tuple(card["channels"])).load_state_dict(weights)
    resumed = from_eight_bits(load_file(train(steps=3)))
    assert any(not torch.equal(value, weights[key]) for key, value in resumed.items())
    steps = [json.loads(line)["step"] for line in (first.parent / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert steps == [2, 3]
    assert train(steps=3).read_bytes()  # there is nothing left to do


def test_a_training_goes_on_with_the_same_recipe_and_mistakes_only(collect, tmp_path):
    one, other = collect("one")[0].parent, collect("other", "test")[0].parent
    train_correction([(one, 1.0)], QUICK, tmp_path / "out")
    before = (tmp_path / "out" / "checkpoint.safetensors").read_bytes()
    for mistakes_of, recipe in (
        ([(one, 1.0)], replace(QUICK, rate=QUICK.rate / 2)),
        ([(other, 1.0)], QUICK),
        ([(one, 0.5), (other, 0.5)], QUICK),
    ):
        with pytest.raises(UsageError, match="another recipe or on other mistakes"):
            train_correction(mistakes_of, recipe, tmp_path / "out")
    file, *_, last = sorted(one.glob("*.npz"))
    content = file.read_bytes()
    for damage in (lambda: shutil.copyfile(last, file), lambda: shutil.copyfile(last, one / "more.npz")):
        damage()
        with pytest.raises(UsageError, match=r"on other mistakes: --mistakes 1 \S+\.npz changed since"):
            train_correction([(one, 1.0)], QUICK, tmp_path / "out")
        file.write_bytes(content)
    (one / "more.npz").unlink()
    assert (tmp_path / "out" / "checkpoint.safetensors").read_bytes() == before
    chosen_later = train_correction([(one, 1.0)], replace(QUICK, least_gain=0.125), tmp_path / "out")
    assert json.loads(chosen_later.with_suffix(".json").read_text(encoding="utf-8"))["least_gain"] == 0.125


def test_a_training_that_diverges_is_told_and_keeps_its_checkpoint(collect, tmp_path, monkeypatch):
    folder = collect()[0].parent
    train_correction([(folder, 1.0)], QUICK, tmp_path / "out")
    before = (tmp_path / "out" / "checkpoint.safetensors").read_bytes()
    monkeypatch.setattr(learnt_correction, "correction_loss", lambda logits, *_: logits.sum() * float("nan"))
    with pytest.raises(SegmentationError, match="diverged: by step 3 the loss is not finite"):
        train_correction([(folder, 1.0)], replace(QUICK, steps=3), tmp_path / "out")
    assert (tmp_path / "out" / "checkpoint.safetensors").read_bytes() == before


def test_mistakes_of_several_models_are_learnt_from_together(collect, tmp_path):
    one, other = collect("one")[0].parent, collect("other", "test")[0].parent
    path = train_correction([(one, 0.3), (other, 0.7)], replace(QUICK, steps=1), tmp_path / "out")
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert [entry["cases"] for entry in card["learnt_from"]] == [["a"], ["b"]]


@pytest.mark.parametrize("damage", ["no folder", "no file", "empty", "a text", "cut off", "another file"])
def test_mistakes_that_cannot_be_learnt_from_are_told(collect, tmp_path, damage):
    files = collect()
    folder = files[0].parent
    if damage == "no folder":
        folder = tmp_path / "nowhere"
    elif damage == "no file":
        for path in files:
            path.unlink()
    elif damage == "another file":
        np.savez(files[0], something=np.zeros(3))
    else:
        content = {"empty": b"", "a text": b"hello", "cut off": files[0].read_bytes()[:2000]}[damage]
        files[0].write_bytes(content)
    with pytest.raises(InputError, match="no mistakes of a model"):
        train_correction([(folder, 1.0)], QUICK, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_holds_mistakes_of_one_model_on_one_group(collect):
    before = {path: path.stat().st_mtime_ns for path in collect()}
    with pytest.raises(UsageError, match="another model"):
        collect(group="test")
    assert {path: path.stat().st_mtime_ns for path in collect()} == before


def test_a_head_of_which_too_little_is_seen_gives_no_file(collect, monkeypatch):
    monkeypatch.setattr(mistakes, "LARGEST_WHOLE", 100)
    monkeypatch.setattr(mistakes, "FEWEST_VOXELS", 10**6)
    assert collect() == []


def test_the_network_of_one_model_begins_as_the_one_for_any(collect, tmp_path):
    general = LearntCorrection.load(ANY_MODEL).network.state_dict()
    own = replace(CorrectionRecipe.load("hippocampus-t1"), steps=1, batch=1, size=16, rate=0.0)
    trained = train_correction([(collect()[0].parent, 1.0)], own, tmp_path / "own")
    assert trained.name == "hippocampus-t1.safetensors"
    kept = from_eight_bits(load_file(trained))
    for key, value in general.items():
        if "running" not in key and "num_batches" not in key:
            assert torch.allclose(kept[key].float(), value, atol=0.02 * float(value.abs().max()) + 1e-6), key


def test_it_goes_on_with_the_network_it_began_as_only(collect, tmp_path, monkeypatch):
    """Replaced under its name, as a newer version of the program does."""
    folder, networks = collect()[0].parent, tmp_path / "networks"
    networks.mkdir()
    for suffix in (".safetensors", ".json"):
        shutil.copyfile(ANY_MODEL.with_suffix(suffix), networks / f"any-model{suffix}")
    monkeypatch.setattr(learnt_correction, "FOLDER", networks)
    own = replace(CorrectionRecipe.load("hippocampus-t1"), steps=1, batch=1, size=16)
    train_correction([(folder, 1.0)], own, tmp_path / "own")
    weights = from_eight_bits(load_file(networks / "any-model.safetensors"))
    save_file({key: value.contiguous() for key, value in weights.items()}, networks / "any-model.safetensors")
    with pytest.raises(UsageError, match="begun with other weights of any-model"):
        train_correction([(folder, 1.0)], own, tmp_path / "own")


def test_small_cubes_are_learnt_from_without_memory_that_nobody_wrote(collect, tmp_path):
    """In bfloat16, 12 such steps beside NaN in freed memory made NaN of weights in two of four runs."""

    def leave_nan_behind(*_) -> None:
        for size in (10, 100, 1000, 5000, 10**4, 10**5, 10**6):
            del [torch.full((size,), float("nan")) for _ in range(20)][:]

    recipe = replace(CorrectionRecipe.load("hippocampus-t1"), steps=12, batch=1, size=16)
    trained = train_correction([(collect()[0].parent, 1.0)], recipe, tmp_path / "own", leave_nan_behind)
    assert all(bool(value.isfinite().all()) for value in from_eight_bits(load_file(trained)).values())


def test_examples_of_one_model_lie_as_in_its_scans():
    """They are mirrored from left to right alone: what is higher, or further to the front, stays so."""
    own = np.zeros((16, 16, 16), np.uint8)
    own[2:7, 2:8, 4:13] = 1  # low, and at the back
    own[9:14, 9:15, 4:13] = 2
    truth = own.copy()
    truth[6, 2:8, 4:13] = 0
    chance = np.stack([own == value for value in range(3)]).astype(np.uint8) * 255
    image = np.random.default_rng(0).random(own.shape, np.float32)
    case = SegmentedCase(image, chance, own, truth, (), "a")

    def turned(any_model: bool) -> int:
        examples = CorrectionExamples([(1.0, [case])], 16, 1.0, seed=1, any_model=any_model)
        count = 0
        for _ in range(40):
            structure, other = examples.draw(1).inputs[0, [1, 3]] > 0.5
            if other.any():
                low, high = sorted((structure.nonzero().float().mean(0), other.nonzero().float().mean(0)), key=sum)
                count += not bool(low[0] < high[0] and low[1] < high[1] and abs(low[2] - high[2]) < 1.5)
        return count

    assert turned(any_model=False) == 0
    assert turned(any_model=True) > 5


def test_examples_hide_what_was_not_looked_at():
    """Where nobody looked the input says nothing of the truth, and only there it counts."""
    sample = draw_sample()
    truth = sitk.GetArrayFromImage(sample.labels).astype(np.uint8)
    own = np.roll(truth, 2, axis=1)
    chance = np.stack([np.where(own == value, 200, 27) for value in range(3)]).astype(np.uint8)
    image = sitk.GetArrayFromImage(sample.image).astype(np.float16)
    examples = CorrectionExamples([(1.0, [SegmentedCase(image, chance, own, truth, (), "a")])], 24, 1.0, seed=3)
    for _ in range(8):
        example = examples.draw(1)
        known, labels, error = (example.inputs[0, channel] for channel in (4, 5, 7))
        unseen = known == 0
        assert not labels[unseen].any() and not error[unseen].any()
        assert (example.counts[0] <= unseen.float()).all() and example.counts.any()


def test_a_structure_that_is_nowhere_to_be_seen_gives_no_example():
    """The one structure lies where nobody looks and the model has none of it; the other is corrected in its slices."""
    own, truth = np.zeros((2, 12, 12, 12), np.uint8)
    own[2:5, 3:6, 3:6], truth[2:5, 3:8, 3:8] = 1, 1
    truth[10:, 10:, 10:] = 2
    probabilities = np.stack([own == channel for channel in range(3)]).astype(np.uint8) * 255
    image = np.random.default_rng(0).random(own.shape, np.float32)
    case = SegmentedCase(image, probabilities, own, truth, (), "case")
    example = CorrectionExamples([(1.0, [case])], 12, 1.0, 0).draw(60)
    assert len(example.truth) == 60


@pytest.mark.parametrize("empty", [False, True], ids=["no mistake", "no structure"])
def test_mistakes_that_leave_nothing_to_correct_are_told(empty, monkeypatch):
    """Examples would be looked for without end."""
    monkeypatch.setattr(correction_examples, "MOST_WITHOUT_EXAMPLE", 20)
    monkeypatch.setattr(correction_examples, "BIASED", 0.0)
    truth = np.zeros((12, 12, 12), np.uint8)
    truth[3:9, 3:9, 3:9] = not empty
    chance = np.stack([truth == 0, truth == 1]).astype(np.uint8) * 255
    case = SegmentedCase(np.zeros(truth.shape, np.float16), chance, truth, truth, (), "a")
    with pytest.raises(InputError, match="nothing to correct"):
        CorrectionExamples([(1.0, [case])], 12, 1.0, seed=3).draw(50)


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
    with pytest.raises(InputError, match="cannot be used"):
        CorrectionRecipe.load(str(tmp_path / "bad.toml"))
    for name in ("nothing", str(tmp_path / "absent.toml")):
        with pytest.raises(UsageError, match="There is no recipe") as caught:
            CorrectionRecipe.load(name)
        assert "any-model, hippocampus-t1" in caught.value.remedy


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("rate = 1.2e-3", "rate = nan", "rate is nan, expected a finite number"),
        ("rate = 1.2e-3", "rate = -1.0", "rate is a number from 0 to 1"),
        ("rate = 1.2e-3", 'rate = "slow"', "rate is 'slow', expected a finite number"),
        ("steps = 6000", "steps = 60.5", "steps is 60.5, expected a whole number"),
        ("batch = 4", "batch = 0", "batch is above 0"),
        ("size = 32", "size = 4", "size is at least 16, for as many levels"),
        ("harm = 1.5", "harm = -1", "harm is a number from 0 to 1000"),
        ("harm = 1.5", "harm = 1e9", "harm is a number from 0 to 1000"),
        ("size = 32", "size = 1000000000", "size is at least 16, for as many levels, at most 4096"),
        ("batch = 4", "batch = 1000000000", "batch is above 0, at most 4096"),
        ("least_gain = 0.0", "least_gain = 1e9", "least_gain is a number from -1 to 1"),
        ("settled = 0.7", "settled = 7", "plain_share and settled"),
        ("channels = [8, 32, 64, 96]", "channels = [8]", "channels are numbers above 0, at least two"),
        ("any_model = true", "any_model = true\nsecond_pass_from = inf", "second_pass_from is inf"),
        ("seed = 31", "", "the entry seed is missing"),
    ],
)
def test_numbers_of_a_recipe_that_make_no_sense_are_named(tmp_path, old, new, problem):
    text = (learnt_correction.RECIPES / "any-model.toml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "own.toml").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError, match=problem):
        CorrectionRecipe.load(str(tmp_path / "own.toml"))
