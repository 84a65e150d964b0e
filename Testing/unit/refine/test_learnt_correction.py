"""The learnt correction, but for what the network says: boxes, hidden slices, other structures, damaged files."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from SESegmentationLib.errors import ModelError, OutOfMemoryError
from SESegmentationLib.models import find_model
from SESegmentationLib.models.store import _PACKAGE
from SESegmentationLib.networks.correction import Corrected, CorrectionNetwork
from SESegmentationLib.networks.quantisation import from_eight_bits
from SESegmentationLib.refine import learnt_correction
from SESegmentationLib.refine.learnt_correction import (
    ANY_MODEL,
    FOLDER,
    CropCorrections,
    CropPrediction,
    LearntCorrection,
    weights_for,
)
from SESegmentationTraining.dataset import split_cases

SHAPE = (20, 24, 18)


class Growing(torch.nn.Module):
    """Gives the structure wherever the image is bright, and expects some gain."""

    def __init__(self, expected: float = 0.1) -> None:
        super().__init__()
        self.expected, self.shapes = expected, []

    def forward(self, inputs, base):
        self.shapes.append(tuple(base.shape[1:]))
        return torch.where(inputs[:, 0] > 0, 4.0, -4.0), torch.tensor([float(self.expected)])


@pytest.fixture
def present():
    """A structure of which an end is missed, with another one beside it."""
    own = np.zeros(SHAPE, np.uint8)
    own[4:16, 6:12, 5:12] = 1
    own[4:16, 12:15, 5:12] = 2
    image = np.zeros(SHAPE, np.float32)
    image[4:16, 3:12, 5:12] = 1
    chance = torch.stack([torch.from_numpy(own == value).float() for value in range(3)])
    return CropPrediction(image, chance * 0.8 + 0.2 / 3, own)


def shown(present, numbers, known=1.0):
    channels, mask = present.own.copy(), np.zeros(SHAPE, np.float32)
    for number in numbers:
        channels[number][present.image[number] > 0] = 1
        mask[number] = known
    return CropCorrections(channels, mask)


def learnt(network, least=0.0):
    return LearntCorrection(network, {"least_gain": least})


def test_a_missed_end_is_found_and_the_neighbour_stays(present, tiny_engine):
    outcome = learnt(Growing()).correct(present, shown(present, [6, 12]), tiny_engine.card)
    after = np.zeros(SHAPE, np.uint8)
    after[outcome.box] = outcome.probabilities.argmax(0).numpy()
    assert (after[4:16, 3:12, 5:12] == 1).all() and (after[4:16, 12:15, 5:12] == 2).all()
    assert torch.allclose(outcome.probabilities.sum(0), torch.tensor(1.0), atol=1e-4)
    (gain,) = outcome.expected_gains.values()
    assert gain.accepted


class Spreading(Growing):
    """Takes all there is."""

    def forward(self, inputs, base):
        return torch.full_like(base, 4.0), torch.tensor([self.expected]).float()


def test_a_structure_that_nobody_corrected_does_not_give_way(present, tiny_engine):
    corrected = shown(present, [6])
    after = np.zeros(SHAPE, np.uint8)
    outcome = learnt(Spreading()).correct(present, corrected, tiny_engine.card)
    after[outcome.box] = outcome.probabilities.argmax(0).numpy()
    unseen = corrected.known == 0
    assert (after[(present.own == 2) & unseen] == 2).all() and (after[(present.own == 0) & unseen] == 1).any()
    assert torch.allclose(outcome.probabilities.sum(0), torch.tensor(1.0), atol=1e-4)
    corrected.channels[6][present.own[6] == 2] = 1  # both were corrected
    outcome = learnt(Spreading()).correct(present, corrected, tiny_engine.card)
    after[outcome.box] = outcome.probabilities.argmax(0).numpy()
    assert set(outcome.expected_gains) == {1, 2} and (after[(present.own == 2) & unseen] != 2).any()


class Withdrawing(Growing):
    """Leaves nothing."""

    def forward(self, inputs, base):
        return torch.full_like(base, -4.0), torch.tensor([self.expected]).float()


def test_where_a_structure_gives_way_one_that_nobody_corrected_is_no_likelier_than_before(present, tiny_engine):
    present.probabilities[2] *= 1.5  # likelier than the background, but nothing that the result has
    present = replace(present, probabilities=present.probabilities / present.probabilities.sum(0))
    corrected = shown(present, [6])
    outcome = learnt(Withdrawing()).correct(present, corrected, tiny_engine.card)
    after = np.zeros(SHAPE, np.uint8)
    after[outcome.box] = outcome.probabilities.argmax(0).numpy()
    unseen = corrected.known == 0
    assert (after[(present.own == 1) & unseen] == 0).all() and (after[(present.own == 2) & unseen] == 2).all()


class Creeping(Growing):
    """Finds one more column of a structure at a time, and expects what it is told."""

    def __init__(self, *expected: float) -> None:
        super().__init__()
        self.each, self.errors = list(expected), []

    def forward(self, inputs, base):
        own = inputs[:, 1]
        self.errors.append(float(inputs[:, 7].sum()))
        logits = torch.where((own > 0) | (own.roll(-1, 2) > 0), 4.0, -4.0)
        return logits, torch.tensor([self.each.pop(0)])


@pytest.mark.parametrize(
    ("expected", "columns"),
    [((0.07,), 1), ((0.09, 0.01), 2), ((0.2, 0.2), 2), ((0.2, -0.1), 1), ((-0.1,), 0)],
    ids=["little expected", "enough expected", "no third pass", "worse after", "nothing expected"],
)
def test_where_much_is_expected_it_is_corrected_once_more(present, tiny_engine, expected, columns):
    network = Creeping(*expected)
    correction = LearntCorrection(network, {"least_gain": 0.0, "second_pass_from": 0.08})
    corrected = shown(present, [6, 12])
    outcome = correction.correct(present, corrected, tiny_engine.card)
    after = outcome.after_correction(present, corrected)
    untouched = [k for k in range(4, 16) if k not in (6, 12)]
    assert (after.own[untouched, 6 - columns : 12, 5:12] == 1).all()
    assert (after.own[untouched, : 6 - columns] == 0).all() and (after.own[4:16, 12:15, 5:12] == 2).all()
    # each pass sees what was wrong with the model's own result in the corrected slices
    assert len(set(network.errors)) == 1 and network.each == []
    (gain,) = outcome.expected_gains.values()
    assert gain.dice == pytest.approx(expected[0]) and gain.accepted == (columns > 0)


@pytest.mark.parametrize("least", [0.05, 0.2])
def test_what_is_expected_decides(present, tiny_engine, least):
    outcome = learnt(Growing(), least).correct(present, shown(present, [6, 12]), tiny_engine.card)
    assert outcome.expected_gains[1].accepted == (outcome.probabilities is not None) == (least < 0.1)


def test_large_structures_are_corrected_near_the_corrected_slices(present, tiny_engine, monkeypatch):
    for name, value in {"LARGEST": 1000, "MIRRORED": 0, "PART": 16, "REACH": 3, "OVERLAP": 2}.items():
        monkeypatch.setattr(learnt_correction, name, value)
    network = Growing()
    outcome = learnt(network).correct(present, shown(present, [8]), tiny_engine.card)
    assert network.shapes and all(shape[0] <= 1 + 2 * (3 + 2) for shape in network.shapes)
    (gain,) = outcome.expected_gains.values()
    assert gain.accepted and 0 < gain.dice < 0.1  # a share of what is expected of each part
    after = np.zeros(SHAPE, np.uint8)
    after[outcome.box] = outcome.probabilities.argmax(0).numpy()
    assert (after[5:12, 3:12, 5:12] == 1).all() and (after[4:16, 12:15, 5:12] == 2).all()
    far = [*range(5), *range(12, 20)]
    assert (after[far] == present.own[far]).all()


@given(st.tuples(*[st.integers(1, 50)] * 3), st.integers(0, 2), st.integers(0, 2**32 - 1))
def test_parts_are_apart_and_hold_all_that_is_known_to_be_wrong(shape, axis, seed):
    random = np.random.default_rng(seed)
    known = np.zeros(shape, np.float32)
    np.moveaxis(known, axis, 0)[random.integers(shape[axis])] = 1
    empty = torch.zeros(shape)
    labels = torch.from_numpy((random.random(shape) < 0.05).astype(np.float32))
    corrected = Corrected(empty, empty, empty, empty, torch.from_numpy(known), labels, empty)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(learnt_correction, "LARGEST", 2000)
        patched.setattr(learnt_correction, "PART", 16)
        parts = learnt_correction._parts(corrected)
    covered = np.zeros(shape, int)
    for core, seen in parts:
        covered[core] += 1
        for inner, outer in zip(core, seen, strict=True):
            assert outer.start <= inner.start < inner.stop <= outer.stop
    assert covered.max(initial=0) <= 1 and (covered[corrected.errors().numpy() != 0] == 1).all()
    if np.prod(shape) > 2000:
        assert all(covered[core].size <= 24**2 * 17 for core, _ in parts)


def test_a_border_follows_the_corrected_slices(present):
    """Head and body of the hippocampus: a corrected slice of the one kind leaves none of the other behind it."""
    package = _hippocampus()
    own, chance = present.own.copy(), present.probabilities.clone()
    own[own == 2] = 0
    image = (own > 0).astype(np.float32)
    own[:, :9][own[:, :9] == 1] = 2  # front to back along j; anterior has the higher numbers
    for value in range(3):
        chance[value] = torch.from_numpy(own == value).float() * 0.1 + 0.3  # unsure
    chance[1:, ...] += torch.from_numpy(own > 0).float() * 0.2
    chance /= chance.sum(0)
    channels, mask = own.copy(), np.zeros(SHAPE, np.float32)
    channels[:, 10][own[:, 10] == 1] = 2  # the border lies further to the front than it seemed
    mask[:, 10] = 1
    outcome = learnt(Growing(expected=-1)).correct(
        CropPrediction(image, chance, own), CropCorrections(channels, mask), package.card
    )
    after = outcome.probabilities.argmax(0).numpy()
    assert not (after[:, :10] == 1).any() and (after[:, 9] == 2).any()


def test_damaged_or_missing_weights_are_told(tmp_path):
    with pytest.raises(ModelError, match="cannot be loaded"):
        LearntCorrection.load(tmp_path / "absent.safetensors")
    shutil.copy(ANY_MODEL.with_suffix(".json"), tmp_path)
    (tmp_path / ANY_MODEL.name).write_bytes(ANY_MODEL.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cannot be loaded") as raised:
        LearntCorrection.load(tmp_path / ANY_MODEL.name)
    assert raised.value.remedy


@pytest.mark.parametrize("card", [b"", b'{"channels"', b"{}", b"[]", b'{"channels": 8}', b"\xff", b"[" * 100_000])
def test_a_damaged_card_beside_the_weights_is_told(tmp_path, card):
    shutil.copy(ANY_MODEL, tmp_path)
    (tmp_path / ANY_MODEL.name).with_suffix(".json").write_bytes(card)
    with pytest.raises(ModelError, match="cannot be loaded"):
        LearntCorrection.load(tmp_path / ANY_MODEL.name)


def test_memory_that_runs_out_is_no_damage_of_the_weights(tmp_path, monkeypatch):
    for suffix in (".json", ".safetensors"):
        shutil.copy(ANY_MODEL.with_suffix(suffix), tmp_path)

    def load(path):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(learnt_correction, "load_file", load)
    with pytest.raises(OutOfMemoryError):
        LearntCorrection.load(tmp_path / ANY_MODEL.name)


def test_a_model_has_its_own_network_or_the_one_for_any(tiny_engine, tmp_path):
    assert LearntCorrection.of_model(tiny_engine.card) is LearntCorrection.load(ANY_MODEL)
    for name in (ANY_MODEL.stem, "mine"):
        (tmp_path / f"{name}.safetensors").touch()
    assert weights_for("mine", tmp_path).stem == "mine"
    assert weights_for("another", tmp_path).name == ANY_MODEL.name


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.safetensors")), ids=lambda path: path.stem)
def test_what_is_shipped_names_its_data_and_never_saw_the_test_cases(path):
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    weights = load_file(path)
    assert all(value.dtype == torch.int8 for value in weights.values() if value.dim() > 1)
    assert sum(value.numel() * value.element_size() for value in weights.values()) < 1.5e6
    CorrectionNetwork(tuple(card["channels"])).load_state_dict(from_eight_bits(weights))
    models = [entry["model"].split()[0] for entry in card["learnt_from"]]
    assert path == ANY_MODEL or models == [path.stem]
    for entry in card["learnt_from"]:
        split = entry["split"]
        names = [name for part in split.values() for name in part]
        assert len(names) == len(set(names)) and entry["cases"] and entry["licence"]["spdx"]
        assert not set(entry["cases"]) & {*split["test"], *split["validation"]}
        if entry["model"].startswith("hippocampus-t1"):
            model = _hippocampus().card
            assert set(split["test"]) == set(model.training["test_cases"]) and len(names) == 200
            again = split_cases(names, len(split["validation"]), len(split["test"]), model.training["split_seed"])
            assert sorted(again.training) == sorted(split["training"])


def _hippocampus():
    try:
        return find_model(str(_PACKAGE.parents[1] / "weights" / "hippocampus-t1"))
    except ModelError:
        pytest.skip("needs the weights of hippocampus-t1")
