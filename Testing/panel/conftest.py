"""Fixtures of the panel's tests: a freshly started stand-in for each, and no fault that goes unseen."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
pytest.importorskip("slicer", reason="needs slicer-core (extra 'test')")
pytest.importorskip("PySide6", reason="needs PySide6-Essentials (extra 'test')")

from harness import application  # noqa: E402
from harness import dialogs as harness_dialogs  # noqa: E402
from harness.faults import faults  # noqa: E402

application.start()  # test modules import qt, ctk and the widget classes of slicer at file scope


@pytest.fixture(autouse=True)
def app() -> Iterator[Any]:
    """``slicer.app``, freshly started; the test fails on an exception in a slot or observer, and on a VTK error."""
    app = application.start()
    faults.take()
    yield app
    application.stop()
    unused = harness_dialogs.dialogs.reset()
    found = faults.take()
    assert not found, "\n".join(found)
    assert not unused, f"no dialog asked for the answers {unused}"


@pytest.fixture
def dialogs() -> harness_dialogs.Dialogs:
    """The dialogs shown so far, and the answers to the next."""
    return harness_dialogs.dialogs
