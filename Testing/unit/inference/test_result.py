"""What a result says of itself."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationLib.errors import ModelError
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.result import SegmentationResult


@pytest.fixture(scope="module")
def result(phantom_package, make_phantom):
    """Of a phantom whose right half is empty."""
    image, truth = make_phantom()
    array = sitk.GetArrayFromImage(image)
    array[:, :, array.shape[2] // 2 :] = 0
    half = sitk.GetImageFromArray(array)
    half.CopyInformation(image)
    return Engine(phantom_package, device="cpu").segment(half)


def test_every_structure_is_listed_found_or_not(result, phantom_package):
    assert [structure.label for structure in result.structures] == list(phantom_package.card.labels)
    found, missing = result.structures
    assert found.voxels > 1000
    assert found.volume_ml == pytest.approx(found.voxels / 1000)
    assert 0.9 < found.confidence <= 1
    assert (missing.voxels, missing.volume_ml, missing.confidence) == (0, 0, 0)
    assert np.isnan(missing.centre_lps).all()


def test_what_was_noticed_is_a_message_and_its_consequence(result):
    (finding,) = [finding for finding in result.findings if finding.code == "not-found"]
    assert finding.message == "Not found: right hippocampus."
    assert finding.consequence.endswith(".")


def test_how_it_came_about(result, phantom_package):
    assert result.model is phantom_package.card
    assert result.device == "cpu"
    assert list(result.timings) == ["prepare", "axial", "coronal", "sagittal", "restore", "measure"]
    assert min(result.timings.values()) >= 0


def test_it_does_not_change(result):
    with pytest.raises(FrozenInstanceError):
        result.device = "cuda"


@pytest.mark.parametrize("key", ["structures", "timings", "findings", "model", "device"])
@pytest.mark.parametrize("value", [None, 7, [7]])
def test_what_is_no_result_is_refused(result, key, value):
    with pytest.raises(ModelError, match="The (result|model card) is damaged"):
        SegmentationResult.from_dict(result.to_dict() | {key: value}, result.labels)
