"""What a worker can do wrong, each with a real process: the job fails with a cause and a remedy, the next one works."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import time

import pytest
import SimpleITK as sitk

from SESegmentationLib.client import FailureEvent, ProgressEvent, ResultEvent, SegmentJob, local, worker_process
from SESegmentationLib.errors import (
    CancelledError,
    DependencyError,
    DeviceError,
    OutOfMemoryError,
    SegmentationError,
    WorkerError,
)

needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")


@pytest.fixture
def failing(engine, tmp_path):
    """The command of a worker whose engine does the first of ``bodies`` at its first job, and so on, then nothing."""

    def write(*bodies: str) -> list[str]:
        cases = "".join(
            f"if done == {number}:\n" + textwrap.indent(f"progress('axial', 0.5, 1.0)\n{body}\n", "    ")
            for number, body in enumerate(bodies)
        )
        count = f"""
with open({str(tmp_path / "count")!r}, "a+") as file:
    done = file.tell()
    file.write("x")
"""
        return engine(count + cases)

    return write


def check_failure(event: object, kind: type[SegmentationError], cause: str, remedy: str = "") -> None:
    assert isinstance(event, FailureEvent), event
    assert type(event.error) is kind, event
    assert cause in event.error.cause, event
    assert remedy in event.error.remedy, event
    assert event.error.remedy
    for line in (event.error.cause, event.error.remedy):
        assert "\n" not in line
        assert "Traceback" not in line


def fail_in_turn(watched, image, model, *expected) -> None:
    """Jobs fail as ``expected``, one after the other, each in another process; then one succeeds."""
    for failure in expected:
        handle = watched.segmenter.submit(SegmentJob(image, model))
        watched.until(in_the_middle)
        check_failure(watched.finish(handle), *failure)
    assert isinstance(watched.finish(watched.segmenter.submit(SegmentJob(image, model))), ResultEvent)
    assert len(watched.pids) == len(expected) + 1


def in_the_middle(event: object) -> bool:
    return isinstance(event, ProgressEvent) and event.phase == "axial"


def test_jobs_that_fail_badly(failing, watch, small_image, tiny_model):
    cases = {
        "raise MemoryError": (OutOfMemoryError, "not enough memory", "region of interest"),
        "raise ZeroDivisionError('of all things')": (SegmentationError, "ZeroDivisionError: of all things", "again"),
        "import no_such_package": (DependencyError, "no_such_package is not installed", "pip install"),
        "raise RuntimeError('CUDA error: unspecified')": (DeviceError, "The GPU failed", "cpu"),
        "os._exit(3)": (WorkerError, "exit code 3", "again"),
        "sys.exit('enough')": (WorkerError, "exit code 1 (enough)", "again"),
        "print('words', flush=True); os._exit(0)": (WorkerError, "exit code 0 (words)", "again"),
    }
    fail_in_turn(watch(failing(*cases)), small_image, tiny_model, *cases.values())


@needs_signals
def test_workers_that_die(failing, watch, small_image, tiny_model):
    bad_alloc = "os.write(2, b\"terminate called after throwing 'std::bad_alloc'\\n\"); os.abort()"
    cases = {
        "os.kill(os.getpid(), signal.SIGKILL)": (WorkerError, "ended by another program or by the system", "memory"),
        "os.abort()": (WorkerError, "crashed (Aborted)", "again"),
        "import ctypes; ctypes.string_at(0)": (WorkerError, "crashed (Segmentation fault)", "again"),
        bad_alloc: (OutOfMemoryError, "memory ran out", "region of interest"),
    }
    fail_in_turn(watch(failing(*cases)), small_image, tiny_model, *cases.values())


@needs_signals
def test_a_worker_that_the_system_ends_for_lack_of_memory(failing, watch, small_image, tiny_model, monkeypatch):
    # the system's counter of such ends is the only sign of them
    counts = iter([4, 5])
    monkeypatch.setattr(worker_process, "count_memory_kills", lambda: next(counts, 5))
    watched = watch(failing("os.kill(os.getpid(), signal.SIGKILL)"))
    fail_in_turn(watched, small_image, tiny_model, (OutOfMemoryError, "memory ran out", "region of interest"))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory")
def test_a_volume_for_which_the_worker_has_no_memory(script, watch, small_image, tiny_model):
    """The frame itself does not fit."""
    command = script(
        """
        import resource
        from pathlib import Path
        from SESegmentationLib.worker.process import serve

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, 2 * (used + (128 << 20),))
        serve()
        """
    )
    watched = watch(command)
    handle = watched.segmenter.submit(SegmentJob(sitk.Image(512, 512, 1024, sitk.sitkUInt8), tiny_model))
    check_failure(watched.finish(handle), OutOfMemoryError, "memory ran out", "region of interest")


def test_a_job_that_makes_no_progress(failing, watch, small_image, tiny_model):
    watched = watch(failing("while True: time.sleep(0.01)"), stall=4.0)
    fail_in_turn(watched, small_image, tiny_model, (WorkerError, "made no progress for", "again"))


@needs_signals
def test_a_worker_that_stands_still(failing, watch, small_image, tiny_model):
    watched = watch(failing("os.kill(os.getpid(), signal.SIGSTOP)"), silence=5.0)
    fail_in_turn(watched, small_image, tiny_model, (WorkerError, "did not answer for", "again"))


@needs_signals
def test_a_worker_that_cannot_even_see_a_wish_to_cancel(failing, watch, small_image, tiny_model):
    # the call keeps Python's lock, as libraries may: no thread of the worker runs any more
    watched = watch(failing("import ctypes; ctypes.PyDLL(None).pause()"))
    handle = watched.segmenter.submit(SegmentJob(small_image, tiny_model))
    watched.until(in_the_middle)
    time.sleep(0.2)
    begin = time.monotonic()
    handle.cancel()
    check_failure(watched.finish(handle), CancelledError, "cancelled")
    assert time.monotonic() - begin >= local.TimeLimits().cancel  # it had its time to stop by itself
    assert local.TimeLimits().cancel < 0.9  # so that even so the answer comes within 1 s
    assert isinstance(watched.finish(watched.segmenter.submit(SegmentJob(small_image, tiny_model))), ResultEvent)


def test_a_worker_that_never_says_hello(script, watch, small_image, tiny_model):
    watched = watch(script("import time; time.sleep(100)"), start=0.5)
    handle = watched.segmenter.submit(SegmentJob(small_image, tiny_model))
    check_failure(watched.finish(handle), WorkerError, "did not start within", "security software")


def test_cancelling_while_the_worker_starts(script, watch, small_image, tiny_model):
    watched = watch(script("import time; time.sleep(100)"))
    handle = watched.segmenter.submit(SegmentJob(small_image, tiny_model))
    handle.cancel()
    assert handle.finished
    (event,) = watched.poll()
    check_failure(event, CancelledError, "cancelled")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import no_such_package", (DependencyError, "no_such_package is not installed", "pip install no_such")),
        ("from os import nothing_like_it", (DependencyError, "nothing_like_it", "doctor")),
        ("raise SystemExit('Wrong licence.')", (WorkerError, "could not be started (Wrong licence)", "log")),
        ("", (WorkerError, "could not be started", "log")),
        ("print('hello'); print('world' * 20000)", (WorkerError, "", "")),
        ("import os; os.write(1, b'\\x93SESEG\\r\\nxxxxx')", (WorkerError, "cannot be read", "log")),
    ],
    ids=["no package", "broken package", "refusal", "nothing", "much noise", "broken frame"],
)
def test_a_worker_that_does_not_start(script, watch, small_image, tiny_model, text, expected):
    watched = watch(script(text))
    for _ in range(2):
        check_failure(watched.finish(watched.segmenter.submit(SegmentJob(small_image, tiny_model))), *expected)
    assert watched.segmenter.worker_pid is None


def test_a_python_without_packages(watch, small_image, tiny_model):
    """The true worker, where neither numpy nor anything else is installed."""
    watched = watch([sys.executable, "-S", "-m", "SESegmentationLib.worker"])
    handle = watched.segmenter.submit(SegmentJob(small_image, tiny_model))
    check_failure(watched.finish(handle), DependencyError, "numpy is not installed", "pip install numpy")


def test_a_program_that_is_not_there(watch, small_image, tiny_model, tmp_path):
    watched = watch([str(tmp_path / "PythonSlicer")])
    handle = watched.segmenter.submit(SegmentJob(small_image, tiny_model))
    check_failure(watched.finish(handle), WorkerError, "cannot be started", "reinstall it")


def torch_that(does: str) -> str:
    """A worker whose torch does something else when it is imported."""
    return f"""
        import importlib.abc, importlib.machinery, sys

        class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
            def find_spec(self, name, path, target=None):
                return importlib.machinery.ModuleSpec(name, self) if name == "torch" else None

            def exec_module(self, module):
                {does}

        sys.meta_path.insert(0, Finder())
        from SESegmentationLib.worker.process import serve
        serve()
        """


@pytest.mark.parametrize(
    ("does", "cause", "remedy"),
    [
        (
            "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')",
            "PyTorch is not installed.",
            "extension PyTorch",
        ),
        ("raise OSError('libtorch_cpu.so: cannot open shared object file')", "libtorch_cpu.so", "doctor"),
        ("raise ImportError('DLL load failed while importing _C')", "DLL load failed", "doctor"),
    ],
    ids=["missing", "without its libraries", "broken"],
)
def test_torch_that_cannot_be_imported(script, watch, small_image, tiny_model, does, cause, remedy):
    watched = watch(script(torch_that(does)))
    handle = watched.segmenter.submit(SegmentJob(small_image, tiny_model))
    check_failure(watched.finish(handle), DependencyError, cause, remedy)
    assert watched.segmenter.worker_pid is None  # after an installation another process must try


@pytest.mark.parametrize("change", ["SESegmentationLib.__version__ = '0.0.1'", "messages.PROTOCOL = 99"])
def test_a_worker_of_another_version(script, watch, small_image, tiny_model, change):
    command = script(
        f"""
        import SESegmentationLib
        {change if "version" in change else ""}
        from SESegmentationLib.worker import messages
        {change if "PROTOCOL" in change else ""}
        from SESegmentationLib.worker.process import serve
        serve()
        """
    )
    watched = watch(command)
    handle = watched.segmenter.submit(SegmentJob(small_image, tiny_model))
    check_failure(watched.finish(handle), WorkerError, "The segmentation process has version", "Restart Slicer")
    assert watched.segmenter.worker_pid is None


def test_what_the_worker_prints_is_the_log(engine, watch, small_image, tiny_model):
    watched = watch(engine("print('one', flush=True); os.write(1, b'two\\n'); os.write(2, bytes(range(128, 256)))"))
    assert isinstance(watched.finish(watched.segmenter.submit(SegmentJob(small_image, tiny_model))), ResultEvent)
    for _ in range(100):
        if "two" in watched.segmenter.log:
            break
        time.sleep(0.05)
    assert watched.segmenter.log.splitlines()[:2] == ["one", "two"]


def test_the_log_of_a_worker_that_ended(failing, watch, small_image, tiny_model):
    watched = watch(failing("print('\\n'.join(map(str, range(1000)))); raise ZeroDivisionError('x')"))
    watched.finish(watched.segmenter.submit(SegmentJob(small_image, tiny_model)))
    for _ in range(100):
        if "ZeroDivisionError: x" in watched.segmenter.log:
            break
        time.sleep(0.05)
    lines = watched.segmenter.log.splitlines()
    assert lines[-1] == "ZeroDivisionError: x"
    assert "999" in lines
    assert len(lines) == worker_process.LOG_LINES


@needs_signals
def test_a_worker_that_is_killed_while_idle_costs_nothing(engine, watch, small_image, tiny_model, has_ended):
    watched = watch(engine("pass"))
    assert isinstance(watched.finish(watched.segmenter.submit(SegmentJob(small_image, tiny_model))), ResultEvent)
    pid = watched.segmenter.worker_pid
    os.kill(pid, signal.SIGKILL)
    assert has_ended(pid)
    time.sleep(0.5)  # nobody polls in the meantime
    assert isinstance(watched.finish(watched.segmenter.submit(SegmentJob(small_image, tiny_model))), ResultEvent)
    assert watched.segmenter.worker_pid != pid


def test_release_ends_an_idle_worker_only(engine, watch, small_image, tiny_model, has_ended):
    watched = watch(engine("time.sleep(0.5)"))
    watched.segmenter.release()  # there is none
    handle = watched.segmenter.submit(SegmentJob(small_image, tiny_model))
    watched.until(lambda event: True)
    watched.segmenter.release()
    assert isinstance(watched.finish(handle), ResultEvent)
    pid = watched.segmenter.worker_pid
    watched.segmenter.release()
    assert watched.segmenter.worker_pid is None
    assert has_ended(pid)
    assert watched.poll() == []
    assert isinstance(watched.finish(watched.segmenter.submit(SegmentJob(small_image, tiny_model))), ResultEvent)


def test_close_in_the_middle_of_a_job(engine, watch, small_image, tiny_model, has_ended):
    watched = watch(engine("progress('axial', 0.5, 1.0); time.sleep(100)"))
    handle = watched.segmenter.submit(SegmentJob(small_image, tiny_model))
    waiting = watched.segmenter.submit(SegmentJob(small_image, tiny_model))
    watched.until(lambda event: isinstance(event, ProgressEvent))
    pid = watched.segmenter.worker_pid
    watched.segmenter.close()
    assert has_ended(pid)
    handle.cancel()
    waiting.cancel()
    assert watched.poll() == []
    watched.segmenter.close()
    watched.segmenter.release()
    with pytest.raises(RuntimeError):
        watched.segmenter.submit(SegmentJob(small_image, tiny_model))


def test_close_while_the_worker_starts(script, watch, small_image, tiny_model, tmp_path, has_ended):
    mark = tmp_path / "pid"
    watched = watch(script(f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(100)"))
    watched.segmenter.submit(SegmentJob(small_image, tiny_model))
    watched.segmenter.close()
    time.sleep(0.5)
    assert not mark.exists() or has_ended(int(mark.read_text(encoding="utf-8")))


def test_a_programming_error_is_raised_where_it_was_made(engine, watch, small_image, tiny_model):
    watched = watch(engine("pass"))
    with pytest.raises(AttributeError):
        watched.segmenter.submit(SegmentJob(None, tiny_model))
    assert isinstance(watched.finish(watched.segmenter.submit(SegmentJob(small_image, tiny_model))), ResultEvent)


def test_a_volume_may_go_while_it_is_sent(engine, watch, tiny_model):
    watched = watch(engine("labels = image[:2, :2, :2]\nassert sitk.GetArrayFromImage(image).min() == 7"))
    image = sitk.Image(200, 200, 200, sitk.sitkFloat32) + 7
    handle = watched.segmenter.submit(SegmentJob(image, tiny_model))
    del image
    assert isinstance(watched.finish(handle), ResultEvent)
