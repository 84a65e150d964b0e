"""Rows of the table of structures: which structures share one, in what order they are reviewed, and their texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slicer.i18n import tr as _

from ..models.labels import LEFT, REGIONS, RIGHT, region_of, split_side
from .result_record import RecordedStructure

#: lists with more rows are divided into regions, and can be filtered
FEW_ROWS = 6
#: in place of a missing number
NONE = "\u2013"


@dataclass(frozen=True)
class StructureRow:
    """One row: a structure, or left and right of a pair.

    Attributes:
        name: of the structure; that of a pair without its side.
        members: indices into the structures of the record: one, or left and right.
        region: of the body, under which it is listed; empty where there is none.
    """

    name: str
    members: tuple[int, ...]
    region: str = ""

    @property
    def is_pair(self) -> bool:
        """Whether left and right stand in it."""
        return len(self.members) == 2


@dataclass(frozen=True)
class RegionTitle:
    """A row that is the title of the rows below it."""

    region: str


def review_order(structures: Sequence[RecordedStructure], calibrated: bool) -> list[int]:
    """Indices of structures: what was not found, what was not measured, then the least certain first."""
    return sorted(range(len(structures)), key=lambda index: _rank(structures[index], calibrated))


def shown_confidence(structure: RecordedStructure, calibrated: bool) -> float | None:
    """Expected Dice, or confidence, 0 to 1; None where the structure was not found or the number is not known."""
    if not structure.found:
        return None
    return structure.expected_dice if calibrated else structure.confidence


def asymmetry(left_ml: float, right_ml: float) -> float | None:
    """Difference of two volumes over their mean, in %, positive where the left one is larger; None if one is 0."""
    return 200 * (left_ml - right_ml) / (left_ml + right_ml) if left_ml and right_ml else None


def find_rows(structures: Sequence[RecordedStructure]) -> list[StructureRow]:
    """The rows of a list, in the order of their structures."""
    sides: dict[str, dict[str, list[int]]] = {}
    for index, structure in enumerate(structures):
        side, name = split_side(structure.label.name)
        if side is not None:
            sides.setdefault(name, {}).setdefault(side.value, []).append(index)
    rows: list[StructureRow] = []
    placed: set[int] = set()
    for index, structure in enumerate(structures):
        name = split_side(structure.label.name)[1]
        members = [sides.get(name, {}).get(side.value, []) for side in (LEFT, RIGHT)]
        pair = tuple(found[0] for found in members if len(found) == 1)
        if index in placed:
            continue
        if len(pair) == 2 and index in pair:
            rows.append(StructureRow(name, pair))
        else:
            rows.append(StructureRow(structure.label.name, (index,)))
        placed.update(rows[-1].members)
    return _divided(rows, structures)


def _divided(rows: list[StructureRow], structures: Sequence[RecordedStructure]) -> list[StructureRow]:
    """Many rows, region by region; what lies in none comes last."""
    regions = [region_of(structures[row.members[0]].label) for row in rows]
    if len(rows) <= FEW_ROWS or not any(regions):
        return rows
    known = [*REGIONS, "Other structures"]
    named = [
        StructureRow(row.name, row.members, region or known[-1]) for row, region in zip(rows, regions, strict=True)
    ]
    return sorted(named, key=lambda row: known.index(row.region))


def _rank(structure: RecordedStructure, calibrated: bool) -> tuple[int, float]:
    if not structure.found:
        return 0, 0.0
    number = shown_confidence(structure, calibrated)
    return (1, structure.confidence) if number is None else (2, number)


def sides_text(texts: list[str], usual: str) -> str:
    """One text for a structure, or those of left and right side by side; the usual one is left out of one side."""
    if len(set(texts)) == 1:
        return texts[0]
    sides = zip((_("L"), _("R")), texts, strict=True)
    return "\n".join(f"{side} {text}" for side, text in sides if text != usual)


def why_no_dice(structure: RecordedStructure) -> str:
    """Why there is no expected Dice, and the confidence instead; empty where there is one."""
    if not structure.found:
        return _("Not found: nothing to expect")
    if structure.expected_dice is not None:
        return ""
    text = _("Expected Dice: not measured for this structure and model. Confidence: {number} %")
    return text.format(number=round(100 * structure.confidence))


def significant(number: float, after_point: int) -> str:
    """A number with three significant digits, and at most so many after the decimal point."""
    before_point = sum(number >= limit for limit in (1, 10, 100))
    return f"{number:.{min(after_point, 3 - before_point)}f}"


def signed_percent(number: float | None) -> str:
    """A percentage with its sign and one decimal; a dash where there is none."""
    if number is None:
        return NONE
    rounded = round(number, 1)
    return f"{rounded:+.1f}".replace("-", "\u2212") if rounded else "0.0"
