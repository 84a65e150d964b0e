"""Fixtures of the tests on real MRML: a fresh scene for each, and no fault that goes unseen."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
slicer = pytest.importorskip("slicer", reason="needs slicer-core (extra 'test')")

from harness import runtime, services  # noqa: E402
from harness.faults import faults  # noqa: E402

services.publish()  # test modules import them at file scope


@pytest.fixture(autouse=True)
def scene() -> Iterator[slicer.vtkMRMLScene]:
    """A fresh scene; the test fails on any VTK error and on any exception in an observer."""
    runtime.start()
    faults.take()
    yield slicer.mrmlScene
    runtime.stop()
    found = faults.take()
    assert not found, "\n".join(found)
