"""MR contrasts: drawn as they are listed, in the shares they are given."""

from __future__ import annotations

import numpy as np
import torch

from SESegmentationTraining.synthesis import Contrast, ContrastTable, own_classes

#: background, left and right white matter, left and right cortex, left and right caudate, skull
VALUES = np.array([0, 2, 41, 3, 42, 11, 50, 258])
CLASSES = np.array([0, 1, 1, 2, 2, 2, 2, 3])
PAIRS = [(2, 41), (3, 42), (11, 50)]
T1 = Contrast("T1", 0.5, ((2, 200, 5), (3, 130, 5), (11, 160, 5)), random_rest=0.0)
T2 = Contrast("T2", 0.25, ((2, 70, 5), (3, 90, 5), (11, 80, 5)), random_rest=1.0)


def drawn(count: int = 2000, contrasts=(T1, T2)):
    classes, parents = own_classes(VALUES, CLASSES, [2, 3, 11], PAIRS)
    table = ContrastTable(contrasts, dict(zip(VALUES.tolist(), classes.tolist(), strict=True)), len(parents))
    means = torch.full((count, len(parents)), 17.0)
    spreads = torch.full_like(means, 3.0)
    generator = torch.Generator().manual_seed(0)
    return classes, *table.apply(means, spreads, torch.ones(count, 1), generator)


def test_listed_labels_have_classes_of_their_own_on_both_sides():
    classes, parents = own_classes(VALUES, CLASSES, [3, 11], PAIRS)
    of = dict(zip(VALUES.tolist(), classes.tolist(), strict=True))
    assert of[3] == of[42] != of[11] == of[50]
    assert (of[0], of[2], of[41], of[258]) == (0, 1, 1, 3)
    assert [parents[of[value]] for value in (3, 11, 2)] == [2, 2, 1]


def test_each_contrast_has_its_share_of_the_images():
    classes, means, _ = drawn()
    white, cortex = means[:, classes[1]], means[:, classes[3]]
    left_alone = (white == 17).float().mean()
    assert abs(float(left_alone) - 0.25) < 0.04
    assert abs(float((white > cortex).float().mean()) - 0.5) < 0.04
    assert abs(float((white < cortex).float().mean()) - 0.25) < 0.04


def test_brightness_is_near_what_is_listed_and_the_rest_is_the_priors_or_random():
    classes, means, spreads = drawn()
    bright = means[:, classes[1]] > 150
    assert abs(float(means[bright, classes[5]].mean()) - 160) < 2
    assert abs(float(means[bright, classes[1]].std()) - 5) < 1
    assert (means[bright, classes[7]] == 17).all()
    other = (means[:, classes[1]] != 17) & ~bright
    assert float(means[other, classes[7]].std()) > 50
    assert (spreads[:, classes[7]] == 3).all()


def test_an_exponent_below_one_brings_grey_matter_nearer_to_white_matter():
    windowed = Contrast("T1", 1.0, T1.means, exponents=(0.5, 0.5))
    classes, means, _ = drawn(contrasts=(windowed,))
    ratio = means[:, classes[3]] / means[:, classes[1]]
    assert abs(float(ratio.mean()) - (130 / 200) ** 0.5) < 0.02
