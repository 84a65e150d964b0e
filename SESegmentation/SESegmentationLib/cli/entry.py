"""Entry of the command: every failure becomes one line of cause, one of remedy, and an exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import FrameType

from ..errors import DependencyError, OutOfMemoryError, SegmentationError, UsageError, no_memory_to_load

DEBUG = "--debug"
_INTERRUPTED = 130  # what typer makes of Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: without the program's name; those of the process where absent.

    Returns:
        Exit code: 0 done, 2 wrong use or unusable input, 3 no such or damaged model, 4 not enough memory, 5 device,
        6 nothing was found in the volume, 1 anything else.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG in given
    os.environ["PYTHONSAFEPATH"] = "1"  # no Python process that is started imports from the working folder
    _on_interrupt(_interrupt)
    try:
        return _invoke([argument for argument in given if argument != DEBUG])
    except BaseException as error:
        if debug:
            traceback.print_exc()
        return report_failure(error)


def report_failure(error: BaseException, subject: str = "") -> int:
    """Print cause and remedy of ``error`` on stderr, each in one line; the exit code.

    Args:
        error: what was raised.
        subject: the file it concerns, where there are several.
    """
    if isinstance(error, BrokenPipeError):  # the reader of our output went away: nothing to tell anybody
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    known = as_segmentation_error(error)
    cause = known.cause if subject in known.cause else f"{subject}: {known.cause}"
    for line in (cause, known.remedy):
        if line:
            print(" ".join(line.split()), file=sys.stderr)
    return known.exit_code


def as_segmentation_error(error: BaseException) -> SegmentationError:
    """``error`` in the words of the user."""
    import typer

    if isinstance(error, SegmentationError):
        return error
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return SegmentationError("Cancelled.", "Finished files are complete; nothing else was written.")
    if isinstance(error, MemoryError):
        return OutOfMemoryError("There is not enough memory.", "Close other programs, or use --low-memory.")
    if isinstance(error, ImportError) and (known := no_memory_to_load(str(error))):
        return known
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("SESegmentationLib"):
        return DependencyError(
            f"The Python package {error.name} is not installed.", "Run: sesegment doctor. It says how to install it."
        )
    if hasattr(error, "format_message"):  # what typer raises on wrong options; it has no public name
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "sesegment"
        message = error.format_message()  # empty where the help was printed instead
        return UsageError(message, f"See: {command} --help" if message else "")
    return SegmentationError(
        f"Unexpected failure: {type(error).__name__}: {error}", f"Run it again with {DEBUG} and report what it prints."
    )


def _invoke(arguments: list[str]) -> int:
    from .app import app

    code = app(arguments, prog_name="sesegment", standalone_mode=False)
    if code == _INTERRUPTED:
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM.

    Where a KeyboardInterrupt itself comes while a library is imported that runs code of its own, Python remembers it
    for good, and the process dies of the signal in the end, whatever its exit code was to be.
    """


def _on_interrupt(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    """What Ctrl-C and SIGTERM do from now on."""
    with contextlib.suppress(ValueError):  # not the main thread: whoever started the thread handles signals
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, handler)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """End by SIGTERM as by Ctrl-C, so that temporary files are removed.

    Only once: threads that compute are waited for, and Python 3.11 takes one for ended where that is interrupted, and
    aborts in the end.
    """
    _on_interrupt(signal.SIG_IGN)
    raise Interrupted
