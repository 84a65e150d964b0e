"""The deployments of Ray Serve: replicas that segment, and the ingress that talks to clients."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import traceback
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

import numpy as np
from ray import serve
from ray.exceptions import ObjectStoreFullError, OutOfDiskError, RayError
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from SESegmentationLib.cli.file_jobs import SMALL
from SESegmentationLib.errors import CancelledError, InputError, ModelError, OutOfMemoryError, SegmentationError
from SESegmentationLib.worker.jobs import JOBS
from SESegmentationLib.worker.messages import (
    ACCEPTED,
    FAILURE,
    HARMLESS,
    PROGRESS,
    RESULT,
    as_segmentation_error,
    failure,
)
from SESegmentationLib.worker.process import IDLE_SECONDS, JobRunner, release_memory

from .application import build_application
from .board import Answer, Board, ReplicaLostError
from .frames import Work
from .refusals import without_paths
from .served_models import ServedModels
from .settings import ServerSettings

#: models that one replica keeps loaded
ENGINES = 4
#: time in s after which a replica ends whose cancelled job does not stop
PATIENCE_SECONDS = 30.0
#: least time between two progress messages, in s
PROGRESS_SECONDS = 0.1
#: time in s for fetching the last messages of a replica before it ends
LAST_SECONDS = 1.0


class Room:
    """The slots of a replica, granted in the order of requests: a large job waits until it has all it needs."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()

    async def enter(self, slots: int) -> None:
        """Wait for so many slots, and take them."""
        async with self._turn:
            while self._free < slots:
                self._changed.clear()
                await self._changed.wait()
            self._free -= slots

    def leave(self, slots: int) -> None:
        """Give them back."""
        self._free += slots
        self._changed.set()


class Replica:
    """A replica: jobs of small volumes side by side, a large one alone, with the models that were asked for last.

    Args:
        settings: of the server, with ``cores`` and ``slots`` those of one replica.
    """

    def __init__(self, settings: ServerSettings) -> None:
        import torch  # now, not when the first job waits for it

        torch.set_num_threads(max(1, settings.cores))
        self._settings = settings
        self._runner = JobRunner(capacity=ENGINES)
        self._pool = ThreadPoolExecutor(settings.slots)
        self._room = Room(settings.slots)
        self._models = ServedModels()
        self._running = 0

    @serve.multiplexed(max_num_models_per_replica=ENGINES)
    async def keep(self, model: str) -> str:
        """Tell Serve that this replica has a model, from the first job for it on."""
        return model

    async def run(self, work: Work, slots: int, at_once: int) -> AsyncGenerator[list[Answer]]:
        """Run a job; yields the worker's messages about it, one or several at a time.

        A failure that leaves this process in doubt ends it.

        Args:
            work: what to do.
            slots: that it takes.
            at_once: how many jobs all replicas run: they share the cores.
        """
        await self.keep(work.model)
        slots = min(slots, self._settings.slots)
        await self._room.enter(slots)
        loop, answers, cancelled = asyncio.get_running_loop(), asyncio.Queue[Answer](), threading.Event()

        def tell(header: dict[str, Any], arrays: list[np.ndarray] | None = None) -> None:
            loop.call_soon_threadsafe(answers.put_nowait, (header, arrays or []))

        cores = max(1, self._settings.cores // min(self._settings.slots, max(at_once, self._running + 1)))
        if slots == self._settings.slots:
            cores = self._settings.cores
        self._running += 1
        task = loop.run_in_executor(self._pool, self._do, work, cores, tell, cancelled)
        task.add_done_callback(lambda _done: self._leave(slots))
        try:
            while True:
                events = [await answers.get()]
                while not answers.empty():
                    events.append(answers.get_nowait())
                yield events
                if events[-1][0]["type"] in (RESULT, FAILURE):
                    return
        finally:
            cancelled.set()
            loop.call_later(PATIENCE_SECONDS, lambda: None if task.done() else os._exit(1))

    def _leave(self, slots: int) -> None:
        self._running -= 1
        self._room.leave(slots)
        if not self._running:
            asyncio.get_running_loop().call_later(IDLE_SECONDS, self._rest)

    def _rest(self) -> None:
        if not self._running:
            self._pool.submit(release_memory)

    def _do(self, work: Work, cores: int, tell: Callable[..., None], cancelled: threading.Event) -> None:
        import torch

        def check() -> None:
            if cancelled.is_set():
                raise CancelledError("Cancelled.", "Segment again when you like.")

        reported = -PROGRESS_SECONDS

        def progress(phase: str, fraction: float, seconds_left: float | None) -> None:
            nonlocal reported
            check()
            if time.monotonic() - reported < PROGRESS_SECONDS:
                return
            reported = time.monotonic()
            left = None if seconds_left is None else float(seconds_left)
            tell({"type": PROGRESS, "phase": phase, "fraction": float(fraction), "seconds_left": left})

        try:
            check()
            if self._settings.device == "cpu":
                torch.set_num_threads(cores)
            tell({"type": ACCEPTED})
            job = self._unpacked(work)
            del work
            value, arrays = self._runner.run(job, progress)
            tell({"type": RESULT, "kind": job.kind, "value": value}, arrays)
        except Exception as error:
            known = without_paths(as_segmentation_error(error))
            tell(failure(0, known, ends=False))
            if not isinstance(error, (*HARMLESS, SegmentationError)) and not isinstance(known, OutOfMemoryError):
                # its text may quote the volume: it is not for the log
                print(type(error).__name__, "".join(traceback.format_tb(error.__traceback__)), flush=True)
                time.sleep(LAST_SECONDS)
                os._exit(1)

    def _unpacked(self, work: Work) -> Any:
        """The job, with the model as it is found here: a name, never a path that a client has sent."""
        packages = self._models.packages()
        if work.model not in packages:
            raise ModelError(
                f"The model {work.model} was removed from the server, or is not on all of its computers.",
                "Choose another model, or tell the owner of the server.",
            )
        try:
            job = JOBS[work.kind].unpack(work.value, work.arrays)
        except MemoryError:
            raise
        except Exception:
            raise InputError(
                "The server cannot read the volume.", "Update SESegmentation on this computer, and segment again."
            ) from None
        return replace(job, model=packages[work.model].path, device=self._settings.device)


@serve.ingress()
class Ingress:
    """Keeps jobs and talks to clients.

    Args:
        segmenter: the replicas.
        settings: of the server.
        replicas: how many there can be.
    """

    def __init__(self, segmenter: DeploymentHandle, settings: ServerSettings, replicas: int) -> None:
        self._segmenter = segmenter.options(stream=True)
        self._settings = settings
        self._board = Board(self._segment, settings.slots * replicas, settings.limits, self._slots_of)

    def __serve_build_asgi_app__(self) -> Any:  # noqa: N807
        return build_application(self._board, self._settings)

    def _slots_of(self, work: Work) -> int:
        return 1 if work.megavoxels <= SMALL / 1e6 else self._settings.slots

    async def _segment(self, work: Work, at_once: int) -> AsyncGenerator[Answer]:
        segmenter = self._segmenter.options(multiplexed_model_id=work.model)  # one that has the model, if it is free
        request = segmenter.run.remote(work, self._slots_of(work), at_once)
        response = cast(DeploymentResponseGenerator[list[Answer]], request)
        try:
            async for answers in response:
                for answer in answers:
                    yield answer
        except (ObjectStoreFullError, OutOfDiskError):
            raise OutOfMemoryError(
                "The server lacks the memory for this volume.", "Segment a region of interest, or try again later."
            ) from None
        except RayError:
            raise ReplicaLostError from None
        finally:
            response.cancel()
