"""The most doubtful slices of each structure, on axes that all differ in length."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationLib.inference.output_checks import NEARBY_VOXELS, with_doubtful_slices
from SESegmentationLib.models import ModelPackage
from SESegmentationLib.result import SegmentationResult, StructureResult


@pytest.fixture
def make_result(tiny_model):
    card = ModelPackage.from_folder(tiny_model).card

    def make(labels: np.ndarray, doubt: np.ndarray | None) -> SegmentationResult:
        structures = [StructureResult(label, 1, 0.0, 0.0, (0.0,) * 3) for label in card.labels]
        doubt = None if doubt is None else sitk.GetImageFromArray(doubt.astype(np.float32))
        return SegmentationResult(sitk.GetImageFromArray(labels), structures, {}, [], card, "cpu", doubt)

    return make


def blocks() -> np.ndarray:
    labels = np.zeros((14, 20, 26), np.uint8)
    labels[3:8, 4:10, 5:12] = 1
    labels[3:8, 4:10, 16:24] = 2
    return labels


def test_each_structure_has_its_own(make_result):
    doubt = np.full((14, 20, 26), 0.01)
    doubt[5, 6, 7] = doubt[6, 9, 20] = 1.0
    result = with_doubtful_slices(make_result(blocks(), doubt))
    assert [structure.doubtful for structure in result.structures] == [(7, 6, 5), (20, 9, 6)]


def test_doubt_beside_a_structure_counts_and_further_away_does_not(make_result):
    doubt = np.zeros((14, 20, 26))
    doubt[8 + NEARBY_VOXELS - 1, 5, 6] = 0.5
    doubt[8 + NEARBY_VOXELS, 9, 11] = 0.9
    result = with_doubtful_slices(make_result(blocks(), doubt))
    assert result.structures[0].doubtful == (6, 5, 8 + NEARBY_VOXELS - 1)


def test_without_any_doubt_it_is_the_middle(make_result):
    result = with_doubtful_slices(make_result(blocks(), np.zeros((14, 20, 26))))
    assert result.structures[0].doubtful == (8, 7, 5)


def test_at_the_edge_absent_or_not_asked_for(make_result):
    labels = np.zeros((6, 7, 8), np.uint8)
    labels[5, 6, 7] = 1
    doubt = labels * 0.5
    result = with_doubtful_slices(make_result(labels, doubt))
    assert [structure.doubtful for structure in result.structures] == [(7, 6, 5), None]
    result = make_result(labels, None)
    assert with_doubtful_slices(result) is result
