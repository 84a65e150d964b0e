"""What the name of a label tells: side, counterpart on the other side, structure and its SNOMED CT code."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Mapping

from ..models.labels import Code, Label
from ..models.naming import known_structure, split_side
from ..models.terminology import LEFT, RIGHT, structure_label

#: the two sides of these are no mirror images of each other, and in a mirror do not become one another
CHAMBERS = {"ventricle", "ventricles", "ventricular", "atrium", "atria", "atrial", "heart", "myocardium", "lobe"}
#: what Slicer calls a segment of which nothing is known
TISSUE = Code("85756007", "SCT", "Tissue")


def mirrored_pairs(names: Mapping[int, str]) -> tuple[list[tuple[int, int]], list[str]]:
    """Pairs of labels that change places in a mirror, found by their names.

    Args:
        names: by value.

    Returns:
        (left value, right value) of each pair; and the names that have a side but no counterpart. With any of these
        volumes must not be mirrored.
    """
    by_structure: dict[str, dict[str, int]] = {}
    alone = []
    for value, name in names.items():
        side, structure = split_side(name)
        if side is None:
            continue
        words = set(structure.split())
        if words & CHAMBERS and "lateral" not in words:
            alone.append(name)
        else:
            by_structure.setdefault(structure, {})[side.value] = value
    pairs = [(sides[LEFT.value], sides[RIGHT.value]) for sides in by_structure.values() if len(sides) == 2]
    alone += [names[value] for sides in by_structure.values() if len(sides) == 1 for value in sides.values()]
    return sorted(pairs), alone


def make_labels(names: Mapping[int, str], plausible_ml: Mapping[int, tuple[float, float]]) -> list[Label]:
    """Labels of a card: with SNOMED CT codes where the names are known, else as tissue; in distinct colours.

    Args:
        names: by value.
        plausible_ml: by value, where known.
    """
    labels: list[Label] = []
    structures = [split_side(name)[1] for name in names.values()]
    for value, name in names.items():
        side, structure = split_side(name)
        known = known_structure(structure)
        plausible = plausible_ml.get(value)
        if known and structures.count(structure) <= 2 and not _named(labels, known, side):
            labels.append(structure_label(value, known, side, plausible))
        else:
            plain = re.sub(r"[\s_]+", " ", name).strip()
            color = _color(structures.index(structure))
            labels.append(Label(value, plain, TISSUE, TISSUE, side, color, plausible))
    return labels


def _named(labels: list[Label], structure: str, side: Code | None) -> bool:
    name = f"{side.meaning.lower()} {structure}" if side else structure
    return any(label.name == name for label in labels)


def _color(number: int) -> tuple[int, int, int]:
    """The colour of that number: hues a golden section apart, so that neighbours differ."""
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.65, 0.9))
