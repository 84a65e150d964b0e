"""Endings that no test can bring about here: those of Windows, and what the system counts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from SESegmentationLib.client.endings import Ending, count_memory_kills
from SESegmentationLib.errors import InputError, OutOfMemoryError, WorkerError
from SESegmentationLib.worker.messages import EXIT_MEMORY


@pytest.mark.parametrize(
    ("ending", "kind", "cause"),
    [
        (Ending(0xC0000017), OutOfMemoryError, "memory ran out"),
        (Ending(EXIT_MEMORY), OutOfMemoryError, "memory ran out"),
        (Ending(1, lines=("MemoryError",)), OutOfMemoryError, "memory ran out"),
        (Ending(0xC0000005), WorkerError, "crashed (access violation)"),
        (Ending(-200), WorkerError, "crashed (signal 200)"),
        (Ending(1, lines=("words.", "")), WorkerError, "exit code 1 (words)"),
        (Ending(None, InputError("cause", "remedy")), InputError, "cause"),
    ],
)
def test_explanations(ending, kind, cause):
    error = ending.explain()
    assert type(error) is kind
    assert cause in error.cause
    assert error.remedy


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts them")
def test_memory_kills_are_counted():
    assert f"oom_kill {count_memory_kills()}\n" in Path("/proc/vmstat").read_text()
