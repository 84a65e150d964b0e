"""The copy of a worker that ends it with its client, as the kernel of macOS lets it notice that."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import psutil
import pytest

from SESegmentationLib.client.worker_process import worker_environment

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows itself ends the worker there")

#: a worker that does nothing; in Darwin's kernel (bsd/kern/sys_generic.c) poll() looks at no file of which no event is
#: asked for, and where the events that come are not those asked for, it ends without any
WORKER = """
import os, select, sys, time

class Poll:
    def __init__(self):
        self.asked = {}

    def register(self, file, events):
        self.asked[file] = events

    def poll(self, milliseconds=None):
        real = poll()
        for file, events in self.asked.items():
            if events & (select.POLLIN | select.POLLHUP):
                real.register(file, events | select.POLLIN)
        found = real.poll(milliseconds)
        return [(file, event & (self.asked[file] | select.POLLHUP)) for file, event in found
                if event & (self.asked[file] | select.POLLHUP)]

poll, select.poll, sys.platform = select.poll, Poll, "darwin"
vars(os).pop("pidfd_open", None)
from SESegmentationLib.worker import _start_watcher

_start_watcher(os.getppid())
print(flush=True)
time.sleep(100)
"""


@pytest.fixture
def worker():
    program = subprocess.Popen(
        [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=worker_environment()
    )
    assert program.stdout.readline()
    (watcher,) = psutil.Process(program.pid).children()
    yield program, watcher
    with contextlib.suppress(psutil.NoSuchProcess):
        watcher.kill()
    with program:
        program.kill()


def test_it_ends_with_the_worker(worker):
    program, watcher = worker
    program.kill()
    program.wait(10)
    watcher.wait(10)


def test_it_ends_the_worker_with_the_client_though_input_waits(worker):
    program, watcher = worker
    program.stdin.write(b"unread")
    program.stdin.flush()
    program.stdin.close()
    assert program.wait(10) < 0
    watcher.wait(10)
