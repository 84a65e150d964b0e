"""From a model's confidence in a structure to the Dice to be expected: the card's "calibration".

It was measured on validation cases (``training.calibration``) and holds, for results of all views and of one view
alone ("--fast"), by label value, a few points of a rising line: "confidence" and "dice". Above the last point it stays
level; below the first one, where nothing was seen, it falls to 0 with the confidence: a structure that the networks
agree on less than in any case measured must not be promised the Dice of the worst of those.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from operator import itemgetter
from typing import Any

#: entries of "calibration", by whether several views were asked
SEVERAL_VIEWS, ONE_VIEW = "views", "fast"


def expected_dice(calibration: Mapping[str, Any], value: int, confidence: float, views: int) -> float | None:
    """The Dice that a structure probably has.

    Args:
        calibration: of the card.
        value: of the structure's label.
        confidence: of the structure in the result.
        views: how many were asked; the confidences of one and of several are not comparable.

    Returns:
        0 to 1, or None where the card does not tell.
    """
    curve = calibration.get(SEVERAL_VIEWS if views > 1 else ONE_VIEW, {}).get(str(value))
    if curve is None:
        return None
    points = list(zip(curve["confidence"], curve["dice"], strict=True))
    if points[0][0] > 0:
        points.insert(0, (0.0, 0.0))
    position = bisect_right(points, confidence, key=itemgetter(0))
    if position == len(points):
        return float(points[-1][1])
    (left, low), (right, high) = points[position - 1 : position + 1]
    return float(low + (high - low) * (confidence - left) / (right - left))
