"""A view that overlooks a structure is not heard about it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from SESegmentationLib.errors import CancelledError
from SESegmentationLib.inference.predictor import Predictor
from SESegmentationLib.inference.views import restrict_fusion
from SESegmentationLib.models import ModelCard

pytestmark = pytest.mark.usefixtures("single_precision")
CPU = torch.device("cpu")
SHAPE = (10, 10, 10)
VIEWS = [{"plane": "axial", "weight": 1.0, "network": name, "thickness": 1} for name in ("first", "second")]


class Painter(nn.Module):
    """Sure of one class a pixel: the pixel's value, and background for the values that it does not know."""

    def __init__(self, *unknown: int) -> None:
        super().__init__()
        self.unknown = unknown

    def forward(self, slabs: torch.Tensor) -> torch.Tensor:
        value = slabs[:, 0].round().long().clamp(0, 2)
        for unknown in self.unknown:
            value = torch.where(value == unknown, 0, value)
        return 20.0 * nn.functional.one_hot(value, 3).permute(0, 3, 1, 2).float()


@pytest.fixture
def card(card_dict) -> ModelCard:
    """Voxels of 1 ml; at least 5 ml of the first structure, of the other nothing is known."""
    labels = [card_dict["labels"][0] | {"plausible_ml": [5, 500]}, card_dict["labels"][1]]
    weights = {"file": "model.safetensors", "sha256": "0" * 64}
    changes = {"views": VIEWS, "networks": {"first": {"type": "x"}, "second": {"type": "x"}}, "labels": labels}
    return ModelCard.from_dict(
        card_dict | changes | {"spacing": [10, 10, 10], "missed_below": 0.5, "format": 1, "weights": weights}
    )


def votes(*volumes: tuple[int, int]) -> list[torch.Tensor]:
    """For each view, as many voxels of the first and of the second structure."""
    found = []
    for first, second in volumes:
        vote = torch.zeros(1000, dtype=torch.uint8)
        vote[:first] = 1
        vote[500 : 500 + second] = 2
        found.append(vote.reshape(SHAPE))
    return found


@pytest.mark.parametrize(
    ("volumes", "alone"),
    [
        (((100, 40), (90, 30)), {}),  # they agree, more or less
        (((100, 40), (50, 20)), {}),  # just enough
        (((100, 40), (49, 30)), {(0,): [1]}),
        (((0, 40), (100, 0)), {(1,): [1], (0,): [2]}),
        (((0, 3), (100, 40)), {(1,): [1, 2]}),
        (((0, 0), (4, 0)), {}),  # less than such a structure has
        (((90, 0), (600 - 99, 0)), {}),  # more than such a structure has, and both are heard
        (((0, 0), (0, 0)), {}),
    ],
)
def test_who_finds_less_than_half_is_not_heard(card, volumes, alone):
    assert restrict_fusion(card, card.views, votes(*volumes)) == alone


def test_without_the_cards_wish_and_with_one_view_all_are_heard(card):
    seen = votes((0, 0), (100, 100))
    assert restrict_fusion(replace(card, missed_below=0.0), card.views, seen) == {}
    assert restrict_fusion(card, card.views[1:], seen[1:]) == {}


def test_what_cannot_tell_left_from_right_is_not_fused_alone(card):
    views = (card.views[0], replace(card.views[1], merged=True))
    assert restrict_fusion(card, views, votes((0, 100), (100, 0))) == {(0,): [2]}


def test_what_one_network_overlooks_the_other_finds(card):
    volume = np.zeros(SHAPE, np.float32)
    volume[2:6, 2:6, 2:6] = 1
    volume[7:9, 2:8, 2:8] = 2
    networks = {"first": Painter(1), "second": Painter()}
    heard = []
    found = Predictor(card, networks, CPU).predict(volume, card.views, report=lambda view, done: heard.append(done))
    np.testing.assert_array_equal(found.probabilities.argmax(0).numpy(), volume)
    assert found.probabilities[1][volume == 1].min() > 0.99
    torch.testing.assert_close(found.probabilities.float().sum(0), torch.ones(SHAPE), atol=3e-3, rtol=0)
    assert not (found.votes[0] == 1).any()  # that it overlooked it is not hidden
    assert heard[-1] == 1.0
    plain = Predictor(replace(card, missed_below=0.0), networks, CPU).predict(volume, card.views)
    assert plain.probabilities[1].max() < 0.51
    elsewhere = torch.from_numpy(volume != 1)
    assert torch.equal(found.probabilities[:, elsewhere], plain.probabilities[:, elsewhere])


def test_it_can_be_stopped_while_the_others_are_asked_again(card):
    volume = np.zeros(SHAPE, np.float32)
    volume[2:6, 2:6, 2:6] = 1
    told = []

    def stop(view, done) -> None:
        told.append(done)
        if told.count(1.0) > 2:  # both views were done once
            raise CancelledError("Cancelled.", "")

    with pytest.raises(CancelledError):
        Predictor(card, {"first": Painter(1), "second": Painter()}, CPU).predict(volume, card.views, report=stop)
