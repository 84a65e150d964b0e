"""Typed reading of a JSON object; whatever is wrong becomes a ModelError that names the field."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

from ..errors import ModelError
from ..text import fault_of

REMEDY = "Correct model.json, or take the model package again from where it came."
#: characters of a text, where nothing else is said
LONGEST = 4000


class Fields:
    """The fields of one JSON object.

    Args:
        entry: the object as the JSON reader returned it.
        where: how messages name it, for example "labels[2]"; empty for the whole card.

    Raises:
        ModelError: from every method, where a field is absent, of another type or out of range.
    """

    def __init__(self, entry: Any, where: str = "") -> None:
        if not isinstance(entry, Mapping):
            raise ModelError(f"The model card is damaged: {where or 'it'} must be a JSON object.", REMEDY)
        self._entry = entry
        self._where = where

    def fail(self, key: str, expected: str) -> NoReturn:
        """Raise the ModelError for ``key``."""
        where = self._path(key).encode("unicode_escape").decode()  # a key may hold anything, too
        raise ModelError(f"The model card is damaged: {where}: {expected} expected.", REMEDY)

    def only(self, *keys: str) -> None:
        """Refuse fields other than ``keys``: a misspelt one would be ignored silently."""
        for key in self._entry:
            if key not in keys:
                raise ModelError(f"The model card is damaged: {self._path(str(key)[:80])!a} is no known field.", REMEDY)

    def has(self, key: str) -> bool:
        """Whether ``key`` is there and not null."""
        return self._entry.get(key) is not None

    def mapping(self, key: str, default: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A JSON object; ``default`` where it is absent."""
        value = self._get(key, default)
        if not isinstance(value, Mapping):
            self.fail(key, "a JSON object")
        return dict(value)

    def section(self, key: str, default: Mapping[str, Any] | None = None) -> Fields:
        """The fields of a JSON object within this one."""
        return Fields(self.mapping(key, default), self._path(key))

    def value(self, key: str) -> Any:
        """Whatever stands there; None where nothing does."""
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
        entries = Fields({str(number): value for number, value in enumerate(values)}, self._path(key))
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
            raise ModelError(f"The model card is damaged: {self._path(key)} is missing.", REMEDY)
        return value

    def _path(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 1 << 63 if isinstance(value, int) else math.isfinite(value)
