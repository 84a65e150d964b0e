"""Segmenting on a server: jobs and their results are the worker's frames, sent over HTTP.

Each job has a random id, by which it is resumed after a lost connection.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import requests

from .. import __version__
from ..errors import CancelledError, InputError, ModelError, SegmentationError, ServerError
from ..io.volume_image import REMARKS, remarks_of
from ..models import ModelCard, find_model
from ..plain_text import plain
from ..worker.jobs import Job, SegmentJob
from ..worker.messages import (
    ACCEPTED,
    FAILURE,
    HEARTBEAT,
    JOB,
    PROGRESS,
    PROTOCOL,
    QUEUED,
    RESULT,
    Frame,
    FrameError,
    as_segmentation_error,
    error_of,
    read_frame,
)
from . import AcceptedEvent, Event, FailureEvent, JobHandle, ProgressEvent, ResultEvent
from .expected_result import ExpectedResult
from .http_client import INTRODUCED_SECONDS, Body, HttpClient, LostError, Stream, UnknownJobError
from .servers import Server

#: phases of a job on a server besides those of the worker and RESTARTED; QUEUE with the number in the queue after it
SENDING, QUEUE, RECONNECTING = "sending", "queue", "connecting again"
#: the share of the whole job that sending counts as
_SENDING_SHARE = 0.05
#: time for telling the server that jobs are over, when the segmenter is closed, in s
_CLOSING_SECONDS = 0.7
_SERVER_REMEDY = "Segment again; if it fails again, tell the server's owner."


@dataclass(frozen=True)
class Patience:
    """How patient a client is, in s.

    Attributes:
        lost: without a connection to a server that has a job; then the job is given up.
        stall: without progress of a job.
    """

    lost: float = 60.0
    stall: float = 300.0


class Delivery:
    """One job on its way to a server and back, in the thread that calls :meth:`run`.

    Args:
        client: to the server.
        job: what is to be done; SegmentationError where it cannot be sent.
        number: of the job in its events.
        patience: see there.
    """

    def __init__(self, client: HttpClient, job: Job, number: int, patience: Patience) -> None:
        self._client = client
        self._server = client.server.name
        self._number = number
        self._patience = patience
        self._card = find_model(getattr(job, "model", "")).card
        value, arrays = job.pack()
        self._expected = ExpectedResult.of(job)
        self._arrays: list[np.ndarray] | None = arrays
        # what was remarked on when the file was read may name the file, and stays here
        self._remarks = [finding.to_dict() for finding in remarks_of(job.image)] if isinstance(job, SegmentJob) else []
        for image in value.get("images", {}).values():
            image["metadata"].pop(REMARKS, None)
        self._header = {
            "type": JOB,
            "job": number,
            "kind": job.kind,
            "value": value | {"model": self._card.name, "device": "auto"},
            "protocol": PROTOCOL,
            "version": __version__,
            "model_version": self._card.version,
        }
        self._path = f"/v1/jobs/{uuid.uuid4()}"
        self._tell: Callable[[Event], None] = lambda event: None
        self._last: int | None = None
        self._is_there = False
        self._fraction = 0.0
        self._cancelled = threading.Event()

    def run(self, tell: Callable[[Event], None]) -> None:
        """Deliver the job, and report its events; the last is its result or failure."""
        self._tell = tell
        answers = contextlib.ExitStack()
        try:
            self._refuse_unfit()
            event: Event = self._deliver(answers)
        except Exception as error:
            event = FailureEvent(self._number, as_segmentation_error(error))
        self._arrays = None
        tell(event)
        with contextlib.suppress(Exception):  # the cause has been reported
            answers.close()
        self.forget()

    def cancel(self) -> None:
        """Stop; :meth:`run` may end a little later. To be called from another thread."""
        self._cancelled.set()
        self.forget()

    def forget(self) -> None:
        """Have the server stop the job and forget all of it."""
        if self._is_there:
            with contextlib.suppress(Exception):  # the server forgets what nobody asks for
                self._client.request("DELETE", self._path).close()

    def _refuse_unfit(self) -> None:
        """Raise SegmentationError where the server cannot do the job, before any of it is sent."""
        introduction = self._client.introduction(INTRODUCED_SECONDS)
        _check_model(introduction, self._card, self._server)
        limits = introduction.get("limits")
        most = limits.get("bytes") if isinstance(limits, dict) else None
        size = sum(array.nbytes for array in self._arrays or [])
        if isinstance(most, int) and size > most:
            raise InputError(
                f"The volume takes {size / 1e6:.0f} MB; the server {self._server} takes {most / 1e6:.0f} MB.",
                "Segment a part of it (in Slicer: Crop Volume), or compute on this computer.",
            )

    def _deliver(self, answers: contextlib.ExitStack) -> Event:
        """The event in which the job ends. A lost connection is retried, until that has failed for too long.

        Args:
            answers: closes those of the server.
        """
        lost_at, pause = None, 0.2
        while True:
            try:
                response = answers.enter_context(self._open())
                for frame in self._frames(response):
                    lost_at, pause = None, 0.2
                    if event := self._receive(frame):
                        answers.callback(response.raw.read)  # to the end, so that the connection can be reused
                        return event
            except LostError as lost:
                now = time.monotonic()
                lost_at = now if lost_at is None else lost_at
                wait = max(pause, lost.wait or 0.0)
                if now + wait - lost_at > self._patience.lost:
                    gone = f"The connection to the server {self._server} was lost and did not come back within "
                    error = ServerError(f"{gone}{self._patience.lost:.0f} s.", "Check the network; then segment again.")
                    raise (error if lost.wait is None else lost.error) from lost
                self._progress(RECONNECTING, self._fraction, None)
                self._cancelled.wait(wait)
                self._check_cancelled()
                pause = min(2 * pause, 5.0)
            except UnknownJobError as error:  # it never came whole, or the server was restarted
                if self._arrays is None:
                    cause = (
                        f"The server {self._server} has forgotten the job: it was restarted, or this computer was "
                        "asleep or without a network for too long."
                    )
                    raise ServerError(cause, _SERVER_REMEDY) from error
                self._is_there, self._last = False, None

    def _open(self) -> requests.Response:
        """The response in which the server streams the events of the job."""
        if self._is_there:
            return self._client.request("GET", self._path + ("" if self._last is None else f"?after={self._last}"))
        self._is_there = True  # some of it at least; whether the whole, the server knows
        return self._client.request("PUT", self._path, Body(self._header, self._arrays or [], self._on_block))

    def _on_block(self, share: float) -> None:
        self._check_cancelled()
        self._progress(SENDING, _SENDING_SHARE * share, None)

    def _frames(self, response: requests.Response) -> Iterator[Frame]:
        """What the server sends; LostError where that ends before the job does."""
        stream = Stream(response)
        lost = LostError(ServerError(f"The server {self._server} stopped sending.", _SERVER_REMEDY))
        while True:
            try:
                frame = read_frame(stream)
            except OSError as error:
                raise lost from error
            except FrameError as error:
                raise lost if stream.ended else self._unreadable() from error
            if frame is None:
                raise lost
            yield frame

    def _receive(self, frame: Frame) -> Event | None:
        """Take in one message; the event in which the job ends, if it is that."""
        self._check_cancelled()
        header = frame.header
        try:
            if header["type"] == HEARTBEAT:
                if float(header["stalled"]) > self._patience.stall:
                    raise ServerError(f"The server made no progress for {header['stalled']:.0f} s.", _SERVER_REMEDY)
                return None
            if header["job"] != self._number:
                raise ValueError("another job")
            number = int(header["event"])
            if self._last is not None and number <= self._last:
                return None
            self._last = number
            return self._interpret(header, frame.arrays)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._unreadable() from error

    def _interpret(self, header: dict[str, Any], arrays: list[np.ndarray]) -> Event | None:
        kind = header["type"]
        if kind == QUEUED:
            self._progress(f"{QUEUE} {int(header['position'])}", _SENDING_SHARE, header["seconds_left"])
        elif kind == ACCEPTED:
            self._arrays = None
            self._tell(AcceptedEvent(self._number))
        elif kind == PROGRESS:
            fraction = _SENDING_SHARE + (1 - _SENDING_SHARE) * float(header["fraction"])
            self._progress(str(header["phase"]), fraction, header["seconds_left"])
        elif kind == FAILURE:
            raise error_of({key: plain(str(header[key])) for key in ("code", "cause", "remedy")})
        elif kind == RESULT:
            value = dict(header["value"])
            try:
                self._expected.check(header["kind"], value, arrays)
            except (LookupError, TypeError, ValueError) as error:
                cause = f"The server {self._server} sent a result that does not fit the volume."
                raise ServerError(cause, _SERVER_REMEDY) from error
            if self._remarks:  # these come first, as of the local worker
                value["findings"] = [*self._remarks, *value["findings"]]
            return ResultEvent(self._number, str(header["kind"]), value, arrays)
        return None

    def _progress(self, phase: str, fraction: float, seconds_left: Any) -> None:
        self._fraction = fraction
        left = None if seconds_left is None else float(seconds_left)
        self._tell(ProgressEvent(self._number, phase, fraction, left))

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise _cancelled()

    def _unreadable(self) -> ServerError:
        return ServerError(f"The server {self._server} sent something that cannot be read.", _SERVER_REMEDY)


def _check_model(introduction: dict[str, Any], card: ModelCard, server: str) -> None:
    """Raise ModelError where a server has no such model, or another version of it."""
    models = introduction.get("models")
    entries = models if isinstance(models, list) else []
    known = {str(entry.get("name")): entry for entry in entries if isinstance(entry, dict)}
    if (entry := known.get(card.name)) is None:
        remedy = f"Choose one of these: {', '.join(known)}." if known else "Ask the server's owner to add it."
        raise ModelError(f"The server {server} has no model {card.name}.", plain(remedy)[:400])
    version, weights = str(entry.get("version")), entry.get("weights_sha256", card.weights_sha256)
    if version != card.version or weights != card.weights_sha256:
        other = f"version {plain(version)[:40]}" if version != card.version else "other weights"
        raise ModelError(
            f"The server {server} has {other} of the model {card.name}; here it is {card.version}.",
            "Install the same version here and there, or compute on this computer.",
        )


class RemoteSegmenter:
    """Runs jobs on a server, each in a thread of its own that carries frames. See :class:`.Segmenter`.

    Args:
        server: where.
        patience: how long to wait for what.
    """

    def __init__(self, server: Server, patience: Patience = Patience()) -> None:
        self._patience = patience
        self._client = HttpClient(server)
        self._numbers = itertools.count(1)
        self._arrived: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._events: list[Event] = []
        self._running: dict[int, tuple[JobHandle, Delivery]] = {}
        self._threads: list[threading.Thread] = []
        self._closed = False

    def submit(self, job: Job) -> JobHandle:
        """Send ``job``; see :meth:`.Segmenter.submit`. RuntimeError after :meth:`close`."""
        if self._closed:
            raise RuntimeError("this segmenter is closed")
        handle = JobHandle(next(self._numbers), self._cancel)
        try:
            delivery = Delivery(self._client, job, handle.number, self._patience)
        except SegmentationError as error:
            self._finish(handle, FailureEvent(handle.number, error))
            return handle
        self._running[handle.number] = handle, delivery
        self._start(delivery.run, self._arrived.put)
        return handle

    def poll(self) -> list[Event]:
        """What has happened since the last call; see :meth:`.Segmenter.poll`."""
        while True:
            try:
                event = self._arrived.get_nowait()
            except queue.Empty:
                break
            if event.job not in self._running:  # it was cancelled
                continue
            if isinstance(event, (ResultEvent, FailureEvent)):
                self._finish(self._running.pop(event.job)[0], event)
            else:
                self._events.append(event)
        events, self._events = self._events, []
        return events

    def release(self) -> None:
        """Close idle connections; the next job opens another."""
        if not self._running:
            self._client.close()

    def close(self) -> None:
        """Cancel what runs. No further events come. Waits less than a second for the server to hear of it."""
        self._closed = True
        for handle, _ in list(self._running.values()):
            self._cancel(handle)
        self._events.clear()
        end = time.monotonic() + _CLOSING_SECONDS
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0))
        self._client.close()

    def __enter__(self) -> RemoteSegmenter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _cancel(self, handle: JobHandle) -> None:
        _, delivery = self._running.pop(handle.number)
        self._finish(handle, FailureEvent(handle.number, _cancelled()))
        self._start(delivery.cancel)

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, name="job on a server", daemon=True)
        thread.start()
        self._threads = [*(other for other in self._threads if other.is_alive()), thread]

    def _finish(self, handle: JobHandle, event: ResultEvent | FailureEvent) -> None:
        handle.finished = True
        self._events.append(event)


def _cancelled() -> CancelledError:
    return CancelledError("The segmentation was cancelled.", "Nothing was changed.")
