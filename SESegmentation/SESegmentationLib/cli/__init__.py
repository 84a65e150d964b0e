"""The ``sesegment`` command: its streams, and every failure as a line of cause, a line of remedy and an exit code.

What it can do stands in :mod:`.app`.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from ..errors import DependencyError, OutOfMemoryError, SegmentationError, UsageError
from ..files.writing import any_file_written
from ..memory import MEMORY_REMEDY, is_out_of_memory, no_memory_to_load
from ..plain_text import printable
from ..progress import MESSAGE, end_on_signals, ignore_signals
from .remedies import by_options, named

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


__all__ = ["main"]
DEBUG = "--debug"
_INTERRUPTED = 130  # what typer makes of Ctrl-C
_VIRTUAL_TERMINAL = 4  # ENABLE_VIRTUAL_TERMINAL_PROCESSING of Windows, which its programs begin without
#: of the command that runs in this process
_arguments: list[str] = []


class _Stream(io.FileIO):
    """A stream that stores its first failure instead of raising it, and drops all later output."""

    failure: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        if self.failure is None:
            try:
                return super().write(data) or 0
            except OSError as error:
                self.failure = error
        return memoryview(data).nbytes


def replace_standard_streams(quiet: bool = True) -> None:
    """Let standard output and standard error take any text, and survive a reader that goes away.

    Characters that the encoding lacks are escaped. Call it once for the process, before any file is opened.

    Args:
        quiet: suppress what C and C++ libraries print to the error stream, and warnings of Python's (unless an option
            of Python asks for them): exceptions and findings say it better.
    """
    for number in (0, 1, 2):  # the next file opened would get the number of a closed stream
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    errors = os.dup(2)
    if quiet:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
    sys.stdout = _text(1, sys.stdout)
    sys.stderr = _text(errors, sys.stderr)


def say(text: str) -> None:
    """Print one line on stdout at once."""
    print(printable(text), flush=True)


def warn(text: str) -> None:
    """Print one line on stderr."""
    print(printable(" ".join(text.split())), file=sys.stderr, flush=True)


def printing_failure() -> OSError | None:
    """Why output to stdout was lost; None if it was not, or if its reader had closed it."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        return error if isinstance(error, OSError) and not isinstance(error, BrokenPipeError) else None
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    failure = getattr(raw, "failure", None)
    return None if isinstance(failure, BrokenPipeError) else failure


def _text(number: int, given: TextIO) -> TextIO:
    encoding = getattr(given, "encoding", None) or "utf-8"
    if os.name == "nt" and os.isatty(number):  # a console of Windows takes no bytes
        _obey_escapes(number)
        # not the given stream: that of errors writes to descriptor 2, which may lead nowhere now
        return open(number, "w", 1, encoding, "backslashreplace", closefd=False)  # noqa: SIM115
    line_buffering = os.isatty(number) or number != 1
    raw = io.BufferedWriter(_Stream(number, "w", closefd=False))
    return io.TextIOWrapper(raw, encoding, "backslashreplace", line_buffering=line_buffering)


def _obey_escapes(number: int) -> None:
    """Let a console of Windows act on the escapes of progress bars and colours, instead of showing them."""
    if sys.platform == "win32":
        import ctypes
        import msvcrt
        from ctypes import wintypes

        console, mode = wintypes.HANDLE(msvcrt.get_osfhandle(number)), wintypes.DWORD()
        if ctypes.windll.kernel32.GetConsoleMode(console, ctypes.byref(mode)):
            ctypes.windll.kernel32.SetConsoleMode(console, mode.value | _VIRTUAL_TERMINAL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: without the program's name. Where absent, those of the process, which is then this command's own: its
            streams and signals too.

    Returns:
        Exit code: 0 done, 2 wrong use or unusable input, 3 no such or damaged model, 4 not enough memory, 5 device,
        6 nothing was found in the volume, 1 anything else.
    """
    os.environ["PYTHONSAFEPATH"] = "1"  # no Python process that is started imports from the working folder
    if arguments is not None:
        return _outcome(list(arguments))
    replace_standard_streams(quiet=DEBUG not in sys.argv)
    end_on_signals()
    code = _outcome(sys.argv[1:])
    if lost := printing_failure():
        warn(f"What was printed is lost: {lost.strerror}.")
        warn("The files are written and complete." if any_file_written() else "Print to another file or disk.")
        code = code if any_file_written() else code or 1
    ignore_signals()
    return code


def _outcome(arguments: list[str]) -> int:
    """The exit code of the command with these arguments; a failure is printed."""
    _arguments[:] = arguments
    try:
        return _invoke([argument for argument in arguments if argument != DEBUG])
    except BaseException as error:
        if DEBUG in arguments:
            traceback.print_exc()
        return report_failure(error)


def report_failure(error: BaseException, subject: str = "") -> int:
    """Print cause and remedy of ``error`` on stderr, each in one line; the exit code.

    Args:
        error: what was raised.
        subject: the file it concerns, where there are several.
    """
    known = as_user_error(error)
    cause = known.cause if subject in known.cause else f"{subject}: {known.cause}"
    for line in (cause, known.remedy):
        if line:
            warn(line)
    return known.exit_code


def as_user_error(error: BaseException) -> SegmentationError:
    """``error`` with a cause and a remedy for the user."""
    import typer

    if isinstance(error, SegmentationError):
        return by_options(error, named(_arguments)[1])
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return SegmentationError(*MESSAGE)
    if is_out_of_memory(error):
        return as_user_error(OutOfMemoryError("There is not enough memory.", MEMORY_REMEDY))
    if isinstance(error, (ImportError, OSError)) and (known := no_memory_to_load(str(error))):
        return known
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("SESegmentationLib"):
        return DependencyError(
            f"The Python package {error.name} is not installed.", "Run: sesegment doctor. It says how to install it."
        )
    if hasattr(error, "format_message"):  # typer's exception for wrong options; it has no public name
        message = error.format_message()  # empty where the help was printed instead
        message = message.replace("Value error, ", "", 1)  # pydantic's words for it
        if message and not message.endswith((".", "?")):
            message += "."
        return UsageError(message, f"See: {named(_arguments)[0]} --help" if message else "")
    if isinstance(error, OSError) and error.strerror:
        where = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else "A file"
        if error.errno == errno.ENAMETOOLONG:
            return UsageError(f"The name {where} is longer than the disk allows.", "Choose a shorter name.")
        return SegmentationError(
            f"{where} cannot be read or written: {error.strerror}.", "Check the file, its folder and its disk."
        )
    return SegmentationError(
        f"Unexpected failure: {type(error).__name__}: {error}", f"Run it again with {DEBUG} and report what it prints."
    )


def _invoke(arguments: list[str]) -> int:
    from .app import app

    code = app(arguments, prog_name="sesegment", standalone_mode=False)
    if code == _INTERRUPTED:
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0
