"""Text from files and packages, made fit for a terminal or a window: no control characters, no markup."""

from __future__ import annotations

import re
import unicodedata

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


def fault_of(text: str) -> str | None:
    """What makes ``text`` more than plain text, in words; None where nothing does."""
    if any(_is_control(character) for character in text):
        return "control characters"
    return "markup" if _MARKUP.search(text) else None


def plain(text: str) -> str:
    """``text`` as plain text in one line: control characters become spaces, and what opens markup goes."""
    text = " ".join("".join(" " if _is_control(character) else character for character in text).split())
    while _MARKUP.search(text):
        text = _MARKUP.sub(lambda match: match[0].translate({ord(character): None for character in "<>&[]"}), text)
    return text


def _is_control(character: str) -> bool:
    return character not in _JOINERS and unicodedata.category(character) in _CONTROL
