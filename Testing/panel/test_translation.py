"""What the user reads can be translated: it goes through Slicer's ``tr``, errors and messages too."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from SESegmentationLib.errors import InputError
from SESegmentationLib.panel import messages
from SESegmentationLib.result import Finding

LIBRARY = Path(__file__).parents[2] / "SESegmentation" / "SESegmentationLib"
FILES = sorted(path for folder in ("panel", "mrml") for path in (LIBRARY / folder).glob("*.py"))
#: for programmers, who read English
NOT_FOR_USERS = ("ValueError", "TypeError", "RuntimeError", "AttributeError", "AssertionError", "KeyError")


def untranslated(source: str) -> list[str]:
    """Texts of errors that are made without ``_()``."""
    return [
        ast.unparse(text)
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
        if call.func.id.endswith("Error") and call.func.id not in NOT_FOR_USERS
        for text in call.args
        if isinstance(text, ast.JoinedStr)
        or (isinstance(text, ast.Constant) and isinstance(text.value, str) and text.value)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_errors_made_in_slicer_can_be_translated(path):
    assert untranslated(path.read_text(encoding="utf-8")) == []


def test_the_check_finds_what_it_must():
    source = (
        'InputError("a", _("b")), InputError(f"{c}", _("{d}").format(d=d)), ValueError("e"), DependencyError(x, "")'
    )
    assert untranslated(source) == ["'a'", "f'{c}'"]


def test_what_the_worker_says_is_looked_up_as_well(monkeypatch):
    monkeypatch.setattr(messages, "_", {"cause": "Ursache", "remedy": "Abhilfe"}.get)
    for message in (
        messages.Message.of_error(InputError("cause", "remedy")),
        messages.Message.of_finding(Finding("code", "cause", "remedy")),
    ):
        assert (message.text, message.remedy) == ("Ursache", "Abhilfe")
