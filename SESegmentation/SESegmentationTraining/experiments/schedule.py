"""Doing many runs: those not done yet, one after another or side by side, with the time left."""

from __future__ import annotations

import multiprocessing
import os
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from SESegmentationLib.errors import CancelledError, DeviceError, InputError, SegmentationError, UsageError, WorkerError
from SESegmentationLib.networks import build_network, network_cost
from SESegmentationLib.progress import Progress, no_progress

from ..training_plan import draft_card, plan_fits
from .plan import Run
from .run import Runner

#: called with every finished run and its result
Finished = Callable[[Run, Mapping[str, Any]], None]
#: what a process of the pool works with: its runner, where it reports, and whether it shall stop
_own: dict[str, Any] = {}


def choose_devices(device: str) -> list[torch.device]:
    """The devices that "auto", "cpu" or "cuda" stands for: every GPU, or the CPU.

    Raises:
        UsageError: another name.
        DeviceError: there is no GPU.
    """
    device = device.strip().lower()
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"There is no device {device!r}.", "Use auto, cpu or cuda.")
    count = torch.cuda.device_count() if device != "cpu" else 0
    if device == "cuda" and not count:
        raise DeviceError("No CUDA device can be used.", "Use --device cpu, or install a driver that fits torch.")
    return [torch.device("cuda", index) for index in range(count)] or [torch.device("cpu")]


def do_runs(
    runs: Sequence[Run],
    data: Path,
    folder: Path,
    device: str = "auto",
    workers: int | None = None,
    progress: Progress = no_progress,
    finished: Finished = lambda run, result: None,
) -> None:
    """Do ``runs`` in their order, over all devices.

    A run that diverges does not stop the others.

    Args:
        data: folder that holds the datasets.
        folder: of the results.
        device: see :func:`choose_devices`.
        workers: processes, the devices dealt out among them; one for each GPU, or one for the CPU, if None.
        progress: called with the fraction of all work that is done, and the seconds left.
        finished: called with each run that is done.

    Raises:
        InputError, UsageError, DeviceError: data or device cannot be used.
        WorkerError: a process ended.
        SegmentationError: runs diverged; which ones.
        CancelledError: from ``progress``.
    """
    if workers is not None and workers < 1:
        raise UsageError("There has to be at least one process.", "Give --workers 1 or more.")
    devices = choose_devices(device)
    count = min(workers or len(devices), len(runs))
    tally = Tally(runs, progress)
    if count > 1:
        failures = _side_by_side(runs, data, folder, [devices[n % len(devices)] for n in range(count)], tally, finished)
    else:
        failures = _one_by_one(runs, Runner(data, folder, devices[0]), tally, finished)
    if failures:
        raise SegmentationError(
            f"{len(failures)} of {len(runs)} runs failed: {'; '.join(failures)}.",
            "Change their recipe in the plan; the others are done.",
        )


class Tally:
    """How much of all work is done, and how long the rest will take.

    Work is multiply-adds times slices seen.

    Args:
        runs: all.
        progress: called with it.
    """

    def __init__(self, runs: Sequence[Run], progress: Progress) -> None:
        work = [work_of(run) for run in runs]
        self._share = {run.key: part / sum(work) for run, part in zip(runs, work, strict=True)}
        self._fractions: dict[str, float] = {}
        self._started = time.monotonic()
        self._progress = progress

    def update(self, key: str, title: str, fraction: float) -> None:
        """Note that ``fraction`` of a run is done, and report."""
        self._fractions[key] = fraction
        self._progress(title, self.done, self.seconds_left)

    @property
    def done(self) -> float:
        """Fraction of all work that is done."""
        return min(sum(self._share[key] * fraction for key, fraction in self._fractions.items()), 1.0)

    @property
    def seconds_left(self) -> float | None:
        """As long as the work done took, the rest in proportion; None while little is known."""
        spent = time.monotonic() - self._started
        return spent * (1 - self.done) / self.done if self.done > 0 and spent > 2 else None


def work_of(run: Run) -> float:
    """Multiply-adds times slices that a run sees."""
    fit = plan_fits(draft_card(run.recipe), run.recipe)[0]
    with torch.device("meta"):
        network = build_network(fit.description)
    return float(sum(network_cost(network, *p.size).multiply_adds * p.steps * p.batch for p in run.recipe.phases))


def _one_by_one(runs: Sequence[Run], runner: Runner, tally: Tally, finished: Finished) -> list[str]:
    failures = []
    for run in runs:
        try:
            result = runner(run, lambda title, fraction, _, key=run.key: tally.update(key, title, fraction))
        except SegmentationError as error:
            failures.append(_failure(run, error))
        else:
            finished(run, result)
    return failures


def _side_by_side(
    runs: Sequence[Run], data: Path, folder: Path, devices: Sequence[torch.device], tally: Tally, finished: Finished
) -> list[str]:
    context = multiprocessing.get_context("spawn")
    free, events, cancelled = context.Queue(), context.Queue(), context.Event()
    for device in devices:
        free.put(str(device))
    threads = max((os.cpu_count() or 1) // len(devices), 1)
    failures = []
    begun = (data, folder, free, events, cancelled, threads)
    with ProcessPoolExecutor(len(devices), context, _begin, begun) as pool:
        pending: dict[Future, Run] = {pool.submit(_do, run): run for run in runs}
        try:
            while pending:
                done, _ = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                for event in _drained(events):
                    tally.update(*event)
                for future in done:
                    run = pending.pop(future)
                    try:
                        result = future.result()
                    except SegmentationError as error:
                        failures.append(_failure(run, error))
                    else:
                        tally.update(run.key, run.title, 1.0)
                        finished(run, result)
        except BrokenProcessPool as error:
            raise WorkerError(
                "A process that trained has ended.", "Use fewer --workers if memory is short; start again to go on."
            ) from error
        finally:
            cancelled.set()
            pool.shutdown(wait=False, cancel_futures=True)
    return failures


def _failure(run: Run, error: SegmentationError) -> str:
    """What became of ``run``; an error that would meet every run is raised again."""
    if isinstance(error, InputError | UsageError | DeviceError | CancelledError | WorkerError):
        raise error
    return f"{run.title} ({error.cause.rstrip('.')})"


def _drained(events: Any) -> list[tuple[str, str, float]]:
    """The last event of each run."""
    last: dict[str, tuple[str, float]] = {}
    while True:
        try:
            key, title, fraction = events.get_nowait()
        except queue.Empty:
            return [(key, *rest) for key, rest in last.items()]
        last[key] = (title, fraction)


def _begin(data: Path, folder: Path, free: Any, events: Any, cancelled: Any, threads: int) -> None:
    """Begin a process of the pool: take a free device."""
    torch.set_num_threads(threads)
    _own.update(runner=Runner(data, folder, torch.device(free.get())), events=events, cancelled=cancelled)


def _do(run: Run) -> dict[str, Any]:
    """One run in a process of the pool."""

    def report(title: str, fraction: float, _: float | None) -> None:
        if _own["cancelled"].is_set():
            raise CancelledError("The experiment was cancelled.", "Start it again to go on.")
        _own["events"].put((run.key, title, fraction))

    report(run.title, 0.0, None)  # one that still waited is not begun
    return _own["runner"](run, report)
