"""The worker process as its client sees it: raw frames through real pipes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from SESegmentationLib import __version__
from SESegmentationLib.client.worker_process import worker_environment
from SESegmentationLib.worker.jobs import SegmentJob, WarmUpJob
from SESegmentationLib.worker.messages import EXIT_PROTOCOL, PROTOCOL, Frame, read_frame, write_frame

#: heartbeats come at any time
IGNORED = "heartbeat"
START = """
import os, subprocess, sys, time
from SESegmentationLib.worker.process import serve
"""


class RawWorker:
    """A worker and its pipes."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=worker_environment(),
        )

    def send(self, header: dict[str, Any], arrays: list[np.ndarray] = []) -> None:  # noqa: B006
        write_frame(self.process.stdin, header, arrays)

    def send_job(self, number: int, job: SegmentJob | WarmUpJob) -> None:
        value, arrays = job.pack()
        self.send({"type": "job", "job": number, "kind": job.kind, "value": value}, arrays)

    def read(self) -> Frame | None:
        while (frame := read_frame(self.process.stdout)) and frame.header["type"] == IGNORED:
            pass
        return frame

    def end(self) -> tuple[int, str]:
        """Wait; exit code and what was printed."""
        printed = self.process.stderr.read().decode()
        return self.process.wait(30), printed


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RawWorker]]:
    """Starts the worker, or one from a script that begins with ``START``; it has said hello."""
    workers = []

    def start(script: str | None = None) -> RawWorker:
        command = [sys.executable, "-m", "SESegmentationLib.worker"]
        if script is not None:
            path = tmp_path / "script.py"
            path.write_text(START + textwrap.dedent(script), encoding="utf-8")
            command = [sys.executable, str(path)]
        workers.append(RawWorker(command))
        hello = workers[-1].read().header
        assert hello.pop("pid") == workers[-1].process.pid
        assert hello == {"type": "hello", "protocol": PROTOCOL, "version": __version__}
        return workers[-1]

    yield start
    for worker in workers:
        with worker.process:
            worker.process.kill()


def test_it_beats_and_ends_when_told(start):
    worker = start()
    assert read_frame(worker.process.stdout).header == {"type": "heartbeat", "stalled": 0.0}
    if sys.platform == "linux":  # memory runs out: this process goes first
        assert Path(f"/proc/{worker.process.pid}/oom_score_adj").read_text(encoding="utf-8").strip() == "1000"
    worker.send({"type": "shutdown"})
    assert worker.end() == (0, "")


def test_it_ends_with_its_client(start):
    worker = start()
    worker.process.stdin.close()
    assert worker.end() == (0, "")


def test_it_ends_when_nobody_listens(start):
    worker = start()
    worker.process.stdout.close()
    assert worker.process.wait(30) == 0


@pytest.mark.parametrize("junk", [b"GET / HTTP/1.1\r\n\r\n", b"\x93SESEG\r\n\x05\x00\x00\x00[1,2]"])
def test_it_ends_when_it_hears_junk(start, junk):
    worker = start()
    worker.process.stdin.write(junk)
    code, printed = worker.end()
    assert code == EXIT_PROTOCOL
    assert "unreadable" in printed
    assert "Traceback" not in printed


def test_a_message_without_its_content_ends_it(start):
    worker = start()
    worker.send({"type": "cancel"})
    assert worker.end()[0] == EXIT_PROTOCOL


def test_what_libraries_print_is_no_part_of_a_frame(start, tiny_model):
    worker = start(
        """
        def engine(package, device):
            for _ in range(2000):
                print("printed by Python ÄÖ\\x93SESEG")
                os.write(1, b"\\x93SESEG\\r\\nwritten by a library\\n")
            code = "import sys; print('printed by a process'); print(repr(sys.stdin.read()))"
            subprocess.run([sys.executable, "-c", code])
            sys.stdout.write("not flushed")

        serve(engine)
        """
    )
    printed = []
    reader = threading.Thread(target=lambda: printed.append(worker.process.stderr.read()))
    reader.start()
    worker.send_job(7, WarmUpJob(tiny_model))
    kinds = []
    while kinds[-1:] not in (["result"], ["failure"]):
        kinds.append(worker.read().header["type"])
    assert kinds == ["accepted", "progress", "result"]
    worker.send({"type": "shutdown"})
    assert worker.process.wait(30) == 0
    reader.join()
    (text,) = printed
    assert text.count(b"written by a library") == 2000
    assert "printed by Python ÄÖ".encode() in text
    assert b"printed by a process" in text
    assert b"\n''\n" in text  # its input is empty, not that of the worker
    assert b"not flushed" in text


def test_a_job_can_be_cancelled_before_its_turn(start, tiny_model):
    worker = start(
        """
        def engine(package, device):
            time.sleep(0.5)

        serve(engine)
        """
    )
    worker.send_job(1, WarmUpJob(tiny_model))
    worker.send_job(2, WarmUpJob(tiny_model, "cpu"))
    worker.send_job(3, WarmUpJob(tiny_model))
    worker.send({"type": "cancel", "job": 2})
    got = []
    while len(got) < 3:
        header = worker.read().header
        if header["type"] in ("result", "failure"):
            got.append((header["job"], header.get("code", "done")))
    assert got == [(1, "done"), (2, "cancelled"), (3, "done")]


def test_a_failure_of_unknown_consequences_ends_it(start, tiny_model):
    worker = start(
        """
        def engine(package, device):
            raise ZeroDivisionError("of all things")

        serve(engine)
        """
    )
    worker.send_job(1, WarmUpJob(tiny_model))
    while (header := worker.read().header)["type"] != "failure":
        pass
    assert header["ends"]
    assert header["code"] == "error"
    code, printed = worker.end()
    assert code == 0
    assert printed.strip().endswith("ZeroDivisionError: of all things")


def test_torch_is_not_imported_before_a_model_is_loaded(start, tiny_model):
    worker = start(
        """
        def engine(package, device):
            print("torch:", "torch" in sys.modules)
            print("threads wait:", os.environ["OMP_WAIT_POLICY"])

        serve(engine)
        """
    )
    worker.send_job(1, WarmUpJob(tiny_model))
    while worker.read().header["type"] != "result":
        pass
    worker.send({"type": "shutdown"})
    assert worker.end() == (0, "torch: False\nthreads wait: PASSIVE\n")


def test_heartbeats_tell_of_a_job_that_stalls(start, tiny_model):
    worker = start(
        """
        def engine(package, device):
            time.sleep(3.5)

        serve(engine)
        """
    )
    worker.send_job(1, WarmUpJob(tiny_model))
    beats = []
    while (header := read_frame(worker.process.stdout).header)["type"] != "result":
        beats += [header["stalled"]] if header["type"] == "heartbeat" else []
    beats.append(read_frame(worker.process.stdout).header["stalled"])
    assert beats[0] == beats[-1] == 0.0
    assert max(beats) >= 2.0
    assert beats[:-1] == sorted(beats[:-1])
