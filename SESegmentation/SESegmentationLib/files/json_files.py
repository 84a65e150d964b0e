"""Reading untrusted JSON with limits and type checks; writing JSON for every reader, with null for NaN and infinity."""

from __future__ import annotations

import codecs
import json
import math
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, Self

from ..errors import ModelError
from ..plain_text import fault_of

#: a larger file is refused before it is read, in bytes
LARGEST = 4 << 20
#: levels of objects and arrays within each other
DEEPEST = 32
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_ESCAPED = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
#: an unterminated string extends to the end: searching again from each of its quotes would take quadratic time
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
REMEDY = "Correct model.json, or get the model package again from its source."
#: default maximum of characters in a text
LONGEST = 4000


def read_json(path: Path) -> Any:
    """The content of a JSON file in UTF-8, with or without a byte order mark.

    Raises:
        OSError: it cannot be read.
        ValueError: the cause, in one line: not UTF-8, no JSON, larger than LARGEST, deeper than DEEPEST, or with a
            number that is not finite or a duplicate key.
    """
    return parse_json(read_bytes(path))


def read_bytes(path: Path) -> bytes:
    """The content of an ordinary file, up to the first byte that is too much for :func:`parse_json`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no ordinary file.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe may block, reading a device may not end
        raise ValueError("it is not an ordinary file")
    with open(path, "rb") as file:
        return file.read(LARGEST + 1)


def parse_json(content: bytes, largest: int = LARGEST) -> Any:
    """The content of JSON in UTF-8, of at most ``largest`` bytes; ValueError as of :func:`read_json`."""
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
    return json.loads(text, parse_constant=_refuse_constant_name, parse_float=_finite, object_pairs_hook=_object)


def to_json(content: Any, indent: int | None = 2, encoding: str = "utf-8") -> str:
    """``content`` as JSON that ``encoding`` can hold; NaN and infinity become null.

    Undecodable bytes of file names, and control characters on which a terminal acts, are written as escapes.
    """
    ascii_only = not encoding.lower().startswith("utf")
    text = json.dumps(_numbers_only(content), indent=indent, ensure_ascii=ascii_only, allow_nan=False)
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def without_nulls(content: Any) -> Any:
    """JSON content without the fields that are null: these state nothing, as :meth:`Fields.has` says."""
    if isinstance(content, Mapping):
        return {key: without_nulls(value) for key, value in content.items() if value is not None}
    return [without_nulls(value) for value in content] if isinstance(content, list | tuple) else content


def _refuse_constant_name(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


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


class Fields:
    """The fields of one JSON object in a model card; subclasses are for objects in other documents.

    Args:
        entry: the object as the JSON reader returned it.
        where: how messages name it, for example "labels[2]"; empty for the whole card.

    Raises:
        ModelError: from every method, where a field is absent, of another type or out of range.

    Attributes:
        damaged: begins the cause of every error, and names the document.
        remedy: of every error.
    """

    damaged = "The model card is damaged: "
    remedy = REMEDY

    def __init__(self, entry: Any, where: str = "") -> None:
        self._entry = entry
        self._where = where
        if not isinstance(entry, Mapping):
            raise self._error(f"{where or 'it'} must be a JSON object.")

    def fail(self, key: str, expected: str) -> NoReturn:
        """Raise the ModelError for ``key``."""
        where = self._path(key).encode("unicode_escape").decode()  # a key may hold anything, too
        raise self._error(f"{where}: {expected} expected.")

    def only(self, *keys: str) -> None:
        """Refuse fields other than ``keys``: a misspelt one would be ignored silently."""
        for key in self._entry:
            if key not in keys:
                raise self._error(f"{self._path(str(key)[:80])!a} is not a known field.")

    def has(self, key: str) -> bool:
        """Whether ``key`` is there and not null."""
        return self._entry.get(key) is not None

    def mapping(self, key: str, default: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A JSON object; ``default`` where it is absent."""
        value = self._get(key, default)
        if not isinstance(value, Mapping):
            self.fail(key, "a JSON object")
        return dict(value)

    def section(self, key: str, default: Mapping[str, Any] | None = None) -> Self:
        """The fields of a JSON object within this one."""
        return type(self)(self.mapping(key, default), self._path(key))

    def value(self, key: str) -> Any:
        """The value, of any type; None if it is absent."""
        return self._entry.get(key)

    def sequence(self, key: str, default: list[Any] | None = None, *, most: int | None = None) -> list[Any]:
        """A JSON array of at most ``most`` entries; ``default`` where it is absent."""
        value = self._get(key, default)
        if not isinstance(value, (list, tuple)):
            self.fail(key, "a JSON array")
        if most is not None and len(value) > most:
            self.fail(key, f"at most {most} entries")
        return list(value)

    def texts(self, key: str, *, most: int) -> list[str]:
        """A JSON array of texts."""
        values = self.sequence(key, most=most)
        entries = type(self)({str(number): value for number, value in enumerate(values)}, self._path(key))
        return [entries.text(str(number)) for number in range(len(values))]

    def text(
        self,
        key: str,
        default: str | None = None,
        *,
        forbidden: str = "",
        choices: tuple[str, ...] = (),
        longest: int = LONGEST,
    ) -> str:
        """Plain text: not empty unless the default is, without ``forbidden`` characters, one of ``choices`` if any."""
        value = self._get(key, default)
        if not isinstance(value, str) or (not value.strip() and value != default):
            self.fail(key, "a text")
        if len(value) > longest:
            self.fail(key, f"a text of at most {longest} characters")
        if fault := fault_of(value):
            self.fail(key, f"a text without {fault}")
        if any(character in value for character in forbidden):
            self.fail(key, f"a text without {' '.join(forbidden)}")
        if choices and value not in choices:
            self.fail(key, " or ".join(choices))
        return value

    def flag(self, key: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            self.fail(key, "true or false")
        return value

    def integer(self, key: str, default: int | None = None, *, low: int, high: int = 2**31) -> int:
        """A whole number from ``low`` to ``high``."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.fail(key, f"a whole number from {low} to {high}")
        return value

    def number(
        self, key: str, default: float | None = None, *, low: float, high: float = math.inf, above: bool = False
    ) -> float:
        """A finite number from ``low`` to ``high``; larger than ``low`` with ``above``."""
        value = self._get(key, default)
        if not _is_number(value) or not low <= value <= high or (above and value == low):
            to = f"{'' if above else ' on'}" if high == math.inf else f" to {high:g}"
            self.fail(key, f"a number {'above' if above else 'from'} {low:g}{to}")
        return float(value)

    def numbers(
        self, key: str, count: int, *, whole: bool = False, low: float = -math.inf, high: float = math.inf
    ) -> tuple[Any, ...]:
        """``count`` finite numbers (integers with ``whole``) from ``low`` to ``high``."""
        values = self.sequence(key)
        kind = "whole numbers" if whole else "numbers"
        valid = len(values) == count and all(_is_number(value) and low <= value <= high for value in values)
        if not valid or (whole and not all(isinstance(value, int) for value in values)):
            self.fail(key, f"{count} {kind} from {low} to {high}")
        return tuple(values) if whole else tuple(float(value) for value in values)

    def whole_numbers(self, key: str, *, low: int, high: int, most: int, least: int = 0) -> tuple[int, ...]:
        """From ``least`` to ``most`` whole numbers from ``low`` to ``high``."""
        count = len(self.sequence(key, most=most))
        if count < least:
            self.fail(key, f"at least {least} entries")
        return self.numbers(key, count, whole=True, low=low, high=high)

    def _get(self, key: str, default: Any) -> Any:
        value = self._entry.get(key)
        if value is None:
            value = default
        if value is None:
            raise self._error(f"{self._path(key)} is missing.")
        return value

    def _error(self, fault: str) -> ModelError:
        return ModelError(f"{self.damaged}{fault}", self.remedy)

    def _path(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 1 << 63 if isinstance(value, int) else math.isfinite(value)
