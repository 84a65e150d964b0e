"""The worker process: takes jobs from its standard input, runs them with warm engines, answers on its output."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CancelledError, ModelError
from ..geometry import Slices
from ..inference.output_checks import with_doubtful_slices
from ..models import ModelPackage, find_locator, find_model
from ..models.card import CARD_NAME
from ..progress import Progress
from . import end_with_stacks_after, prepare, say
from .jobs import (
    JOBS,
    AttentionJob,
    Job,
    RefinedResult,
    RefineJob,
    SegmentJob,
    WarmUpJob,
    pack_image,
    pack_refinement,
    pack_result,
)
from .messages import (
    ACCEPTED,
    CANCEL,
    EXIT_MEMORY,
    EXIT_PROTOCOL,
    HARMLESS,
    HEARTBEAT,
    JOB,
    PROGRESS,
    RESULT,
    SHUTDOWN,
    Frame,
    as_segmentation_error,
    failure,
    hello,
    read_frame,
    take_pipes,
    write_frame,
)

if TYPE_CHECKING:
    from ..inference.engine import Engine


#: the result of a job: JSON and arrays
Value = tuple[dict[str, Any], list[np.ndarray]]


#: makes an engine of a model for a device ("auto", "cpu", "cuda", ...)
EngineFactory = Callable[[ModelPackage, str], "Engine"]
HEARTBEAT_SECONDS = 1.0
#: idle time in s after which memory is released; that takes time, which would delay a waiting job
IDLE_SECONDS = 0.5
#: the process ends if no Python thread has run for this long, not even the one that watches the client
DEADLOCK_SECONDS = 600.0


def load_engine(package: ModelPackage, device: str) -> Engine:
    """The real engine. Torch is imported here, and nowhere else.

    Raises:
        ImportError: torch, or one of the libraries that it needs, is not there.
    """
    try:
        from ..inference.engine import Engine
    except OSError as error:  # so torch reports libraries of the system that it does not find
        raise ImportError(f"torch: {error}") from error

    return Engine(package, device)


def load_adapted_engine(package: ModelPackage, device: str, adapted: bytes) -> Engine:
    """The real engine with parameters that were adapted to a patient.

    Raises:
        InputError: these are damaged, or belong to other weights.
    """
    from ..inference.engine import Engine
    from ..refine.adapted import AdaptedParameters

    return Engine(package, device, AdaptedParameters.from_bytes(adapted).networks(package))


class JobRunner:
    """Runs jobs, also in several threads at once: they share the engines, which do not change.

    Args:
        engine_factory: makes the engines of models as they are.
        capacity: how many engines stay loaded.
    """

    def __init__(self, engine_factory: EngineFactory = load_engine, capacity: int = 2) -> None:
        self._make_engine = engine_factory
        self._capacity = capacity
        self._engines: OrderedDict[tuple, Engine] = OrderedDict()
        self._loading = threading.Lock()
        self._run_by_kind: dict[str, Callable[[Any, Progress], Value]] = {
            SegmentJob.kind: self._segment,
            RefineJob.kind: self._refine,
            AttentionJob.kind: self._attention,
            WarmUpJob.kind: self._warm_up,
        }

    def run(self, job: Job, progress: Progress) -> Value:
        """Run ``job``; returns its result as JSON and arrays.

        Raises:
            SegmentationError: of the engine, or from ``progress``.
            Exception: whatever else goes wrong, missing packages among it.
        """
        return self._run_by_kind[job.kind](job, progress)

    def _segment(self, job: SegmentJob, progress: Progress) -> Value:
        progress("load", 0.0, None)
        engine = self._engine(job.model, job.device, job.adapted)
        return pack_result(with_doubtful_slices(engine.segment(job.image, job.options, progress=progress)))

    def _refine(self, job: RefineJob, progress: Progress) -> Value:
        progress("load", 0.0, None)
        engine = self._engine(job.model, job.device)
        from ..geometry import Geometry
        from ..inference.model_grid import on_grid_of
        from ..refine.recalibration import RecalibrationSettings
        from ..refine.refinement import refine

        refined = refine(
            engine,
            on_grid_of(Geometry.of(job.labels), job.image, engine.card),
            job.labels,
            None if job.slices is None else [Slices.parse(text) for text in job.slices],
            options=replace(job.options, grid="input"),
            whole_slices=job.whole_slices,
            recalibration=RecalibrationSettings() if job.recalibrate else None,
            progress=progress,
        )
        return pack_refinement(RefinedResult.of(replace(refined, result=with_doubtful_slices(refined.result))))

    def _attention(self, job: AttentionJob, progress: Progress) -> Value:
        progress("load", 0.0, None)
        engine = self._engine(job.model, job.device, job.adapted)
        from ..inference.attention import attention_map

        attention = attention_map(engine, job.image, job.options, progress)
        description, voxels = pack_image(attention)
        return {"attention": description}, [voxels]

    def _warm_up(self, job: WarmUpJob, progress: Progress) -> Value:
        progress("load", 0.0, None)
        self._engine(job.model, job.device)
        return {}, []

    def _engine(self, model: str | Path, device: str, adapted: bytes | None = None) -> Engine:
        """The engine of a model, as its files are now, with adapted parameters where these are given."""
        package = find_model(model)
        which = package.path.resolve(), device, hashlib.sha256(adapted).hexdigest() if adapted else ""
        key = (which, _stamp(package))
        with self._loading:
            if key not in self._engines:
                # any other engine of this model belongs to files that have changed since
                for old in [old for old in self._engines if old[0] == which]:
                    del self._engines[old]
                while len(self._engines) >= self._capacity:
                    self._engines.popitem(last=False)
                self._engines[key] = (
                    load_adapted_engine(package, device, adapted) if adapted else self._make_engine(package, device)
                )
            self._engines.move_to_end(key)
            return self._engines[key]


def _stamp(package: ModelPackage) -> tuple:
    """Tells whether the files of a package, and of the model that locates for it, are still the same."""
    stamp: list = [package.path.resolve()]
    for path in (package.path / CARD_NAME, package.weights_path):
        status = path.stat()
        stamp += [status.st_mtime_ns, status.st_size]
    if package.card.pipeline:
        with contextlib.suppress(ModelError):  # crops need none; the engine says so where one is needed
            stamp += _stamp(find_locator(package))
    return tuple(stamp)


def release_memory() -> None:
    """Give back to the system what a job has left behind."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # only the GNU library has this call
            ctypes.CDLL(None).malloc_trim(0)


def serve(engine_factory: EngineFactory = load_engine) -> None:
    """Do what the client on standard input asks, until it says shutdown or is gone; then the process ends.

    Whatever libraries print to standard output goes to standard error instead.

    Args:
        engine_factory: makes the engine of a model; tests give another one from a script of their own.
    """
    prepare()
    incoming, outgoing = take_pipes()
    # threads that wait by spinning slow each other down tenfold where other programs use the cores too
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with contextlib.suppress(OSError):  # Linux: where memory runs out, end this process, not Slicer with its scene
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the client, which then ends this process
    code = 0
    try:
        _Worker(incoming, outgoing, JobRunner(engine_factory)).run()
    except BaseException as error:  # a library may try to end the program
        code = 1
        if isinstance(error, SystemExit):
            print(error.code, file=sys.stderr)
        else:
            traceback.print_exc()
        say(f"{type(error).__name__}: {error}")
    sys.stderr.flush()
    os._exit(code)  # threads still wait for messages, and libraries may take long to unload


class _Worker:
    """The state shared by the thread that runs jobs (the main one), the one that listens and the one that beats."""

    def __init__(self, incoming: FileIO, outgoing: FileIO, runner: JobRunner) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._runner = runner
        self._inbox: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        self._sending = threading.Lock()
        self._cancelled: set[int] = set()
        self._busy = False
        #: whether the job at hand has made progress since the last heartbeat
        self._moved = False

    def run(self) -> None:
        """Work until the client says shutdown, or until a failure that asks for a fresh process."""
        self._send(hello())
        for loop in (self._listen, self._beat):
            threading.Thread(target=loop, name=loop.__name__, daemon=True).start()
        while (frame := self._next_job()) is not None:
            self._busy = True
            healthy = self._do(frame)
            self._busy = False
            if not healthy:
                break
            del frame  # or its volume would stay until the next one comes

    def _next_job(self) -> Frame | None:
        try:
            return self._inbox.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            release_memory()
            return self._inbox.get()

    def _do(self, frame: Frame) -> bool:
        """Run one job and answer; returns whether this process can go on."""
        number = frame.header["job"]
        try:
            self._check(number)
            self._send({"type": ACCEPTED, "job": number})
            job = JOBS[frame.header["kind"]].unpack(frame.header["value"], frame.arrays)
            frame.arrays.clear()  # what the job needs of them it holds

            def progress(phase: str, fraction: float, seconds_left: float | None) -> None:
                self._moved = True
                self._check(number)
                self._send(
                    {
                        "type": PROGRESS,
                        "job": number,
                        "phase": phase,
                        "fraction": float(fraction),
                        "seconds_left": None if seconds_left is None else float(seconds_left),
                    }
                )

            value, arrays = self._runner.run(job, progress)
            self._send({"type": RESULT, "job": number, "kind": job.kind, "value": value}, arrays)
            return True
        except Exception as error:
            harmless = isinstance(error, HARMLESS)
            if not harmless:
                traceback.print_exc()
            self._send(failure(number, as_segmentation_error(error), ends=not harmless))
            return harmless
        finally:
            self._cancelled.discard(number)

    def _check(self, number: int) -> None:
        """Raise if the client has cancelled the job."""
        if number in self._cancelled:
            raise CancelledError("Cancelled.", "Segment again when you like.")

    def _send(self, header: dict[str, Any], arrays: list[np.ndarray] | tuple = ()) -> None:
        try:
            with self._sending:
                write_frame(self._outgoing, header, arrays)
        except OSError:  # the client is gone
            os._exit(0)

    def _listen(self) -> None:
        """Read messages; end the process with the client, even in the middle of a job."""
        try:
            while frame := read_frame(self._incoming):
                kind = frame.header.get("type")
                if kind == JOB:
                    self._inbox.put(frame)
                elif kind == CANCEL:
                    self._cancelled.add(frame.header["job"])
                elif kind == SHUTDOWN:
                    self._inbox.put(None)
                del frame  # or a large volume would stay until the next message
        except MemoryError:
            os._exit(EXIT_MEMORY)
        except OSError:  # the client is gone in an untidy way
            pass
        except Exception as error:  # whatever it is: without this thread the process would outlive its client
            print(f"The client sent something unreadable: {error!r}", file=sys.stderr, flush=True)
            os._exit(EXIT_PROTOCOL)
        os._exit(0)

    def _beat(self) -> None:
        """Tell the client that this process is alive, and whether its job makes progress."""
        stalled = 0.0  # counted in heartbeats: time that the computer is asleep does not count
        while True:
            end_with_stacks_after(DEADLOCK_SECONDS)
            stalled = stalled + HEARTBEAT_SECONDS if self._busy and not self._moved else 0.0
            self._moved = False
            self._send({"type": HEARTBEAT, "stalled": stalled})
            time.sleep(HEARTBEAT_SECONDS)
