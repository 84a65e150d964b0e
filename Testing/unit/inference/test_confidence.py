"""Confidence of structures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from SESegmentationLib.inference.confidence import agreement, confidence, margin


def votes(*rows: list[int]) -> list[torch.Tensor]:
    return [torch.tensor(row, dtype=torch.uint8).reshape(1, 2, -1) for row in rows]


A, B, C = [0, 1, 1, 1, 2, 0], [0, 1, 1, 0, 2, 2], [1, 1, 0, 0, 0, 0]


def test_agreement_is_the_mean_dice_of_pairs_of_views():
    found = agreement(votes(A, B, C), 4)
    expected_1 = np.mean([2 * 2 / (3 + 2), 2 * 1 / (3 + 2), 2 * 1 / (2 + 2)])
    expected_2 = np.mean([2 * 1 / (1 + 2), 0, 0])
    assert found[1:] == pytest.approx([expected_1, expected_2, 0])


def test_views_that_agree_are_trusted():
    assert agreement(votes(A, A), 3) == pytest.approx([1, 1, 1])


def test_more_than_256_classes():
    vote = torch.tensor([0, 299, 299, 5], dtype=torch.int16).reshape(1, 2, 2)
    found = agreement([vote, vote], 300)
    assert found[[0, 5, 299]] == pytest.approx([1, 1, 1])
    assert found[6] == 0


def test_margin_is_the_lead_over_the_next_best_where_a_class_wins():
    probabilities = torch.tensor([[0.7, 0.1, 0.2, 0.1], [0.2, 0.8, 0.5, 0.4], [0.1, 0.1, 0.3, 0.5]])
    found = margin(probabilities.half().reshape(3, 2, 2, 1))
    assert found == pytest.approx([0.5, (0.7 + 0.2) / 2, 0.1], abs=1e-3)
    assert margin(torch.tensor([0.6, 0.4, 0.0]).reshape(3, 1, 1, 1))[1:] == pytest.approx([0, 0])


def test_several_views_are_compared_and_a_single_one_is_measured():
    probabilities = torch.tensor([0.75, 0.25, 0.0]).reshape(3, 1, 1, 1)
    vote = torch.zeros(1, 1, 1, dtype=torch.uint8)
    assert confidence(probabilities, [vote, vote])[0] == pytest.approx(1)
    assert confidence(probabilities, [vote])[0] == pytest.approx(0.5)
