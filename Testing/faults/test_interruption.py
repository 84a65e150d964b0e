"""Ctrl-C and SIGTERM at any moment: the command ends at once, says so, and leaves nothing half done."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import SimpleITK as sitk

LIBRARY = Path(__file__).parents[2] / "SESegmentation"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(LIBRARY)}
CANCELLED = ["Cancelled.", "Finished files are complete; nothing else was written."]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there are no such signals")


def begun(*arguments: object) -> subprocess.Popen:
    """The command, once its signals are its own."""
    program = (
        "import sys; from SESegmentationLib import cli; own = cli.end_on_signals;"
        "cli.end_on_signals = lambda: (own(), print('begun', flush=True)); sys.exit(cli.main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert process.stdout.readline() == "begun\n"
    return process


def test_at_any_moment(tiny_model, sample_file, tmp_path):
    """From the first import to the last file, in even steps with a little chance in each."""
    started = time.monotonic()
    process = begun("run", sample_file, "-m", tiny_model, "-o", tmp_path / "whole" / "a.nii.gz")
    assert process.wait(timeout=120) == 0
    process.communicate()
    lasts, chance, cancelled = time.monotonic() - started, random.Random(0), 0
    for step in range(4):
        out = tmp_path / f"out{step}"
        process = begun("run", sample_file, "-m", tiny_model, "-o", out / "a.nii.gz", "--report", out / "r.json")
        time.sleep(lasts * (step + chance.random()) / 4)
        for _ in range(3):  # again and again, as people do
            process.send_signal((signal.SIGINT, signal.SIGTERM)[step % 2])
        _, err = process.communicate(timeout=60)
        left = sorted(path.name for path in out.rglob("*"))
        if process.returncode == 0:
            assert left == ["a.nii.gz", "r.json"]
            continue
        cancelled += 1
        assert process.returncode == 1, err
        assert [line for line in err.splitlines() if not line.startswith("Warning")] == CANCELLED
        assert left in ([], ["a.nii.gz", "r.json"])
    assert cancelled


def test_while_an_exception_would_be_lost(tmp_path):
    """In a callback whose exceptions are ignored, while threads are waited for, and in code that catches all."""
    program = f"""
import sys, threading, time
sys.path.insert(0, {str(LIBRARY)!r})
from SESegmentationLib.files import staging_folder
from SESegmentationLib.progress import end_on_signals
from pathlib import Path

class Callback:
    def __del__(self):
        print("now", flush=True)
        time.sleep(60)

def work():
    with staging_folder(Path({str(tmp_path)!r})) as folder:
        while True:
            (folder / "half").write_text("half", encoding="utf-8")

end_on_signals()
threading.Thread(target=work).start()
while True:
    try:
        Callback()
    except BaseException:
        pass
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )
    assert process.stdout.readline() == "now\n"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err.splitlines()) == (1, CANCELLED)
    assert list(tmp_path.iterdir()) == []


def test_a_forked_child_has_signals_of_its_own():
    program = f"""
import os, signal, sys, time
sys.path.insert(0, {str(LIBRARY)!r})
from SESegmentationLib.progress import end_on_signals
end_on_signals()
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(3)
os.kill(child, signal.SIGTERM)
_, status = os.waitpid(child, 0)
time.sleep(0.2)
print(os.WTERMSIG(status))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{int(signal.SIGTERM)}\n", "")


def test_where_python_cannot_make_pipes_nonblocking():
    """Python 3.11 on Windows, which does not ask for that either."""
    program = f"""
import os, signal, sys, time
sys.path.insert(0, {str(LIBRARY)!r})
from SESegmentationLib.progress import end_on_signals

pipe, set_blocking = os.pipe, os.set_blocking
del os.set_blocking

def nonblocking():
    receive, send = pipe()
    set_blocking(send, False)
    return receive, send

os.pipe = nonblocking
end_on_signals()
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", timeout=60)
    assert (done.returncode, done.stderr.splitlines()) == (1, CANCELLED)


def test_what_a_killed_run_leaves_is_removed_by_the_next(tiny_model, sample_file, tmp_path):
    out = tmp_path / "out"
    for number in range(30):
        shutil.copy(sample_file, tmp_path / f"case{number:02}.nii.gz")
    cases = sorted(tmp_path.glob("case*.nii.gz"))
    process = begun("run", *cases, "-m", tiny_model, "-o", out)
    until = time.monotonic() + 100
    while not list(out.glob(".sesegment-*")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.0005)
    process.kill()
    process.communicate()
    if not list(out.glob(".sesegment-*")):
        (out / ".sesegment-killed").mkdir(parents=True)
        (out / ".sesegment-killed" / ".lock").touch()
    process = begun("run", cases[0], "-m", tiny_model, "-o", out)
    assert process.wait(timeout=120) == 0
    process.communicate()
    assert not list(out.glob(".*"))
    for path in out.iterdir():
        sitk.ReadImage(str(path))
