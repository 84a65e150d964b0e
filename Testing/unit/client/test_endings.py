"""Endings that no test can bring about here: those of Windows, and what the system counts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from SESegmentationLib.client.worker_process import Ending, count_memory_kills
from SESegmentationLib.errors import InputError, OutOfMemoryError, WorkerError
from SESegmentationLib.worker.messages import EXIT_MEMORY


@pytest.mark.parametrize(
    ("ending", "kind", "cause"),
    [
        (Ending(1, words="Windows fatal exception: code 0xc0000017"), OutOfMemoryError, "memory ran out"),
        (Ending(EXIT_MEMORY), OutOfMemoryError, "memory ran out"),
        (Ending(1, lines=("MemoryError",)), OutOfMemoryError, "memory ran out"),
        (Ending(1, words="Windows fatal exception: access violation"), WorkerError, "crashed (access violation)"),
        (Ending(1, words="Timeout (0:10:00)!\nThread 1:"), WorkerError, "hung"),
        (Ending(-200), WorkerError, "ended by another program or by the system"),
        (Ending(1, lines=("error: [python-real] exit abnormally",)), WorkerError, "ended by another program"),
        (Ending(1, lines=("words.", ""), words="SystemExit: 1"), WorkerError, "exit code 1 (words)"),
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
    assert f"oom_kill {count_memory_kills()}\n" in Path("/proc/vmstat").read_text(encoding="utf-8")
