"""Text that comes from files and packages, made fit for a terminal."""

from __future__ import annotations

import re

#: control characters, and those that change the direction of what follows: a terminal acts on them
_CONTROLS = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_ALL, _ALL_BUT_LINES = re.compile(f"[\x00-\x1f{_CONTROLS}]"), re.compile(f"[\x00-\x09\x0b-\x1f{_CONTROLS}]")


def printable(text: str, lines: bool = False) -> str:
    """``text`` with an escape for every character that a terminal would act on.

    Args:
        lines: leave the ends of lines.
    """
    controls = _ALL_BUT_LINES if lines else _ALL
    return controls.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
