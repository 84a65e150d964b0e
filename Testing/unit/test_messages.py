"""Errors are told in the user's words, with a remedy that says what to do."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from SESegmentationLib.errors import reason_of

SOURCES = sorted((Path(__file__).parents[2] / "SESegmentation").rglob("*.py"))
#: "worker" is a word of the program's own: users know the segmentation process; an option --workers there is
OF_THE_PROGRAM = re.compile(r"(?<!-)\b(worker|adaptedFrom|anew|(?<![Tt]here )is no (?!longer))\b")
SAYS_NOTHING = re.compile(r"(Try|Segment) again( later)?\.|See the log\.|See \S+ logs\.|Failed\.")
#: of these "Segment again." is all that is to be done
CHANGED_MEANWHILE = ("has changed since", "was moved while", "ended this job", "no such job")


def told(source: str) -> Iterator[tuple[str, str]]:
    """Cause and remedy of errors that are made with two texts; what is filled in is left out."""
    for call in ast.walk(ast.parse(source)):
        name = getattr(call.func, "id", "") if isinstance(call, ast.Call) else ""
        if name.endswith("Error") and len(call.args) == 2:
            texts = [
                "".join(
                    part.value
                    for part in ast.walk(text)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                )
                for text in call.args
            ]
            yield texts[0], texts[1]


def faults(source: str) -> list[str]:
    return [
        f"{cause} {remedy}"
        for cause, remedy in told(source)
        if OF_THE_PROGRAM.search(f"{cause} {remedy}")
        or (SAYS_NOTHING.fullmatch(remedy) and not any(words in cause for words in CHANGED_MEANWHILE))
    ]


def system_errors_in(source: str) -> list[str]:
    """Texts into which a system error is put as it is, with its number and a name that was told before."""
    return [
        ast.unparse(text)
        for handler in ast.walk(ast.parse(source))
        if isinstance(handler, ast.ExceptHandler) and handler.type and "OSError" in ast.unparse(handler.type)
        for call in ast.walk(handler)
        if isinstance(call, ast.Call) and re.search(r"(?<!Import)Error$", getattr(call.func, "id", ""))
        for text in ast.walk(call)
        if isinstance(text, ast.FormattedValue) and ast.unparse(text.value) == handler.name
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_errors_of_the_system_are_told_in_words(path):
    assert system_errors_in(path.read_text(encoding="utf-8")) == []


def test_a_reason_is_told_in_words(tmp_path):
    reasons = []
    for fail in (lambda: (tmp_path / "absent").read_text(), lambda: {}["split"], lambda: int("x"), lambda: [].pop()):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - of several kinds
            fail()
        reasons.append(reason_of(caught.value))
    assert reasons == [
        "No such file or directory",
        "it lacks 'split'",
        "invalid literal for int() with base 10: 'x'",
        "pop from empty list",
    ]
    assert reason_of(EOFError()) == "EOFError without a message"
    bad = 'try:\n    pass\nexcept (OSError, ValueError) as e:\n    raise InputError(f"{path}: {e}.", "Look.") from e'
    assert len(system_errors_in(bad)) == 1


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_errors_are_told_in_the_users_words(path):
    assert faults(path.read_text(encoding="utf-8")) == []


def test_the_check_finds_what_it_must():
    source = (
        'WorkerError(f"The worker of {x} crashed.", REMEDY), InputError("a is no volume.", "Choose one.")\n'
        'ServerError("The server failed.", "Try again."), UsageError("a is not a volume.", "Choose another.")'
    )
    assert faults(source) == [
        "The worker of  crashed. ",
        "a is no volume. Choose one.",
        "The server failed. Try again.",
    ]
