"""Rows of the table of structures: which structures share one, in what order they are reviewed, and their texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slicer.i18n import tr as _

from .result_record import RecordedStructure


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
