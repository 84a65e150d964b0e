"""Lanes on this computer: one for each GPU; on the processor one for each core, or one with all cores for large scans.

Many lanes are separate processes, since part of the work between reading and writing holds Python's lock (GIL).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from multiprocessing.managers import BaseManager
from typing import Any

from SESegmentationLib.doctor import memory_gb
from SESegmentationLib.errors import SegmentationError, WorkerError, reason_of
from SESegmentationLib.progress import end_on_signals, end_process

from .cases import CohortCase
from .dispatch import Lane, LaneLostError
from .runner import CaseOutcome, CaseRunner
from .settings import CohortSettings

#: main memory of a lane on one core, in GB (10^9 bytes): torch, what reads and writes, and a small scan
LANE_GB = 1.5
#: most lanes that run in this process without slowing each other down
MOST_HERE = 3


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_lanes(settings: CohortSettings, workers: int | None, small: bool) -> list[Lane]:
    """The lanes of this computer.

    Args:
        settings: of the cohort.
        workers: how many lanes; None for as many as suit it.
        small: the scans are so small that one core per scan is faster than all cores.

    Raises:
        DeviceError: no such device.
    """
    devices = _gpus(settings.device)
    places: list[tuple[str, Mapping[str, str]]] = []
    if devices:
        places = [(devices[number % len(devices)], {}) for number in range(workers or len(devices))]
    else:
        total, free = memory_gb()
        memory = float("inf") if total is None else free
        count = workers or (max(1, int(min(cores(), memory / LANE_GB))) if small else 1)
        places = [("cpu", threads(max(1, cores() // count)))] * count
    kind = _Here if len(places) <= MOST_HERE else _Process
    return [kind(replace(settings, device=device), environment) for device, environment in places]


def threads(count: int) -> dict[str, str]:
    """Variables of a worker that computes on so many cores."""
    return {"OMP_NUM_THREADS": str(count), "MKL_NUM_THREADS": str(count)}


def _gpus(device: str) -> list[str]:
    """The GPUs that are meant; none where it is the processor."""
    if device.strip().lower() == "cpu":
        return []
    import torch

    from SESegmentationLib.inference.device import choose_device

    chosen = choose_device(device)
    if chosen.type == "cuda" and chosen.index is None:
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    # which models Apple's GPU runs is known to the engine
    return [] if chosen.type == "cpu" else [device if chosen.type == "mps" else str(chosen)]


class _Here:
    """A lane in this process."""

    def __init__(self, settings: CohortSettings, environment: Mapping[str, str]) -> None:
        self._runner = CaseRunner(settings, environment)

    def start(self) -> None:
        pass

    def run(self, case: CohortCase) -> CaseOutcome | SegmentationError:
        return self._runner.run(case)

    def close(self) -> None:
        self._runner.close()


class _Manager(BaseManager):
    """Has a runner in another process; each thread that asks it is answered by one of its own there."""


_Manager.register("runner", CaseRunner, exposed=("run", "close"))


class _Process:
    """A lane in a process of its own, which is started anew where it is gone."""

    def __init__(self, settings: CohortSettings, environment: Mapping[str, str]) -> None:
        self._arguments = settings, dict(environment)
        self._manager: _Manager | None = None
        self._runner: Any = None
        self._changing = threading.Lock()
        self._closed = False

    def start(self) -> None:
        try:
            with self._changing:
                self._end()
                if not self._closed:
                    self._manager = _Manager(ctx=multiprocessing.get_context("spawn"))
                    self._manager.start(_end_with_parent)
                    self._runner = self._manager.runner(*self._arguments)  # type: ignore[attr-defined]
        except (EOFError, OSError) as error:
            raise WorkerError(
                f"A process for the cases cannot be started: {reason_of(error)}.", "Choose fewer --workers."
            ) from error

    def run(self, case: CohortCase) -> CaseOutcome | SegmentationError:
        if (runner := self._runner) is None:  # ended by another thread
            raise LaneLostError
        try:
            return runner.run(case)
        except (EOFError, OSError) as error:
            raise LaneLostError from error

    def close(self) -> None:
        with self._changing:
            self._closed = True
            self._end()

    def _end(self) -> None:
        if self._runner:
            with contextlib.suppress(EOFError, OSError):
                self._runner.close()
            self._runner = None
        if self._manager:
            self._manager.shutdown()
            self._manager = None


def _end_with_parent() -> None:
    """In a lane's process: end by Ctrl-C, SIGTERM and with the process that started this one, and leave nothing."""
    end_on_signals(silently=True)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def look() -> None:
        parent.join()  # Windows gives a process no other parent when its own has ended
        end_process(silently=True)

    threading.Thread(target=look, name="parent", daemon=True).start()
