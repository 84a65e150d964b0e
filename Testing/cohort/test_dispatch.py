"""Lanes that are lost or cannot go on: every case is told of once, and only the guilty one is given up."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from SESegmentationCohort.cases import CohortCase
from SESegmentationCohort.dispatch import MOST_TRIES, Dispatcher, LaneLostError
from SESegmentationCohort.runner import CaseOutcome
from SESegmentationLib.errors import DeviceError, ModelError

CASES = [CohortCase(f"case{number:02}", Path(f"case{number:02}.nii.gz")) for number in range(30)]


class FakeLane:
    """Is lost with all that it has at some cases, at a case each time it is given it."""

    def __init__(
        self, lost_at: set[str] = frozenset(), never: Exception | None = None, ends_after: int = 10**9
    ) -> None:
        self.lost_at, self.never, self.ends_after = lost_at, never, ends_after
        self.done: list[str] = []
        self.starts, self.up, self.generation = 0, False, 0
        self.lock = threading.Lock()

    def start(self) -> None:
        if self.never:
            raise self.never
        self.starts += 1
        self.up = True

    def run(self, case: CohortCase):
        generation = self.generation
        time.sleep(0.002)
        with self.lock:
            if case.name in self.lost_at:
                self.generation += 1
                self.up = False
                raise LaneLostError
            if generation != self.generation or not self.up:  # lost with another case, or before
                raise LaneLostError
            if len(self.done) >= self.ends_after:
                return DeviceError("The GPU is gone.", "Look.")
            self.done.append(case.name)
        return CaseOutcome(case, "segmented")

    def close(self) -> None:
        pass


def all_told(*lanes: FakeLane) -> tuple[list[str], list[str]]:
    """Names of cases that were done and of those that were given up."""
    told = [entry for entry in Dispatcher(lanes).run(CASES, tick_s=5.0) if entry]
    done = [entry.case.name for entry in told if isinstance(entry, CaseOutcome)]
    return sorted(done), sorted(entry[0].name for entry in told if isinstance(entry, tuple))


def test_each_case_is_done_once():
    lanes = [FakeLane() for _ in range(3)]
    assert all_told(*lanes) == ([case.name for case in CASES], [])
    assert sum(len(lane.done) for lane in lanes) == len(CASES)


@pytest.mark.parametrize("count", [1, 3])
def test_a_case_that_kills_its_lane_is_given_up_and_those_beside_it_are_not(count):
    bad = {"case03", "case04", "case17"}
    lanes = [FakeLane(bad) for _ in range(count)]
    done, lost = all_told(*lanes)
    assert lost == sorted(bad)
    assert done == [case.name for case in CASES if case.name not in bad]
    assert sum(lane.generation for lane in lanes) == MOST_TRIES * len(bad)
    assert sum(lane.starts for lane in lanes) <= count + MOST_TRIES * len(bad)


def test_a_mistake_of_the_program_costs_one_case():
    class Mistaken(FakeLane):
        def run(self, case: CohortCase):
            if case.name == "case05":
                raise KeyError("mistake")
            return super().run(case)

    done, given_up = all_told(Mistaken(), Mistaken())
    assert given_up == ["case05"]
    assert len(done) == len(CASES) - 1


def test_lanes_that_cannot_go_on_leave_their_cases_to_others():
    gone, absent, good = FakeLane(ends_after=3), FakeLane(never=ModelError("No such model.", "")), FakeLane()
    assert all_told(gone, absent, good) == ([case.name for case in CASES], [])
    assert len(gone.done) == 3


def test_without_any_lane_the_reason_is_told():
    dispatcher, done = Dispatcher([FakeLane(ends_after=2), FakeLane(ends_after=2)]), []
    with pytest.raises(DeviceError, match="The GPU is gone"):
        done.extend(dispatcher.run(CASES))
    with pytest.raises(ModelError):
        list(Dispatcher([FakeLane(never=ModelError("No such model.", ""))]).run(CASES))
