"""The process that owns torch: it runs jobs, reports progress and can be killed.

``python -m SESegmentationLib.worker`` is started by :mod:`SESegmentationLib.client`, which also uses the messages
defined here (:mod:`.jobs`, :mod:`.messages`). Importing any module of this package imports no
torch: only running a job does.

Its end is handled here, before anything else is loaded, because imports can crash and hang as well. In Slicer a
launcher (PythonSlicer) lies between client and worker: it turns a crash or a kill into exit code 1 and, if it is killed
itself, leaves the worker running. So the worker ends itself with its client, and reports the cause of its end by itself
("last words").
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time

#: environment variables by which the client tells the file for last words, and its own process id
LAST_WORDS = "SESEGMENTATION_LAST_WORDS"
CLIENT = "SESEGMENTATION_CLIENT"
#: time that a worker whose client is gone has before it is killed, in s
GRACE_SECONDS = 1.0
#: interval between checks whether the parent process still exists, in s
LOOK_SECONDS = 0.5

_prepared = False
_words = None


def prepare() -> None:
    """From now on end with the client, and record last words. A second call does nothing."""
    global _prepared, _words
    if _prepared:
        return
    _prepared = True
    path = os.environ.get(LAST_WORDS)
    with contextlib.suppress(OSError):  # then they go to standard error
        _words = open(path, "a", encoding="utf-8", errors="replace") if path else None  # noqa: SIM115
    faulthandler.enable(_words or sys.stderr)
    parent = os.getppid()
    if sys.platform == "win32":
        _end_with_windows_process(parent)
        _end_with_windows_process(int(os.environ.get(CLIENT, "0")))
    else:
        _start_watcher(parent)
        threading.Thread(target=_end_with_parent, args=(parent,), name="parent", daemon=True).start()


def end_with_stacks_after(seconds: float) -> None:
    """End after ``seconds`` with the stacks of all threads as last words, unless this is called again before."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=_words or sys.stderr)


def say(words: str) -> None:
    """Leave last words."""
    if _words is not None:
        with contextlib.suppress(OSError, ValueError):
            print(words, file=_words, flush=True)


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os._exit(0)


def _start_watcher(parent: int) -> None:
    """A copy of this process that ends it when no Python thread can, because a library holds Python's lock.

    It notices when the standard input closes, without reading from it, and on Linux also the end of the parent process.
    """
    alive, held = os.pipe()  # ``held`` closes with this process
    worker = os.getpid()
    if os.fork():
        os.close(alive)
        return
    try:
        os.close(held)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (1, 2):  # the client waits for the end of what the worker sends, not for the watcher's
            os.dup2(nothing, descriptor)
        _watch(worker, alive, parent)
    finally:
        os._exit(0)


def _watch(worker: int, alive: int, parent: int) -> None:
    import select

    end = select.poll()
    for pipe in (alive, 0):  # Linux always reports a closed other end, macOS only where that is asked for
        end.register(pipe, select.POLLHUP)
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            end.register(os.pidfd_open(parent), select.POLLIN)
    # on macOS input that waits to be read ends the call without an event, or is all that it still looks at
    patience = None if sys.platform == "linux" else LOOK_SECONDS * 1000
    while not (events := dict(end.poll(patience))) or events.get(0, 0) & select.POLLNVAL:
        if events:  # no pipe
            end.unregister(0)
        else:
            time.sleep(LOOK_SECONDS)
    if alive in events:
        return
    gone = select.poll()
    gone.register(alive, select.POLLHUP)
    if not gone.poll(GRACE_SECONDS * 1000):
        os.kill(worker, signal.SIGKILL)


def _end_with_windows_process(process: int) -> None:
    """Let Windows end this process when another one ends: its own threads do so, which need no lock of Python's."""
    if sys.platform != "win32":
        return
    import ctypes
    from ctypes import wintypes

    synchronize, infinite, once = 0x00100000, 0xFFFFFFFF, 0x00000008
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    kernel.OpenProcess.restype = wintypes.HANDLE
    kernel.OpenProcess.argtypes = [wintypes.DWORD, wintypes.BOOL, wintypes.DWORD]
    kernel.RegisterWaitForSingleObject.argtypes = [
        ctypes.POINTER(wintypes.HANDLE),
        wintypes.HANDLE,
        ctypes.c_void_p,
        ctypes.c_void_p,
        wintypes.ULONG,
        wintypes.ULONG,
    ]
    other = process and kernel.OpenProcess(synchronize, False, process)
    if other:
        # called with (context, timed out): TerminateProcess of the process itself, whose handle is -1, with code 0
        end = ctypes.cast(kernel.TerminateProcess, ctypes.c_void_p)
        kernel.RegisterWaitForSingleObject(
            ctypes.byref(wintypes.HANDLE()), other, end, ctypes.c_void_p(-1), infinite, once
        )
