"""Many runs: over processes, with time left, cancelled, diverging."""

from __future__ import annotations

import pytest
import torch

from SESegmentationLib.errors import CancelledError, DeviceError, SegmentationError, UsageError
from SESegmentationTraining.experiments.results import read_results
from SESegmentationTraining.experiments.schedule import Tally, choose_devices, do_runs, work_of


def test_processes_side_by_side_give_what_one_gives(plan, blobs_folder, tmp_path):
    runs, reports, finished = plan().runs()[:3], [], []
    do_runs(runs, blobs_folder.parent, tmp_path / "one", "cpu", 1)
    do_runs(
        runs,
        blobs_folder.parent,
        tmp_path / "two",
        "cpu",
        2,
        lambda phase, fraction, left: reports.append(fraction),
        lambda run, result: finished.append(run.key),
    )
    assert sorted(finished) == sorted(run.key for run in runs)
    assert reports == sorted(reports)
    assert reports[-1] == pytest.approx(1)
    one, two = (read_results(tmp_path / folder) for folder in ("one", "two"))
    assert {key: result["dice"] for key, result in one.items()} == {key: result["dice"] for key, result in two.items()}


def test_progress_counts_all_runs_and_ends_at_one(plan, blobs_folder, tmp_path):
    runs, reports = plan().runs()[:2], []
    do_runs(runs, blobs_folder.parent, tmp_path, "cpu", 1, lambda *report: reports.append(report))
    fractions = [fraction for _, fraction, _ in reports]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1)
    assert [title for title, *_ in reports][:: len(reports) - 1] == [runs[0].title, runs[1].title]


def test_the_time_left_is_in_proportion_to_the_work(plan, monkeypatch):
    runs = plan().runs()[:2]
    now = 0.0
    monkeypatch.setattr("SESegmentationTraining.experiments.schedule.time.monotonic", lambda: now)
    seen = []
    tally = Tally(runs, lambda phase, fraction, left: seen.append((fraction, left)))
    now = 60.0
    tally.update(runs[0].key, "", 1.0)
    share = work_of(runs[0]) / (work_of(runs[0]) + work_of(runs[1]))
    assert 0 < work_of(runs[0]) < work_of(runs[1])
    assert seen == [(pytest.approx(share), pytest.approx(60 * (1 - share) / share))]


def test_cancelled_runs_keep_what_is_done(plan, blobs_folder, tmp_path):
    runs = plan().runs()[:3]

    def cancel(title, fraction, left):
        if title == runs[1].title:
            raise CancelledError("Cancelled.")

    with pytest.raises(CancelledError):
        do_runs(runs, blobs_folder.parent, tmp_path, "cpu", 1, cancel)
    assert list(read_results(tmp_path)) == [runs[0].key]


def test_a_run_that_diverges_does_not_keep_others_from_being_done(plan, blobs_folder, tmp_path):
    diverging = plan(("learning_rate = 0.01", "learning_rate = 1e30")).runs()[0]
    well = plan().runs()[0]
    with pytest.raises(SegmentationError) as failed:
        do_runs([diverging, well], blobs_folder.parent, tmp_path, "cpu", 1)
    assert "1 of 2 runs failed" in failed.value.cause
    assert "diverged" in failed.value.cause
    assert failed.value.remedy
    assert list(read_results(tmp_path)) == [well.key]


def test_devices_and_workers_of_no_use_are_refused(plan, tmp_path):
    with pytest.raises(UsageError):
        choose_devices("abacus")
    assert choose_devices("cpu") == [torch.device("cpu")]
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError):
            choose_devices("cuda")
    with pytest.raises(UsageError):
        do_runs(plan().runs(), tmp_path, tmp_path, "cpu", 0)
