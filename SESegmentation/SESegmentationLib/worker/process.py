"""The worker process: takes jobs from its standard input, one after the other, and answers on its standard output."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import time
import traceback
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CancelledError
from .ending import dump_after, prepare, say
from .frames import Frame, read_frame, take_pipes, write_frame
from .jobs import JOBS
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
    as_segmentation_error,
    failure,
    hello,
)
from .runner import EngineFactory, JobRunner, load_engine, release_memory

HEARTBEAT_SECONDS = 1.0
#: without a job for so long, memory is given back: that takes time which a job that waits should not pay
IDLE_SECONDS = 0.5
#: no thread of Python ran for so long, not even one that could see that the client is gone: end
DEADLOCK_SECONDS = 600.0


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
        """Run one job and answer; whether this process can go on."""
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
        """Tell the client that this process is alive, and whether its job is."""
        stalled = 0.0  # counted in heartbeats: time that the computer is asleep does not count
        while True:
            dump_after(DEADLOCK_SECONDS)
            stalled = stalled + HEARTBEAT_SECONDS if self._busy and not self._moved else 0.0
            self._moved = False
            self._send({"type": HEARTBEAT, "stalled": stalled})
            time.sleep(HEARTBEAT_SECONDS)
