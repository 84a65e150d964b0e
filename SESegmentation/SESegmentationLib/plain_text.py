"""Text for people: plain, without what a terminal or a page would act on, and short enough for a sentence."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

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


def printable(text: str, lines: bool = False) -> str:
    """``text`` with an escape for every character that a terminal would act on.

    Args:
        lines: keep line breaks.
    """
    controls = _ALL_BUT_LINES if lines else _ALL
    return controls.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def fault_of(text: str) -> str | None:
    """What makes ``text`` more than plain text, in words; None where nothing does."""
    if not text.isprintable() and any(map(_is_control, text)):  # all of a long text would take a long time
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


def first_line(text: str, otherwise: str = "no message") -> str:
    """The first line of a library's message, which may run over many, to be put into a sentence."""
    return (text.strip().splitlines() or [otherwise])[0].rstrip(".: ")


def counted(number: int, noun: str) -> str:
    """A number with its noun, to be put into a sentence: "1 case", "3 cases"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def some_of(names: Iterable[object], most: int = 3) -> str:
    """The first of ``names``, and how many more there are."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
