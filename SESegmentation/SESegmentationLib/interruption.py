"""Ctrl-C and SIGTERM end a command at once, whatever it is doing, and leave nothing half done.

No exception is raised for it: one that comes while a library is imported, in a callback or while threads are waited
for may be lost, or have the process abort. A thread that does nothing but wait for the signal ends the process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading

from .files.writing import close_all_staging, placing

MESSAGE = ("Cancelled.", "Finished files are complete; nothing else was written.")
EXIT_CODE = 1
#: takes a progress bar away and shows the cursor again
_CLEAR = "\r\x1b[K\x1b[?25h"
#: as long as finished files may take to get their place
_PATIENCE_S = 10.0


def end_on_signals() -> None:
    """From now on a signal ends this process; to be called from its main thread, once."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)
    if hangup and signal.getsignal(hangup) is not signal.SIG_IGN:  # nohup
        numbers.append(hangup)
    receive, send = os.pipe()
    os.set_blocking(send, False)
    threading.Thread(target=_end, args=(receive,), name="interruption", daemon=True).start()
    signal.set_wakeup_fd(send, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, _noticed)
    if hasattr(os, "register_at_fork"):
        # a signal that a child gets before it has forgotten this would be taken for one of this process
        os.register_at_fork(
            before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, numbers),
            after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers),
            after_in_child=lambda: _forget(numbers),
        )


def let_finish() -> None:
    """All is done and told: signals do not change any more how this process ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _noticed(_signal: int, _frame: object) -> None:
    """Python has written to the pipe already."""


def _forget(numbers: list[signal.Signals]) -> None:
    """In a forked process: signals are not this one's to tell."""
    signal.set_wakeup_fd(-1)
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def _end(pipe: int) -> None:
    os.read(pipe, 1)
    placing.acquire(timeout=_PATIENCE_S)  # and never released: nothing is begun or put in place any more
    close_all_staging()
    with contextlib.suppress(Exception):  # nothing may keep the process from ending
        if used := sys.modules.get("multiprocessing"):
            for child in used.active_children():
                child.kill()
    with contextlib.suppress(Exception):  # past what others may be writing, for which they hold locks
        text = (_CLEAR if sys.stderr.isatty() else "") + "\n".join(MESSAGE) + "\n"
        os.write(sys.stderr.fileno(), text.encode())
    os._exit(EXIT_CODE)
