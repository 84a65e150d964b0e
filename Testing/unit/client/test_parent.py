"""A worker ends with the program that started it, however that ends, and leaves no file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from SESegmentationLib.client.worker_process import worker_environment

#: a program that starts a worker with COMMAND, waits until it has a job (or none) to do, says its pid, and does END
PARENT = """
import os, sys, time
import SimpleITK as sitk
from SESegmentationLib.client import ProgressEvent, ResultEvent, SegmentJob
from SESegmentationLib.client.local import LocalSegmenter

segmenter = LocalSegmenter(COMMAND)
segmenter.submit(SegmentJob(sitk.Image(4, 4, 4, sitk.sitkUInt8), MODEL))
while not any(isinstance(event, WAIT_FOR) for event in segmenter.poll()):
    time.sleep(0.01)
time.sleep(0.2)
print(segmenter.worker_pid, flush=True)
END
"""
BUSY = "progress('axial', 0.5, 1.0)\nwhile True: pass"
IDLE = "pass"


@pytest.fixture
def temporary(tmp_path):
    """The folder for temporary files of the program and its worker."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


@pytest.fixture
def parent(engine, tiny_model, tmp_path, temporary):
    """Starts a program whose worker does ``body``; the program, and the process id of the worker."""
    programs = []

    def start(body: str, end: str) -> tuple[subprocess.Popen, int]:
        text = (
            PARENT.replace("COMMAND", repr(engine(body)))
            .replace("MODEL", repr(str(tiny_model)))
            .replace("WAIT_FOR", "ProgressEvent" if body == BUSY else "ResultEvent")
            .replace("END", textwrap.dedent(end))
        )
        path: Path = tmp_path / "parent.py"
        path.write_text(text, encoding="utf-8")
        programs.append(
            subprocess.Popen(
                [sys.executable, str(path)],
                stdout=subprocess.PIPE,
                env=worker_environment() | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary)),
                encoding="utf-8",
            )
        )
        pid = int(programs[-1].stdout.readline())
        assert "worker script" in " ".join(psutil.Process(pid).cmdline())
        return programs[-1], pid

    yield start
    for program in programs:
        with program:
            program.kill()


@pytest.mark.parametrize("body", [BUSY, IDLE], ids=["busy", "idle"])
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_when_it_is_killed(parent, has_ended, temporary, body, name):
    program, pid = parent(body, "time.sleep(100)")
    if hasattr(signal, name):
        program.send_signal(getattr(signal, name))
    else:
        program.kill()
    assert has_ended(pid)
    assert list(temporary.iterdir()) == [] or os.name == "nt"  # there the next program removes it


@pytest.mark.parametrize("body", [BUSY, IDLE], ids=["busy", "idle"])
@pytest.mark.parametrize("end", ["", "os._exit(0)", "segmenter.close()"], ids=["ends", "ends at once", "closes"])
def test_when_it_ends(parent, has_ended, temporary, body, end):
    program, pid = parent(body, "time.sleep(0.3)\n" + end)
    assert program.wait(30) == 0
    assert has_ended(pid)
    assert list(temporary.iterdir()) == [] or os.name == "nt"  # there the next program removes it
