"""Names of structures: the side that a name tells, and whether two names mean the same."""

from __future__ import annotations

import re

from .labels import Code
from .terminology import LEFT, RIGHT, STRUCTURES

#: words of a name that say a side; of letters only those that stand alone
SIDES = {"left": LEFT, "lt": LEFT, "lh": LEFT, "l": LEFT, "right": RIGHT, "rt": RIGHT, "rh": RIGHT, "r": RIGHT}
#: other names of structures in the terminology
ALIASES = {
    "accumbens area": "accumbens",
    "bladder": "urinary bladder",
    "brainstem": "brain stem",
    "caudate nucleus": "caudate",
    "csf": "cerebrospinal fluid",
    "gall bladder": "gallbladder",
    "globus pallidus": "pallidum",
    "nucleus accumbens": "accumbens",
    "oesophagus": "esophagus",
    "ventral dc": "ventral diencephalon",
}


def split_side(name: str) -> tuple[Code | None, str]:
    """Side and rest of a name: (LEFT, "kidney") for "kidney_left", "Left-Kidney" and "kidneyL".

    The rest is in lower case, its words separated by a space. Names with several sides have none.
    """
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = [word.lower() for word in re.split(r"[\W_]+", apart) if word]
    sides = {SIDES[word].value for word in words if word in SIDES}
    if len(sides) != 1:
        return None, " ".join(words)
    side = next(SIDES[word] for word in words if word in SIDES)
    return side, " ".join(word for word in words if word not in SIDES)


def known_structure(name: str) -> str | None:
    """The terminology's name of a structure without its side, or None."""
    for spelling in (name, name.removesuffix("s")):
        spelling = ALIASES.get(spelling, spelling)
        if spelling in STRUCTURES:
            return spelling
    return None


def same_name(first: str, second: str) -> bool:
    """Whether two names mean the same structure of the same side, however they are spelt: "kidney_L", "Left kidney"."""
    (side, structure), (other_side, other) = split_side(first), split_side(second)
    if not structure or not other:
        return first.strip() == second.strip()
    same = (known_structure(structure) or structure) == (known_structure(other) or other)
    return same and (side and side.value) == (other_side and other_side.value)
