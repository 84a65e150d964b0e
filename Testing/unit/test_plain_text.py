"""Text that is put before people."""

from __future__ import annotations

import pytest

from SESegmentationLib.plain_text import first_line, some_of


@pytest.mark.parametrize(
    ("names", "told"), [([], ""), (["a"], "a"), ([1, 2, 3], "1, 2, 3"), (iter("abcde"), "a, b, c and 2 more")]
)
def test_some_are_named_and_the_others_counted(names, told):
    assert some_of(names) == told


@pytest.mark.parametrize(
    ("text", "told"), [("a.b: \nmore\n", "a.b"), ("\n  first.\nsecond", "first"), (" \n", "no message")]
)
def test_a_message_of_many_lines_is_told_by_its_first(text, told):
    assert first_line(text) == told
