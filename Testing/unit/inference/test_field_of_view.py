"""Networks see as much of the surroundings as in training: small slices are padded, heads cropped to the brain."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from SESegmentationLib.inference.crops import FOCUS_STEP, CropPlanner
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.inference.predictor import Predictor
from SESegmentationLib.inference.roi import box_of_pieces
from SESegmentationLib.models import ModelCard
from SESegmentationLib.networks import build_network

pytestmark = pytest.mark.usefixtures("single_precision")
CPU = torch.device("cpu")
SIZE = (24, 32)


def recalibrating(package, size):
    """A predictor with an untrained scSE network, whose channel gates depend on the whole slice."""
    description = {"type": "PyramidUNet", "in_channels": 3, "classes": 3, "channels": [4, 8], "se": "scSE"}
    view = {"plane": "axial", "weight": 1.0, "network": "axial", "thickness": 3}
    entries = {"views": [view | ({"size": list(size)} if size else {})], "networks": {"axial": description}}
    card = ModelCard.from_dict(package.card.to_dict() | entries)
    torch.manual_seed(5)
    return Predictor(card, {"axial": build_network(description).eval()}, CPU)


@pytest.mark.parametrize("shape", [(6, 16, 20), (6, 11, 13), (6, 24, 20), (6, 30, 13)])
def test_a_small_slice_is_seen_as_in_the_middle_of_a_slice_of_the_training(phantom_package, shape):
    volume = np.random.default_rng(2).random(shape, dtype=np.float32)
    model = recalibrating(phantom_package, SIZE)
    padded = model.predict(volume, model.views).probabilities
    missing = [max(least - length, 0) for least, length in zip(SIZE, shape[1:], strict=True)]
    before = [length // 2 for length in missing]
    sides = [(one, both - one) for one, both in zip(before, missing, strict=True)]
    whole = model.predict(np.pad(volume, [(0, 0), *sides]), model.views).probabilities
    inside = tuple(slice(one, one + length) for one, length in zip(before, shape[1:], strict=True))
    torch.testing.assert_close(padded, whole[(slice(None), slice(None), *inside)], atol=2e-3, rtol=0)
    plain = recalibrating(phantom_package, None)
    assert (plain.predict(volume, plain.views).probabilities - padded).abs().max() > 5e-3


def test_a_large_slice_is_not_changed(phantom_package):
    volume = np.random.default_rng(2).random((4, 26, 36), dtype=np.float32)
    probabilities = [
        model.predict(volume, model.views).probabilities
        for model in (recalibrating(phantom_package, SIZE), recalibrating(phantom_package, None))
    ]
    assert torch.equal(*probabilities)


def test_the_box_of_large_pieces_leaves_islands_out():
    mask = np.zeros((10, 20, 30), bool)
    mask[2:5, 4:9, 6:16] = True  # 150 voxels
    mask[7, 12:16, 20:25] = True  # 20 of them: more than a tenth
    mask[9, 19, 29] = True
    assert box_of_pieces(mask, (5, 1, 1), (3, 2, 0), (50, 20, 30)) == np.s_[7:43, 2:18, 6:25]
    assert box_of_pieces(np.zeros((3, 3, 3), bool), (1, 1, 1), (1, 1, 1), (3, 3, 3)) is None


def test_a_head_is_looked_at_round_what_a_quick_look_finds(make_package, make_phantom, dice, monkeypatch):
    package = make_package(input={"kind": "head"}, margin_mm=6.0)
    image, truth = make_phantom(extent_mm=(130.0, 110.0, 120.0))
    whole = Engine(package, device="cpu")
    monkeypatch.setattr(CropPlanner, "_focused", lambda self, box, predictor: box)
    expected = sitk.GetArrayFromImage(whole.segment(image).labels)
    monkeypatch.undo()
    seen = []

    def predict(self, volume, *arguments, original=Predictor.predict, **options):
        seen.append(volume.shape)
        return original(self, volume, *arguments, **options)

    monkeypatch.setattr(Predictor, "predict", predict)
    labels = sitk.GetArrayFromImage(Engine(package, device="cpu").segment(image).labels)
    ((k, j, i),) = seen
    extents = [np.ptp(np.argwhere(truth)[:, axis]) + 1 for axis in range(3)]
    for length, extent in zip((k, j, i), extents, strict=True):
        assert extent + 8 <= length <= extent + 12 + 2 * FOCUS_STEP
    assert dice(labels > 0, expected > 0) >= 0.999  # this network takes the middle of its columns for the midline


def test_where_a_quick_look_finds_nothing_all_is_looked_at(make_package, make_phantom, monkeypatch):
    package = make_package(input={"kind": "head"})
    image, _ = make_phantom()
    monkeypatch.setattr(Predictor, "find", lambda self, volume, step: np.zeros((2, 2, 2), bool))
    result = Engine(package, device="cpu").segment(image)
    assert all(structure.voxels for structure in result.structures)
