"""Errors a user can meet, each with its cause in one line and its remedy in another, as plain text.

The exit codes are those of the ``sesegment`` command; the codes are what the worker sends to Slicer.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import unicodedata

#: where a folder holds several DICOM series
SERIES_REMEDY = "Give the folder of one series."
#: control characters, and those that change the direction of what follows: a terminal acts on them
_CONTROLS = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_ALL, _ALL_BUT_LINES = re.compile(f"[\x00-\x1f{_CONTROLS}]"), re.compile(f"[\x00-\x09\x0b-\x1f{_CONTROLS}]")
#: elements of HTML; other words between "<" and ">" are as harmless as an address
_ELEMENTS = (
    "a|abbr|article|audio|b|base|big|blink|blockquote|body|br|button|center|code|dd|details|div|dl|dt|em|embed|font|"
    "footer|form|frame|frameset|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|kbd|li|link|marquee|math|menu|meta|"
    "object|ol|option|p|param|pre|q|s|script|section|select|small|source|span|strike|strong|style|sub|sup|svg|table|"
    "tbody|td|template|textarea|th|title|tr|tt|u|ul|video"
)
#: HTML, links of Markdown, tags that the terminal's tables obey
_MARKUP = re.compile(rf"</?(?i:{_ELEMENTS})\b|<[!?]|&(?:#\w+|[A-Za-z]+\d*);|\]\(|\[/?[a-z#@/][^\[\]]*\]")
#: joiners that words of some languages are written with
_JOINERS = "\u200c\u200d"
_CONTROL = {"Cc", "Cf", "Cs", "Zl", "Zp"}


class SegmentationError(Exception):
    """Base of every expected failure.

    Attributes:
        cause: one sentence, what is wrong.
        remedy: one sentence, what the user can do about it.
        code: stable name for programs (sent between processes).
        exit_code: exit status of the command line.
    """

    code = "error"
    exit_code = 1

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy = remedy

    def __reduce__(self):  # exceptions with two arguments do not survive copying by default
        return type(self), (self.cause, self.remedy)


class UsageError(SegmentationError):
    """Options that contradict each other or name something that is not there."""

    code = "usage"
    exit_code = 2


class InputError(SegmentationError):
    """A volume, label file or folder that cannot be used."""

    code = "input"
    exit_code = 2


class ModelError(SegmentationError):
    """No such model, or one that is damaged or too new."""

    code = "model"
    exit_code = 3


class OutOfMemoryError(SegmentationError):
    """Not enough main or device memory."""

    code = "memory"
    exit_code = 4


class DeviceError(SegmentationError):
    """A compute device that is absent or fails."""

    code = "device"
    exit_code = 5


class NothingFoundError(SegmentationError):
    """A volume that was segmented, and in which there is none of the model's structures."""

    code = "nothing"
    exit_code = 6


class DependencyError(SegmentationError):
    """A Python package that is needed and not installed."""

    code = "dependency"
    exit_code = 1


class CancelledError(SegmentationError):
    """The user cancelled the run."""

    code = "cancelled"
    exit_code = 1


class WorkerError(SegmentationError):
    """The worker process ended, hung, or speaks another version."""

    code = "worker"
    exit_code = 1


class ServerError(SegmentationError):
    """A server that cannot be reached or trusted, refuses, or speaks another version."""

    code = "server"
    exit_code = 1


def install_advice(packages: str) -> str:
    """How the user installs Python packages for the Python that runs this.

    In Slicer that is done by PythonSlicer: python-real, which it starts, does not find its libraries without it.

    Args:
        packages: in pip's syntax.
    """
    if shutil.which("PythonSlicer", path=os.path.dirname(sys.executable or "")):
        return f"Click Segment in Slicer to install what is missing, or run: PythonSlicer -m pip install {packages}"
    return f"Install it: {os.path.basename(sys.executable or 'python')} -m pip install {packages}"


#: every class by its code, to rebuild an error that came from another process
ERRORS_BY_CODE = {
    error.code: error
    for error in (
        SegmentationError,
        UsageError,
        InputError,
        ModelError,
        OutOfMemoryError,
        DeviceError,
        NothingFoundError,
        DependencyError,
        CancelledError,
        WorkerError,
        ServerError,
    )
}


def printable(text: str, lines: bool = False) -> str:
    """``text`` with an escape for every character that a terminal would act on.

    Args:
        lines: keep line breaks.
    """
    controls = _ALL_BUT_LINES if lines else _ALL
    return controls.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def counted(number: int, noun: str) -> str:
    """A number with its noun, to be put into a sentence: "1 case", "3 cases"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def first_line(text: str, otherwise: str = "no message") -> str:
    """The first line of a library's message, which may run over many, to be put into a sentence."""
    return (text.strip().splitlines() or [otherwise])[0].rstrip(".: ")


def reason_of(error: Exception) -> str:
    """Why something failed, to be put into a sentence; of what the system says the words alone, without a number."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    return first_line(str(error), f"{type(error).__name__} without a message")


def fault_of(text: str) -> str | None:
    """What makes ``text`` more than plain text, in words; None where nothing does."""
    if any(_is_control(character) for character in text):
        return "control characters"
    return "markup" if _MARKUP.search(text) else None


def plain(text: str) -> str:
    """``text`` as plain text in one line: control characters become spaces, and what opens markup is removed."""
    text = " ".join("".join(" " if _is_control(character) else character for character in text).split())
    while _MARKUP.search(text):
        text = _MARKUP.sub(lambda match: match[0].translate({ord(character): None for character in "<>&[]"}), text)
    return text


def _is_control(character: str) -> bool:
    return character not in _JOINERS and unicodedata.category(character) in _CONTROL
