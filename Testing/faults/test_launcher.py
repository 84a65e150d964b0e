"""The worker behind Slicer's launcher: how it came to its end is known, and it never outlives those it works for.

The launcher is that of the stand-in, :mod:`harness.launcher`: exit codes of signals do not come through it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import SimpleITK as sitk

from SESegmentationLib.client import FailureEvent, ResultEvent, SegmentJob
from SESegmentationLib.client.local import LocalSegmenter
from SESegmentationLib.client.worker_process import worker_environment
from SESegmentationLib.errors import OutOfMemoryError, WorkerError

sys.path.insert(0, str(Path(__file__).parents[1]))
from harness.launcher import write_launcher  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the launcher of the stand-in is no Windows program")

#: a worker whose engine does BODY; LATE is done once the worker can be watched, before all other imports
ENGINE = """
import os, sys, time, ctypes, signal
from SESegmentationLib.worker import prepare
prepare()
LATE
import SimpleITK as sitk
from SESegmentationLib.result import SegmentationResult
from SESegmentationLib.worker.process import serve

class Engine:
    def __init__(self, package, device):
        self.card = package.card

    def segment(self, image, options, *, progress):
        progress("axial", 0.5, 1.0)
        BODY
        labels = sitk.Image(image.GetSize(), sitk.sitkUInt8)
        return SegmentationResult(labels, [], {}, [], self.card, "cpu")

serve(Engine)
"""
#: no thread of Python runs meanwhile
HELD = "ctypes.PyDLL(None).pause()"
BUSY = "while True: pass"


@pytest.fixture
def command(tmp_path):
    """Function that gives the command of a worker behind a launcher; its engine does ``body``."""
    launcher = write_launcher(tmp_path)

    def make(body: str = "pass", late: str = "") -> list[str]:
        script = tmp_path / "worker.py"
        script.write_text(ENGINE.replace("BODY", body).replace("LATE", late), encoding="utf-8")
        return [str(launcher), str(script)]

    return make


def wait_for(segmenter: LocalSegmenter, kind: type | tuple, seconds: float = 60.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for event in segmenter.poll():
            if isinstance(event, kind):
                return event
        time.sleep(0.01)
    raise AssertionError(segmenter.log)


def is_gone(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.02)
                continue
        return True
    return False


BAD_ALLOC = "os.write(2, b\"terminate called after throwing 'std::bad_alloc'\\n\"); os.abort()"


@pytest.mark.parametrize(
    ("body", "kind", "cause"),
    [
        ("ctypes.string_at(0)", WorkerError, "The segmentation process crashed (Segmentation fault)."),
        ("os.abort()", WorkerError, "The segmentation process crashed (Aborted)."),
        ("os.kill(os.getpid(), signal.SIGFPE)", WorkerError, "crashed (Floating point exception)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", WorkerError, "ended by another program or by the system"),
        ("os.kill(os.getpid(), signal.SIGTERM)", WorkerError, "ended by another program or by the system"),
        ("os._exit(3)", WorkerError, "ended unexpectedly with exit code 3"),
        ("sys.exit('enough')", WorkerError, "ended unexpectedly with exit code 1 (enough)"),
        (BAD_ALLOC, OutOfMemoryError, "memory ran out"),
        ("print('no attribute OutOfMemoryError'); os._exit(3)", WorkerError, "exit code 3 (no attribute"),
    ],
)
def test_how_it_came(command, tiny_model, body, kind, cause):
    image = sitk.Image(4, 4, 4, sitk.sitkUInt8)
    with LocalSegmenter(command(body)) as segmenter:
        segmenter.submit(SegmentJob(image, tiny_model))
        error = wait_for(segmenter, (FailureEvent, ResultEvent)).error
        assert type(error) is kind and cause in error.cause and error.remedy
        assert "exit abnormally" not in error.cause
        if "crashed" in cause:
            assert "worker.py" in segmenter.log and "segment" in segmenter.log  # where it was


def test_a_crash_before_it_has_introduced_itself(command, tiny_model):
    with LocalSegmenter(command(late="os.kill(os.getpid(), signal.SIGILL)")) as segmenter:
        segmenter.submit(SegmentJob(sitk.Image(4, 4, 4, sitk.sitkUInt8), tiny_model))
        assert (
            wait_for(segmenter, FailureEvent).error.cause == "The segmentation process crashed (Illegal instruction)."
        )


def test_last_words_leave_no_file_behind(command, tiny_model, tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with LocalSegmenter(command("os.abort()")) as segmenter:
        segmenter.submit(SegmentJob(sitk.Image(4, 4, 4, sitk.sitkUInt8), tiny_model))
        wait_for(segmenter, FailureEvent)
    assert list((tmp_path / "temporary").iterdir()) == []


#: a client that starts a worker with COMMAND, waits until it works (or has begun), and says who its processes are
CLIENT = """
import sys, time, psutil
import SimpleITK as sitk
from SESegmentationLib.client import ProgressEvent, ResultEvent, SegmentJob
from SESegmentationLib.client.local import LocalSegmenter

segmenter = LocalSegmenter(COMMAND)
segmenter.submit(SegmentJob(sitk.Image(4, 4, 4, sitk.sitkUInt8), MODEL))
while READY:
    time.sleep(0.01)
time.sleep(0.2)
print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
while True:
    segmenter.poll()
    time.sleep(0.05)
"""
STATES = {
    "importing": ("pass", f"open(MARK, 'w').close(); {HELD}", "not MARK.exists()"),
    "idle": ("pass", "", "not any(isinstance(event, ResultEvent) for event in segmenter.poll())"),
    "busy": (BUSY, "", "not any(isinstance(event, ProgressEvent) for event in segmenter.poll())"),
    "in a library": (HELD, "", "not any(isinstance(event, ProgressEvent) for event in segmenter.poll())"),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("who", ["client", "launcher"])
def test_it_ends_with_those_it_works_for(command, tiny_model, tmp_path, state, who):
    body, late, ready = STATES[state]
    mark = tmp_path / "mark"
    path = tmp_path / "client.py"
    given = command(body, late.replace("MARK", repr(str(mark))))
    text = CLIENT.replace("COMMAND", repr(given)).replace("MODEL", repr(str(tiny_model))).replace("READY", ready)
    path.write_text("from pathlib import Path\n" + text.replace("MARK", f"Path({str(mark)!r})"), encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, str(path)], env=worker_environment(), stdout=subprocess.PIPE, encoding="utf-8"
    ) as client:
        try:
            pids = [int(pid) for pid in client.stdout.readline().split()]
            launcher = next(pid for pid in pids if "PythonSlicer" in " ".join(psutil.Process(pid).cmdline()))
            workers = [pid for pid in pids if pid != launcher]
            assert workers
            os.kill(client.pid if who == "client" else launcher, signal.SIGKILL)
            assert all(is_gone(pid, 10) for pid in workers)
        finally:
            client.kill()


def test_a_check_that_is_given_up_leaves_nothing_running(tmp_path, monkeypatch):
    """The checks of this computer run behind the launcher as well."""
    pytest.importorskip("slicer", reason="needs slicer-core (extra 'test')")
    from harness import application

    application.start()
    from SESegmentationLib.panel import computer

    monkeypatch.setattr(computer, "find_python", lambda: str(write_launcher(tmp_path, str(_sleeping(tmp_path)))))
    doctor = computer.DoctorProcess()
    doctor.start()
    process = psutil.Process(doctor._state[0].pid)
    end = time.monotonic() + 20
    while not (children := process.children(recursive=True)) and time.monotonic() < end:
        time.sleep(0.02)
    doctor.close()
    assert children and all(is_gone(child.pid, 5) for child in children)


def _sleeping(folder: Path) -> Path:
    program = folder / "python-real"
    program.write_text("#!/bin/sh\nexec sleep 100\n", encoding="utf-8")
    program.chmod(0o755)
    return program
