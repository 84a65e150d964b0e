"""The expected Dice: on the card's line, falling to nothing below it, of the right views."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from SESegmentationLib.models import ModelCard
from SESegmentationLib.models.sections import expected_dice

CALIBRATION = {
    "views": {"1": {"confidence": [0.2, 0.5, 0.9], "dice": [0.1, 0.4, 0.8]}, "2": {"confidence": [0.7], "dice": [0.6]}},
    "fast": {"1": {"confidence": [0.1, 0.3], "dice": [0.2, 1.0]}},
}


@given(st.floats(0, 1))
def test_it_is_on_the_line_never_above_it_and_falls_to_nothing_below(confidence):
    line = CALIBRATION["views"]["1"]
    expected = np.interp(confidence, [0, *line["confidence"]], [0, *line["dice"]])
    assert expected_dice(CALIBRATION, 1, confidence, views=3) == pytest.approx(expected)


@given(st.floats(0, 1), st.floats(0, 1))
def test_more_confidence_never_means_less_dice(a, b):
    low, high = sorted((a, b))
    assert expected_dice(CALIBRATION, 1, low, 3) <= expected_dice(CALIBRATION, 1, high, 3)


def test_one_view_has_a_line_of_its_own():
    assert expected_dice(CALIBRATION, 1, 0.2, views=1) == pytest.approx(0.6)
    assert expected_dice(CALIBRATION, 1, 0.2, views=2) == pytest.approx(0.1)


def test_less_confidence_than_was_ever_seen_is_not_promised_the_worst_dice_seen():
    expected = [expected_dice(CALIBRATION, 2, confidence, 3) for confidence in (0, 0.35, 0.7, 1)]
    assert expected == pytest.approx([0, 0.3, 0.6, 0.6])


def test_a_line_that_was_seen_down_to_no_confidence_stays_as_it_is():
    seen = {"views": {"1": {"confidence": [0.0, 0.5], "dice": [0.2, 0.4]}}}
    assert [expected_dice(seen, 1, confidence, 3) for confidence in (0, 0.25)] == pytest.approx([0.2, 0.3])


@pytest.mark.parametrize(("calibration", "value", "views"), [({}, 1, 3), (CALIBRATION, 3, 3), (CALIBRATION, 2, 1)])
def test_what_was_not_measured_is_not_told(calibration, value, views):
    assert expected_dice(calibration, value, 0.5, views) is None


def test_the_card_keeps_it(card_dict):
    card = ModelCard.from_dict(card_dict | {"calibration": CALIBRATION, "weights": {"file": "w", "sha256": "0" * 64}})
    assert card.calibration == CALIBRATION
    assert ModelCard.from_dict(card.to_dict()).calibration == CALIBRATION
