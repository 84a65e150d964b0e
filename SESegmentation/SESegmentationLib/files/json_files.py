"""JSON that strangers wrote, read within bounds; and JSON that every reader takes: null where a number is none."""

from __future__ import annotations

import codecs
import json
import math
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

#: a larger file is refused before it is read, in bytes
LARGEST = 4 << 20
#: objects and arrays within each other
DEEPEST = 32
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_ESCAPED = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
#: a string that does not end goes to the end: to look for one anew at each of its quotes would take for ever
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)


def read_json(path: Path) -> Any:
    """The content of a JSON file in UTF-8, with or without a byte order mark.

    Raises:
        OSError: it cannot be read.
        ValueError: the cause, in one line: not UTF-8, no JSON, larger than LARGEST, deeper than DEEPEST, or with a
            number that is none or a key that comes twice.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for, a device read without end
        raise ValueError("it is no ordinary file")
    with open(path, "rb") as file:
        return parse_json(file.read(LARGEST + 1))


def parse_json(content: bytes, largest: int = LARGEST) -> Any:
    """The content of JSON in UTF-8, of at most so many bytes; ValueError as of :func:`read_json`."""
    if len(content) > largest:
        raise ValueError(f"it is larger than {largest >> 20} MiB")
    if content.startswith(_UTF16):
        raise ValueError("it is in UTF-16; save it in UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not in UTF-8, from byte {error.start} on") from error
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} levels deep")
    return json.loads(text, parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_object)


def to_json(content: Any, indent: int | None = 2, encoding: str = "utf-8") -> str:
    """``content`` as JSON that ``encoding`` can hold; what is no number (NaN, infinite) becomes null.

    Characters that are no text (bytes of a file's name that are no UTF-8), and those on which a terminal acts, are
    written as escapes.
    """
    ascii_only = not encoding.lower().startswith("utf")
    text = json.dumps(_numbers_only(content), indent=indent, ensure_ascii=ascii_only, allow_nan=False)
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for key, value in pairs:
        if key in entries:
            raise ValueError(f"{key[:40]!r} comes twice in one object")
        entries[key] = value
    return entries


def _numbers_only(content: Any) -> Any:
    if isinstance(content, float) and not math.isfinite(content):
        return None
    if isinstance(content, Mapping):
        return {key: _numbers_only(value) for key, value in content.items()}
    return [_numbers_only(value) for value in content] if isinstance(content, list | tuple) else content
