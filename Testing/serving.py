"""A real server on this computer, in a process of its own, and requests to it as a client would make them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import requests

from SESegmentationLib import __version__
from SESegmentationLib.worker.jobs import Job
from SESegmentationLib.worker.messages import FAILURE, HEARTBEAT, JOB, PROTOCOL, RESULT, Frame, read_frame
from SESegmentationServer.frames import pieces_of
from SESegmentationServer.tokens import TokenStore

_LIBRARY = Path(__file__).resolve().parents[1] / "SESegmentation"


class _Body:
    """What a response brings, as a stream to read frames from."""

    def __init__(self, response: requests.Response) -> None:
        self._raw = response.raw

    def readinto(self, buffer: memoryview) -> int:
        data = self._raw.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def job_header(job: Job, number: int = 1, **changes: Any) -> tuple[dict[str, Any], list]:
    """What is sent for ``job``: the header, with ``changes``, and arrays."""
    value, arrays = job.pack()
    header = {"type": JOB, "job": number, "kind": job.kind, "value": value, "protocol": PROTOCOL}
    return header | {"version": __version__, "model_version": None} | changes, arrays


def body_of(job: Job, number: int = 1, **changes: Any) -> bytes:
    """The body of a request for ``job``."""
    return b"".join(pieces_of(job_header(job, number, **changes)))


def frames_of(response: requests.Response) -> Iterator[Frame]:
    """The frames that a response brings, but for heartbeats."""
    response.raw.decode_content = True
    while frame := read_frame(_Body(response)):
        if frame.header["type"] != HEARTBEAT:
            yield frame
        if frame.header["type"] in (RESULT, FAILURE):
            return


@dataclass
class Server:
    """A server that runs.

    Attributes:
        url: of it.
        tokens: of its users, by name.
        store: their file.
        authority: certificate that its own rests on; None without TLS.
        folder: private to it, with all that it writes.
        process: the command.
        lines: that it printed.
    """

    url: str
    tokens: dict[str, str]
    store: TokenStore
    authority: Path | None
    folder: Path
    process: subprocess.Popen
    lines: list[str] = field(default_factory=list)

    def ask(self, method: str, path: str, user: str | None = None, **options: Any) -> requests.Response:
        """A request of ``user``; without one, without a token."""
        headers = options.pop("headers", {})
        if user is not None:
            headers = {"Authorization": f"Bearer {self.tokens.get(user, user)}"} | headers
        options.setdefault("timeout", 120)
        verify = str(self.authority) if self.authority else None
        return requests.request(method, f"{self.url}{path}", headers=headers, verify=verify, **options)

    def put(self, job: Job, user: str | None, identity: str = "", number: int = 1, **changes: Any) -> requests.Response:
        """Send a job; its answer streams."""
        path = f"/v1/jobs/{identity or uuid.uuid4()}"
        return self.ask("PUT", path, user, data=body_of(job, number, **changes), stream=True)

    def do(self, job: Job, user: str | None, **options: Any) -> list[Frame]:
        """Have a job done, and forgotten; all that was told of it."""
        identity = str(uuid.uuid4())
        response = self.put(job, user, identity, **options)
        assert response.status_code == 200, response.text
        frames = list(frames_of(response))
        assert self.ask("DELETE", f"/v1/jobs/{identity}", user).status_code == 204
        return frames

    def replicas(self, name: str = "segmenter") -> list[psutil.Process]:
        """The processes of a deployment."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if f"ServeReplica:sesegmentation:{name}" in child.cmdline()[0]:  # before what it does
                    found.append(child)
        return found


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def served(users: Sequence[str] = (), tls: bool = False, options: Sequence[str] = ()) -> Iterator[Server]:
    """A server that answers; it is ended after it.

    Args:
        users: who get tokens.
        tls: let it have a certificate.
        options: of the command.
    """
    folder = Path(tempfile.mkdtemp(prefix="s", dir="/tmp"))  # paths of Ray's sockets have to be short
    store = TokenStore(folder / "tokens.json")
    tokens = {user: store.add(user) for user in users}
    port, authority, command = free_port(), None, [sys.executable, "-m", "SESegmentationLib.cli", "serve"]
    command += ["--port", str(port), "--tokens", str(store.path), *options]
    if tls:
        import trustme

        issuer = trustme.CA()
        authority, certificate, key = (folder / f"{name}.pem" for name in ("authority", "certificate", "key"))
        own = issuer.issue_cert("127.0.0.1", "localhost")
        issuer.cert_pem.write_to_path(str(authority))
        own.private_key_pem.write_to_path(str(key))
        for pem in own.cert_chain_pems:
            pem.write_to_path(str(certificate), append=True)
        command += ["--certificate", str(certificate), "--key", str(key)]
    (folder / "t").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(_LIBRARY), "TMPDIR": str(folder / "t")}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    server = Server(url, tokens, store, authority, folder, process)
    try:
        _wait_until_ready(server)
        yield server
    finally:
        end(server)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready(server: Server) -> None:
    assert server.process.stdout
    for line in server.process.stdout:
        server.lines.append(line)
        if line.startswith("Serving at"):
            threading.Thread(target=lambda: server.lines.extend(server.process.stdout or ()), daemon=True).start()
            return
    raise AssertionError("the server did not start:\n" + "".join(server.lines))


def end(server: Server, seconds: float = 30.0) -> int:
    """End a server as Ctrl-C in a terminal does, which reaches all processes there; its exit code."""
    if server.process.poll() is None:
        os.killpg(server.process.pid, signal.SIGINT)
        try:
            server.process.wait(seconds)
        except subprocess.TimeoutExpired:
            for child in psutil.Process(server.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    child.kill()
            server.process.kill()
    return server.process.wait()
