"""Structures as rows of a list: both sides of a pair in one, grouped by region; and figures in words and colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .models import Label
from .models.labels import LEFT, REGIONS, RIGHT, region_of, split_side

#: lists with more rows are grouped by region, and can be filtered
FEW_ROWS = 6
#: least expected Dice, or confidence, for a light: green, yellow; red below
_TRAFFIC_LIGHTS = ((0.85, (56, 158, 77)), (0.7, (235, 180, 32)), (-1.0, (208, 52, 44)))
#: in place of a missing number
NONE = "\u2013"


@dataclass(frozen=True)
class StructureRow:
    """One row: a structure, or left and right of a pair.

    Attributes:
        name: of the structure; that of a pair without its side.
        members: indices of structures: one, or left and right.
        region: of the body, under which it is listed; empty where there is none.
    """

    name: str
    members: tuple[int, ...]
    region: str = ""

    @property
    def is_pair(self) -> bool:
        """Whether it is a pair of left and right."""
        return len(self.members) == 2


def find_rows(labels: Sequence[Label]) -> list[StructureRow]:
    """The rows of a list of structures with these labels, in their order."""
    sides: dict[str, dict[str, list[int]]] = {}
    for index, label in enumerate(labels):
        side, name = split_side(label.name)
        if side is not None:
            sides.setdefault(name, {}).setdefault(side.value, []).append(index)
    rows: list[StructureRow] = []
    placed: set[int] = set()
    for index, label in enumerate(labels):
        name = split_side(label.name)[1]
        members = [sides.get(name, {}).get(side.value, []) for side in (LEFT, RIGHT)]
        pair = tuple(found[0] for found in members if len(found) == 1)
        if index in placed:
            continue
        if len(pair) == 2 and index in pair:
            rows.append(StructureRow(name, pair))
        else:
            rows.append(StructureRow(label.name, (index,)))
        placed.update(rows[-1].members)
    return _divided(rows, labels)


def _divided(rows: list[StructureRow], labels: Sequence[Label]) -> list[StructureRow]:
    """The rows grouped by region, if they are many; those in no region come last."""
    regions = [region_of(labels[row.members[0]]) for row in rows]
    if len(rows) <= FEW_ROWS or not any(regions):
        return rows
    known = [*REGIONS, "Other structures"]
    named = [
        StructureRow(row.name, row.members, region or known[-1]) for row, region in zip(rows, regions, strict=True)
    ]
    return sorted(named, key=lambda row: known.index(row.region))


def asymmetry(left_ml: float, right_ml: float) -> float | None:
    """Difference of two volumes over their mean, in %, positive where the left one is larger; None if one is 0."""
    return 200 * (left_ml - right_ml) / (left_ml + right_ml) if left_ml and right_ml else None


def significant(number: float, after_point: int) -> str:
    """A number with three significant digits, and at most ``after_point`` decimals."""
    before_point = sum(number >= limit for limit in (1, 10, 100))
    return f"{number:.{min(after_point, 3 - before_point)}f}"


def signed_percent(number: float | None) -> str:
    """A percentage with its sign and one decimal; a dash where there is none."""
    if number is None:
        return NONE
    rounded = round(number, 1)
    return f"{rounded:+.1f}".replace("-", "\u2212") if rounded else "0.0"


def traffic_light(number: float) -> tuple[int, int, int]:
    """The colour, red, green and blue, that an expected Dice or a confidence is shown with."""
    return next(color for least, color in _TRAFFIC_LIGHTS if number >= least)
