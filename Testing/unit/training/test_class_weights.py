"""Weights of classes in the cross-entropy, and how a classifier is freed of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from SESegmentationLib.networks.losses import median_frequency_weights
from SESegmentationTraining.train import without_class_weights


@pytest.mark.parametrize("exponent", [0.25, 1.0])
def test_a_classifier_that_was_trained_with_weights_says_probabilities_without_them(exponent):
    true = torch.tensor([0.7, 0.25, 0.05])  # of the classes where nothing can be told from the image
    counts = torch.tensor([7000, 2500, 500])
    weights = median_frequency_weights(counts) ** exponent
    bias = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.LBFGS([bias], max_iter=100)

    def closure():
        optimizer.zero_grad()
        loss = -(weights * true * F.log_softmax(bias, dim=0)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    freed = without_class_weights({"classifier.bias": bias.detach()}, counts, exponent)["classifier.bias"]
    assert not torch.allclose(bias.softmax(0), true, atol=0.02)
    assert torch.allclose(freed.softmax(0), true, atol=1e-3)


def test_nothing_else_changes():
    weights = {"classifier.bias": torch.randn(3), "classifier.weight": torch.randn(3, 2, 1, 1)}
    same = without_class_weights(weights, torch.tensor([5, 3, 2]), 0.0)
    freed = without_class_weights(weights, torch.tensor([5, 3, 2]), 0.5)
    assert torch.equal(same["classifier.bias"], weights["classifier.bias"])
    assert torch.equal(freed["classifier.weight"], weights["classifier.weight"])


def test_a_class_that_the_training_did_not_show_keeps_its_bias():
    freed = without_class_weights({"classifier.bias": torch.zeros(4)}, torch.tensor([1000, 50, 20, 0]), 1.0)
    assert freed["classifier.bias"][3] == 0
