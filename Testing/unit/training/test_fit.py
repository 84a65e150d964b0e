"""Fitting: schedule, resuming, early stop, logs."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from SESegmentationLib.errors import CancelledError, InputError, OutOfMemoryError, SegmentationError, UsageError
from SESegmentationLib.networks import build_network
from SESegmentationTraining import fit
from SESegmentationTraining.fit import FitState, Schedule, fit_network, validate
from SESegmentationTraining.processes import Log
from SESegmentationTraining.recipe import Phase
from SESegmentationTraining.sources import open_source
from SESegmentationTraining.training_plan import draft_card, plan_fits

CPU = torch.device("cpu")
COARSE, FINE = Phase(30, 8, (48, 48), 2.0), Phase(70, 4, (96, 96))


def test_the_learning_rate_warms_up_and_decays_to_a_hundredth():
    schedule = Schedule([COARSE, FINE], 0.01, 10)
    rates = [schedule.learning_rate(step) for step in range(100)]
    assert schedule.steps == 100
    assert rates[:10] == pytest.approx([0.001 * n for n in range(1, 11)])
    assert rates[10] == pytest.approx(0.01)
    assert all(later < earlier for earlier, later in zip(rates[10:], rates[11:], strict=False))
    assert rates[55] == pytest.approx(0.01 * (0.01 + 0.99 / 2))  # half-way down the cosine
    assert schedule.learning_rate(100) == pytest.approx(0.0001)
    assert Schedule([COARSE], 0.01, 0).learning_rate(0) == pytest.approx(0.01)


def test_the_learning_rate_may_drop_to_a_tenth_at_equal_distances():
    schedule = Schedule([COARSE, FINE], 0.01, 0, step_decays=3)
    rates = [schedule.learning_rate(step) for step in range(101)]
    assert rates[:100:25] == pytest.approx([0.01, 0.001, 0.0001, 0.00001])
    assert rates[24] == rates[0]
    assert rates[100] == rates[99]
    assert Schedule([FINE], 0.01, 10, step_decays=1).learning_rate(4) == pytest.approx(0.005)


def test_phases_follow_each_other():
    schedule = Schedule([COARSE, FINE], 0.01, 10)
    assert [schedule.phase(step) for step in (0, 29, 30, 99, 100)] == [COARSE, COARSE, FINE, FINE, FINE]


@given(steps=st.integers(0, 100))
def test_work_is_the_number_of_pixels(steps):
    schedule = Schedule([COARSE, FINE], 0.01, 10)
    phases = [schedule.phase(step) for step in range(steps)]
    assert schedule.work(steps) == sum(phase.batch * phase.size[0] * phase.size[1] for phase in phases)


class Trainer:
    """Fits the network of a recipe, always from the same start."""

    def __init__(self, dataset, recipe):
        self.recipe = recipe
        self.card = draft_card(recipe)
        self.source = open_source(dataset, recipe, self.card, CPU)
        self.plan = plan_fits(self.card, recipe)[0]

    def fit(self, folder, progress=lambda *_: None, source=None):
        folder.mkdir(exist_ok=True)
        torch.manual_seed(self.recipe.fit.seed)
        network = build_network(self.plan.description)
        return fit_network(
            network,
            source or self.source,
            self.plan.views,
            self.card.channel_pairs,
            self.recipe,
            self.plan.schedule,
            folder,
            "net",
            CPU,
            progress,
        )


@pytest.fixture
def trainer(blobs_folder, blobs_recipe):
    """Function that gives a :class:`Trainer` for a tiny recipe with changes."""
    return lambda **changes: Trainer(blobs_folder, blobs_recipe(**changes))


def cancel_at(step):
    """Progress that cancels at the n-th report, that is after the n-th step."""
    calls = 0

    def progress(*_):
        nonlocal calls
        calls += 1
        if calls == step:
            raise CancelledError("The training was cancelled.")

    return progress


def entries(folder):
    return [json.loads(line) for line in (folder / "net.log.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("stops", [[1], [4], [3, 2, 4], [9]], ids=str)
def test_a_killed_fit_ends_with_the_same_weights_as_an_uninterrupted_one(trainer, tmp_path, stops):
    """Over phases, validations, warm-up and dropout; after each stop the network starts anew."""
    one = trainer(network={"dropout": 0.2}, fit={"checkpoint_seconds": 0})
    expected, course = one.fit(tmp_path / "whole")
    for stop in stops:
        with pytest.raises(CancelledError):
            one.fit(tmp_path / "parts", cancel_at(stop))
    weights, resumed = one.fit(tmp_path / "parts")
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[key], expected[key]) for key in expected)
    assert resumed.history == course.history
    assert resumed.step == course.step == 10
    without_time = [
        [{key: value for key, value in entry.items() if key != "seconds"} for entry in entries(tmp_path / folder)]
        for folder in ("whole", "parts")
    ]
    assert without_time[0] == without_time[1]


def test_the_first_process_decides_which_steps_are_left_out(trainer, tmp_path, monkeypatch):
    """Each process has a clock of its own: by that, one would wait for the gradients of another for ever."""
    asked = []
    monkeypatch.setattr(fit, "as_first_process", lambda number, device: asked.append(number) or 1)
    _, state = trainer().fit(tmp_path)
    assert asked == [0] * 5 and state.step == 10 and state.left_out == 5


def test_without_a_checkpoint_in_time_a_fit_starts_again(trainer, tmp_path):
    one = trainer(fit={"checkpoint_seconds": 3600})
    with pytest.raises(CancelledError):
        one.fit(tmp_path, cancel_at(5))
    assert not list(tmp_path.glob("*.safetensors*"))
    _, state = one.fit(tmp_path)
    assert state.step == 10
    assert [entry["step"] for entry in entries(tmp_path)] == [4, 8, 10]  # nothing of the first run is left


def test_a_finished_fit_is_not_done_again(trainer, tmp_path):
    one = trainer()
    weights, first = one.fit(tmp_path)
    again, second = one.fit(tmp_path, cancel_at(1))
    assert all(torch.equal(weights[key], again[key]) for key in weights)
    assert vars(first) == vars(second)


def test_training_learns_and_what_is_kept_is_the_moving_average(trainer, tmp_path):
    one = trainer(
        network={"channels": [8, 16, 16]},
        phases=[{"steps": 80, "batch": 8, "size": [24, 24]}],
        fit={"validate_every": 20, "learning_rate": 0.02},
    )
    weights, state = one.fit(tmp_path)
    assert max(entry["mean"] for entry in state.history) > 0.8
    network = build_network(one.plan.description)
    network.load_state_dict(weights)
    phase = one.recipe.phases[0]
    dice = validate(network, one.source, one.plan.views, one.card.channel_pairs, one.recipe, phase, CPU)
    assert sum(dice) / 2 == pytest.approx(state.history[-1]["mean"], abs=1e-4)
    losses = [entry["loss"] for entry in entries(tmp_path) if "loss" in entry]
    assert len(losses) == 2  # at step 50 and at the end


def test_log_lines_say_step_loss_rate_time_and_dice(trainer, tmp_path):
    one = trainer(fit={"checkpoint_seconds": 0})
    _, state = one.fit(tmp_path)
    losses = [entry for entry in entries(tmp_path) if "loss" in entry]
    assert [entry["step"] for entry in losses] == list(range(1, 11))
    assert [entry["rate"] for entry in losses] == [one.plan.schedule.learning_rate(step) for step in range(10)]
    assert all(math.isfinite(entry["loss"]) for entry in losses)
    seconds = [entry["seconds"] for entry in losses]
    assert seconds == sorted(seconds)
    validations = [entry for entry in entries(tmp_path) if "validation" in entry]
    assert [entry["step"] for entry in validations] == [4, 8]
    assert [len(entry["dice"]) for entry in validations] == [2, 2]  # a Dice for each structure
    assert [entry["validation"] for entry in validations] == [entry["mean"] for entry in state.history]


def test_tensorboard_has_the_same_course(trainer, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer(fit={"checkpoint_seconds": 0}).fit(tmp_path)
    board = EventAccumulator(str(tmp_path / "tensorboard" / "net"))
    board.Reload()
    losses = [entry["loss"] for entry in entries(tmp_path) if "loss" in entry]
    assert [event.value for event in board.Scalars("loss")] == pytest.approx(losses)
    assert [event.step for event in board.Scalars("validation")] == [4, 8]


def test_a_log_drops_what_lies_beyond_the_checkpoint_and_lines_cut_off(tmp_path):
    with Log(tmp_path, "net") as log:
        for step in (50, 100, 150):
            log.write({"step": step, "loss": 1.0})
    with (tmp_path / "net.log.jsonl").open("ab") as file:  # a disk was full, and a computer lost its power
        file.write(b'{"ste{"step": 80}\n\0\0\xff\n7\n[]\n')
    with (tmp_path / "net.log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 20')
    with Log(tmp_path, "net", step=100):
        assert [entry["step"] for entry in entries(tmp_path)] == [50, 100]


def test_progress_grows_with_the_pixels_seen(trainer, tmp_path):
    one = trainer()
    calls = []
    one.fit(tmp_path, lambda *call: calls.append(call))
    coarse, fine = 4 * 12 * 12, 4 * 24 * 24  # pixels of a step
    total = 4 * coarse + 6 * fine
    assert [call[0] for call in calls] == ["train net"] * 10
    assert [call[1] for call in calls[:5]] == pytest.approx(
        [*[n * coarse / total for n in range(1, 5)], (4 * coarse + fine) / total]
    )
    assert calls[-1][1:] == (1.0, 0.0)
    assert all(call[2] > 0 for call in calls[:-1])


@pytest.mark.parametrize(("optimizer", "bounded"), [("sgd", True), ("adamw", False)])
def test_gradient_descent_goes_along_the_gradient(trainer, tmp_path, optimizer, bounded):
    """Its step is the rate times the gradient, whose norm is clipped to 5; AdamW's is the rate for each weight."""
    rate = 0.01
    one = trainer(
        phases=[{"steps": 1, "batch": 4, "size": [12, 12]}],
        fit={"optimizer": optimizer, "learning_rate": rate, "weight_decay": 0.0, "warmup": 0, "average": 0.0},
    )
    weights, _ = one.fit(tmp_path)
    torch.manual_seed(one.recipe.fit.seed)
    before = build_network(one.plan.description)
    change = [(weights[key] - start).flatten() for key, start in before.named_parameters()]
    length = torch.cat(change).norm().item()
    assert length > 0
    assert (length <= 5.001 * rate) == bounded


def test_validation_needs_no_cases_where_none_are_kept_out(trainer, tmp_path):
    _, state = trainer(data={"validation": 0}, fit={"validate_every": 1}).fit(tmp_path)
    assert state.history == []


def test_validation_is_the_dice_of_the_whole_set(trainer):
    class Guess(torch.nn.Module):
        def forward(self, images):
            bright = images[:, 1:2] > 0.6
            return torch.cat([~bright, bright, torch.zeros_like(bright)], dim=1).float()  # all of it is left

    one = trainer()
    phase = one.recipe.phases[1]
    dice = validate(Guess(), one.source, one.plan.views, one.card.channel_pairs, one.recipe, phase, CPU)
    overlap = size = 0
    for index in range(one.recipe.fit.validation_batches):
        generator = torch.Generator().manual_seed(10_000_019 + index)
        batch = one.source.validation_batch(one.plan.views, phase, generator)
        bright = batch.images[:, 1] > 0.6
        overlap += int((bright & (batch.target == 1)).sum())
        size += int(bright.sum()) + int((batch.target == 1).sum())
    assert dice == pytest.approx([2 * overlap / size, 0.0])


def test_a_loss_that_is_no_number_ends_the_training(trainer, tmp_path):
    one = trainer(fit={"learning_rate": 1e30, "warmup": 0, "checkpoint_seconds": 0})
    with pytest.raises(SegmentationError, match="diverged: at step") as caught:
        one.fit(tmp_path)
    assert "learning_rate" in caught.value.remedy


@pytest.mark.parametrize("error", [MemoryError(), torch.cuda.OutOfMemoryError("CUDA out of memory.")])
def test_a_step_without_enough_memory_names_its_phase_and_keeps_the_checkpoint(trainer, tmp_path, monkeypatch, error):
    trainer = trainer(fit={"checkpoint_seconds": 0})
    real, steps = fit._loss, iter(range(3))

    def fails_later(*arguments):
        if next(steps) < 2:
            return real(*arguments)
        raise error

    monkeypatch.setattr(fit, "_loss", fails_later)
    with pytest.raises(OutOfMemoryError, match=r"batches of \d+ of size \[\d+, \d+\]") as failed:
        trainer.fit(tmp_path)
    assert "start again to go on" in failed.value.remedy and "low-memory" not in failed.value.remedy
    monkeypatch.setattr(fit, "_loss", real)
    seen = []
    trainer.fit(tmp_path, lambda *_: seen.append(1))
    assert len(seen) == trainer.plan.schedule.steps - 2


def test_balanced_classes_boundaries_and_dice_change_what_is_learnt(trainer, tmp_path):
    results = [
        trainer(fit=changes).fit(tmp_path / str(index))[0]["classifier.bias"]
        for index, changes in enumerate(
            [{}, {"class_balance": 0.5}, {"class_balance": 1.0}, {"boundary": 2.0}, {"dice": 0.5}, {"dice": 0.0}]
        )
    ]
    assert len({tuple(bias.tolist()) for bias in results}) == 6


def test_frozen_parameters_keep_their_values_and_only_these(trainer, tmp_path):
    one = trainer(start="blobs", fit={"frozen": ["bottleneck.", "decoders.0.0."]})
    torch.manual_seed(one.recipe.fit.seed)
    before = build_network(one.plan.description).state_dict()
    weights, _ = one.fit(tmp_path)
    parameters = {name for name, _ in build_network(one.plan.description).named_parameters()}
    same = {name for name in parameters if torch.allclose(weights[name], before[name], atol=1e-7)}
    assert same == {name for name in parameters if name.startswith(("bottleneck.", "decoders.0.0."))}


@pytest.mark.parametrize(("frozen", "problem"), [(["encoder."], "begins with 'encoder.'"), ([""], "All parameters")])
def test_freezing_nothing_that_there_is_or_everything_is_refused(trainer, tmp_path, frozen, problem):
    with pytest.raises(UsageError, match=problem):
        trainer(start="blobs", fit={"frozen": frozen}).fit(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "text", "other-network", "other-version"])
def test_a_damaged_checkpoint_is_refused(trainer, tmp_path, damage):
    one = trainer()
    one.fit(tmp_path)
    path = tmp_path / "net.checkpoint.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-500])
    elif damage == "text":
        path.write_text("no tensors", encoding="utf-8")
    elif damage == "other-network":
        one = trainer(network={"channels": [6, 8]})
    else:
        parts = {"network": build_network(one.plan.description)}
        parts["average"] = torch.optim.swa_utils.AveragedModel(parts["network"], use_buffers=True)
        optimizer = torch.optim.AdamW(parts["network"].parameters())
        fit.save_checkpoint(path, parts, optimizer, {**vars(FitState()), "epoch": 3})
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"net\.checkpoint\.safetensors") as caught:
        one.fit(tmp_path)
    assert "Delete it" in caught.value.remedy
    assert path.read_bytes() == before
