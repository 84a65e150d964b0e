"""Every exception becomes a typed error with a cause and a remedy."""

from __future__ import annotations

import importlib
import sys

import pytest

from SESegmentationLib.errors import DependencyError, DeviceError, InputError, OutOfMemoryError, SegmentationError
from SESegmentationLib.worker.messages import as_segmentation_error


def caught(action) -> BaseException:
    try:
        action()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def test_errors_for_the_user_stay_as_they_are():
    error = InputError("cause", "remedy")
    assert as_segmentation_error(error) is error


def test_memory():
    assert type(as_segmentation_error(MemoryError())) is OutOfMemoryError


def test_memory_of_torch():
    import torch

    error = as_segmentation_error(caught(lambda: torch.empty(1 << 60, dtype=torch.uint8)))
    assert type(error) is OutOfMemoryError
    assert "low memory" in error.remedy
    assert type(as_segmentation_error(torch.OutOfMemoryError("CUDA out of memory."))) is OutOfMemoryError


def test_no_memory_for_a_library():
    for end in ("", ": Cannot allocate memory"):
        message = f"libtorch_cpu.so: failed to map segment from shared object{end}"
        error = as_segmentation_error(ImportError(message))
        assert type(error) is OutOfMemoryError
        assert "load a library" in error.cause
    # from a disk that may not run programs
    denied = "libtorch_cpu.so: failed to map segment from shared object: Operation not permitted"
    assert type(as_segmentation_error(ImportError(denied))) is DependencyError


def test_a_package_that_is_missing():
    error = as_segmentation_error(caught(lambda: importlib.import_module("no_such_package.part")))
    assert type(error) is DependencyError
    assert error.cause == "The Python package no_such_package is not installed."
    assert error.remedy.startswith("Install it: ") and error.remedy.endswith(" -m pip install no_such_package")


def test_torch_that_is_missing():
    error = as_segmentation_error(ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"))
    assert type(error) is DependencyError
    assert error.cause == "PyTorch is not installed."
    assert "extension PyTorch" in error.remedy
    assert "pip install torch" in error.remedy


def test_a_package_that_is_broken(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("from os import no_such_name\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    error = as_segmentation_error(caught(lambda: importlib.import_module("broken_package")))
    assert type(error) is DependencyError
    assert "no_such_name" in error.cause
    assert "doctor" in error.remedy


def test_a_gpu_that_fails():
    error = as_segmentation_error(RuntimeError("CUDA error: an illegal memory access\nCompile with ...\n"))
    assert type(error) is DeviceError
    assert error.cause == "The GPU failed: RuntimeError: CUDA error: an illegal memory access."
    assert "cpu" in error.remedy


@pytest.mark.parametrize("error", [ZeroDivisionError(), ValueError("first line\nsecond line"), RuntimeError("")])
@pytest.mark.parametrize("torch_is_there", [True, False])
def test_anything_else(error, torch_is_there, monkeypatch):
    if not torch_is_there:
        monkeypatch.setitem(sys.modules, "torch", None)
    known = as_segmentation_error(error)
    assert type(known) is SegmentationError
    assert known.cause.startswith(f"Unexpected failure: {type(error).__name__}")
    assert "second line" not in known.cause
    assert known.remedy
