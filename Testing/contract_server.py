"""A small server that keeps the contract of ``sesegment serve`` over HTTP, and breaks it where a test says so.

Jobs are done by the worker's own :class:`JobRunner` in a thread, or by what a test gives instead.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from SESegmentationLib.errors import CancelledError
from SESegmentationLib.models import ModelCard, find_model
from SESegmentationLib.worker.jobs import JOBS
from SESegmentationLib.worker.messages import (
    ACCEPTED,
    PROGRESS,
    QUEUED,
    RESULT,
    Frame,
    as_segmentation_error,
    failure,
    hello,
    read_frame,
    write_frame,
)

#: publishes a message about a job, with arrays
Publish = Callable[..., None]
#: does the job of a frame
Work = Callable[[Frame, Publish], None]


class ServedJob:
    """One job: its messages so far."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.events: list[tuple[dict[str, Any], list[np.ndarray]]] = []
        self.changed = threading.Condition()
        self.cancelled = False

    def publish(self, header: dict[str, Any], arrays: list[np.ndarray] | tuple = ()) -> None:
        with self.changed:
            self.events.append(({**header, "job": self.number, "event": len(self.events)}, list(arrays)))
            self.changed.notify_all()


class ContractServer:
    """The server, on a port of its own.

    Args:
        models: folders of the models that it has, by name.
        token: that it asks for; none where it is empty.
        context: for TLS.
        work: does jobs; the worker's runner where there is none.

    Attributes:
        asked: method and path of every request.
        uploads: bodies that came whole.
        answers: status, JSON and headers that the next requests get instead of an answer, oldest first.
        jobs: that it has, by id.
        drops: after how many bytes the next streams are cut off.
        refuses_upload: how many uploads are cut off after some bytes.
        introduction: changes of what ``/v1/server`` tells.
        silent: streams say nothing while this is set.
    """

    def __init__(
        self, models: dict[str, Any], token: str = "", context: ssl.SSLContext | None = None, work: Work | None = None
    ) -> None:
        self.models = models
        self.token = token
        self.context = context
        self.work = work or self.run_job
        self.asked: list[tuple[str, str]] = []
        self.uploads: list[bytes] = []
        self.answers: deque[tuple[int, dict[str, Any], dict[str, str]]] = deque()
        self.drops: deque[int] = deque()
        self.refuses_upload = 0
        self.introduction: dict[str, Any] = {}
        self.silent = threading.Event()
        self.jobs: dict[str, ServedJob] = {}
        self._sockets: list[socket.socket] = []
        self._runner: Any = None
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"{'https' if self.context else 'http'}://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen, on the same port each time."""
        handler = type("Handler", (_Handler,), {"server_of": self})
        ThreadingHTTPServer.allow_reuse_address = True
        self._http = ThreadingHTTPServer(("127.0.0.1", self._port), handler)
        self._http.daemon_threads = True
        self._port = self._http.server_address[1]
        if self.context:
            self._http.socket = self.context.wrap_socket(self._http.socket, server_side=True)
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self, forget: bool = False) -> None:
        """Stop listening, and end every connection; ``forget`` the jobs too."""
        self._http.shutdown()
        self._http.server_close()
        for connection in self._sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()
        if forget:
            self.jobs.clear()

    def describe(self) -> dict[str, Any]:
        """What ``/v1/server`` tells."""
        cards: list[ModelCard] = [find_model(folder).card for folder in self.models.values()]
        models = [
            {
                "name": card.name,
                "version": card.version,
                "title": card.title,
                "weights_sha256": card.weights_sha256,
            }
            for card in cards
        ]
        introduction = {key: value for key, value in hello().items() if key != "pid"}
        queue = {"waiting": 0, "running": 0, "seconds": 0.0}
        return introduction | {"models": models, "limits": {"bytes": 1 << 30}, "queue": queue} | self.introduction

    def run_job(self, frame: Frame, publish: Publish) -> None:
        """Do a job as the worker does."""
        from SESegmentationLib.worker.process import JobRunner

        self._runner = self._runner or JobRunner()
        value = frame.header["value"]
        value = {**value, "model": str(self.models[value["model"]]), "device": "cpu"}
        publish({"type": QUEUED, "position": 2, "seconds_left": 4.0})
        publish({"type": QUEUED, "position": 1, "seconds_left": 2.0})
        publish({"type": ACCEPTED})
        job = JOBS[frame.header["kind"]].unpack(value, frame.arrays)

        def progress(phase: str, fraction: float, seconds_left: float | None) -> None:
            publish({"type": PROGRESS, "phase": phase, "fraction": fraction, "seconds_left": seconds_left})

        given, arrays = self._runner.run(job, progress)
        publish({"type": RESULT, "kind": job.kind, "value": given}, arrays)

    def begin(self, identity: str, frame: Frame) -> ServedJob:
        """Take a job on."""
        job = self.jobs[identity] = ServedJob(frame.header["job"])

        def publish(header: dict[str, Any], arrays: list[np.ndarray] | tuple = ()) -> None:
            if job.cancelled:
                raise CancelledError("Cancelled.")
            job.publish(header, arrays)

        def work() -> None:
            try:
                self.work(frame, publish)
            except Exception as error:
                job.publish(failure(job.number, as_segmentation_error(error), ends=False))

        threading.Thread(target=work, daemon=True).start()
        return job


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: ContractServer

    def setup(self) -> None:
        super().setup()
        self.server_of._sockets.append(self.connection)

    def log_message(self, *arguments: Any) -> None:
        """Be quiet."""

    def handle(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().handle()

    def do_GET(self) -> None:  # noqa: N802
        self._answer("GET")

    def do_PUT(self) -> None:  # noqa: N802
        self._answer("PUT")

    def do_DELETE(self) -> None:  # noqa: N802
        self._answer("DELETE")

    def _answer(self, method: str) -> None:
        ours, parts = self.server_of, urlsplit(self.path)
        ours.asked.append((method, self.path))
        if parts.path == "/healthz":
            return self._json(200, {"status": "ok"})
        given = self.headers.get("Authorization")
        if ours.token and given != f"Bearer {ours.token}":
            cause = "The server does not know this token." if given else "The server asks for a token."
            return self._json(401, {"code": "usage", "cause": cause, "remedy": "Get one."})
        if ours.answers and parts.path.startswith("/v1/jobs"):
            return self._json(*ours.answers.popleft())
        if parts.path == "/v1/server":
            return self._json(200, ours.describe())
        identity = parts.path.removeprefix("/v1/jobs/")
        if method == "PUT" and identity not in ours.jobs:
            return self._take(identity)
        if identity not in ours.jobs:
            return self._json(
                404, {"code": "usage", "cause": "The server has no such job.", "remedy": "Segment again."}
            )
        if method == "DELETE":
            ours.jobs.pop(identity).cancelled = True
            self.send_response(204)
            return self.end_headers()
        after = int(parse_qs(parts.query).get("after", ["-1"])[0])
        return self._stream(ours.jobs[identity], after)

    def _take(self, identity: str) -> None:
        ours, length = self.server_of, int(self.headers["Content-Length"])
        if ours.refuses_upload:
            ours.refuses_upload -= 1
            self.rfile.read(min(length, 1000))
            self.close_connection = True
            return
        body = self.rfile.read(length)
        if len(body) < length:
            return
        ours.uploads.append(body)
        frame = read_frame(_Bytes(body))
        assert frame is not None
        self._stream(ours.begin(identity, frame), -1)

    def _stream(self, job: ServedJob, after: int) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        out = _Chunks(self.wfile, self.server_of.drops.popleft() if self.server_of.drops else None)
        try:
            for header, arrays in self._messages(job, after):
                write_frame(out, header, arrays)
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    def _messages(self, job: ServedJob, after: int) -> Iterator[tuple[dict[str, Any], list[np.ndarray]]]:
        number, last = after + 1, ""
        while last not in ("result", "failure"):
            with job.changed:
                if len(job.events) <= number:
                    job.changed.wait(0.1)
                message = job.events[number] if len(job.events) > number else None
            while self.server_of.silent.is_set():
                time.sleep(0.01)
            if message is None:
                yield {"type": "heartbeat", "stalled": 0.0}, []
                continue
            number, last = number + 1, message[0]["type"]
            yield message

    def _json(self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body)), "Connection": "close"}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True


class _Bytes:
    """Bytes to read a frame from."""

    def __init__(self, content: bytes) -> None:
        self._rest = memoryview(content)

    def readinto(self, buffer: memoryview) -> int:
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


class _Chunks:
    """A stream in chunks, which may break off after so many bytes."""

    def __init__(self, out: Any, limit: int | None) -> None:
        self._out, self._left = out, limit

    def write(self, data: memoryview) -> int:
        count = min(len(data), 5000)
        if self._left is not None:
            count = min(count, self._left)
            if not count:
                raise OSError("cut off")
            self._left -= count
        self._out.write(b"%x\r\n" % count + bytes(data[:count]) + b"\r\n")
        return count
