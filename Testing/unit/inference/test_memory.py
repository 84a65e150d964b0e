"""Running out of memory, told from other failures."""

from __future__ import annotations

import sys

import pytest
import SimpleITK as sitk
import torch

from SESegmentationLib import memory
from SESegmentationLib.cli import as_user_error
from SESegmentationLib.errors import OutOfMemoryError
from SESegmentationLib.memory import available_gigabytes, is_out_of_memory, memory_errors, require_memory
from SESegmentationLib.worker.messages import import_failure


def raised_by(function) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(
    "message",
    [
        "torch: [WinError 1455] Die Auslagerungsdatei ist zu klein. Error loading C:\\torch\\lib\\c10.dll",
        "DLL load failed while importing _C: The paging file is too small for this operation to complete.",
        "libtorch_cpu.so: failed to map segment from shared object",
    ],
)
def test_no_memory_for_a_library_is_told_as_that(message):
    for error in (import_failure(message), as_user_error(OSError(message)), as_user_error(ImportError(message))):
        assert isinstance(error, OutOfMemoryError)
        assert "Close other programs" in error.remedy
    assert not isinstance(import_failure("torch: [WinError 126] The module could not be found"), OutOfMemoryError)


def test_what_the_libraries_raise_is_understood():
    """Requests that no address space holds fail without trying."""
    for request in (lambda: torch.empty(1 << 60, dtype=torch.uint8), lambda: bytearray(1 << 62)):
        assert is_out_of_memory(raised_by(request))
    assert is_out_of_memory(raised_by(lambda: sitk.Image(1 << 20, 1 << 20, 1 << 20, sitk.sitkFloat64)))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB"))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("can't start new thread"),
        RuntimeError("std::future_error: Broken promise"),
        SystemError("error return without exception set"),
        SystemError("<built-in function open> returned NULL without setting an exception"),
    ],
)
def test_what_python_raises_without_memory_is_understood(error):
    """Seen where the address space of the command was limited to 1.2 and 1.3 GB."""
    assert isinstance(raised_by(lambda: _inside(error)), OutOfMemoryError)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes cannot be multiplied"),
        ValueError("out of memory"),
        KeyError("memory"),
        SystemError("bad argument to internal function"),
    ],
)
def test_other_errors_are_not(error):
    assert not is_out_of_memory(error)
    assert raised_by(lambda: _inside(error)) is error


def _inside(error: Exception) -> None:
    with memory_errors():
        raise error


def test_it_becomes_one_error_with_a_remedy():
    with pytest.raises(OutOfMemoryError) as raised:
        _inside(MemoryError())
    assert "region of interest" in raised.value.remedy


@pytest.mark.parametrize(("available", "enough"), [(3.9, False), (4.0, True), (None, True)])
def test_what_is_needed_is_asked_for_beforehand(monkeypatch, available, enough):
    monkeypatch.setattr(memory, "available_gigabytes", lambda: available)
    if enough:
        require_memory(4.0)
    else:
        with pytest.raises(OutOfMemoryError, match=r"need 4.0 GB of memory; 3.9 GB"):
            require_memory(4.0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system does not tell")
def test_what_is_available_is_in_gigabytes(monkeypatch, tmp_path):
    import psutil

    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "none")  # the tests may run in a container
    assert available_gigabytes() == pytest.approx(psutil.virtual_memory().available / 1e9, rel=0.2)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not tell how much is used")
@pytest.mark.parametrize(("beyond_mb", "available"), [(100, 0.1), (-4, 0.0), (-65, 0.0)])
def test_the_limit_of_addresses_counts(monkeypatch, tmp_path, beyond_mb, available):
    """Libraries end the process, or crash, where ulimit -v leaves them none; 64 MiB are kept for them."""
    import resource

    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "none")
    monkeypatch.setattr(memory, "_OWN_STATUS", tmp_path / "status")
    (tmp_path / "status").write_text("Name:\tpython\nVmSize:\t 1000 kB\n", encoding="ascii")
    limit = 1000 * 1024 + (1 << 26) + beyond_mb * 10**6
    monkeypatch.setattr(resource, "getrlimit", lambda kind: {resource.RLIMIT_AS: (limit, resource.RLIM_INFINITY)}[kind])
    assert available_gigabytes() == pytest.approx(available, abs=1e-9)
    with pytest.raises(OutOfMemoryError) as caught:
        require_memory(0.2)
    assert "ulimit -v" in caught.value.remedy and memory.MEMORY_REMEDY in caught.value.remedy
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY,) * 2)
    assert available_gigabytes() > 0.2


def test_a_system_that_does_not_tell(monkeypatch):
    class Absent:
        def __init__(self, path: str) -> None:
            pass

        def read_text(self, encoding: str) -> str:
            return "MemTotal: 5 kB\n"

    monkeypatch.setattr(memory, "Path", Absent)
    assert available_gigabytes() is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have no control groups")
@pytest.mark.parametrize(
    ("groups", "folder", "files"),
    [
        ("0::/job/step\n", "job", ("memory.max", "memory.current", "inactive_file")),
        ("0::/\n", ".", ("memory.max", "memory.current", "active_file")),
        (
            "5:cpu:/x\n4:memory:/docker/1f\n0::/\n",  # of the computer outside: not to be seen in a container
            "memory",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    ],
)
def test_the_limit_of_a_container_or_job_counts(monkeypatch, tmp_path, groups, folder, files):
    limit, usage, cached = files
    own, place = tmp_path / "cgroup", tmp_path / folder
    own.write_text(groups, encoding="ascii")
    place.mkdir(exist_ok=True)
    monkeypatch.setattr(memory, "_OWN_GROUPS", own)
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    (place / usage).write_text("70000000\n", encoding="ascii")
    (place / "memory.stat").write_text(f"anon 50000000\n{cached} 20000000\n", encoding="ascii")
    (place / limit).write_text("100000000\n", encoding="ascii")
    assert available_gigabytes() == pytest.approx(0.05)
    with pytest.raises(OutOfMemoryError, match="need 60 MB of memory; 50 MB are available"):
        require_memory(0.06)
    (place / limit).write_text("max\n", encoding="ascii")
    assert available_gigabytes() > 0.05
