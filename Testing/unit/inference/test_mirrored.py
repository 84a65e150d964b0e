"""Mirrored views: the mean of an image and its mirror image, so that left and right are treated alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from SESegmentationLib.errors import ModelError
from SESegmentationLib.inference.predictor import Predictor
from SESegmentationLib.models import ModelCard
from SESegmentationLib.models.card import View
from SESegmentationLib.networks import build_network

pytestmark = pytest.mark.usefixtures("single_precision")
CPU = torch.device("cpu")
LEFT_AND_RIGHT = [1, 2]


def untrained(package, planes, mirrored, pairs=(LEFT_AND_RIGHT,)):
    """A predictor with random weights; sagittal views merge the sides where there are other views."""
    description = {"type": "PyramidUNet", "in_channels": 3, "classes": 4, "channels": [4, 8], "se": "scSE"}
    card = package.card.to_dict()
    labels = [card["labels"][0] | {"value": value, "name": name} for value, name in enumerate("abc", start=1)]
    views = [
        {
            "plane": plane,
            "weight": 1.0,
            "network": "net",
            "thickness": 3,
            "merged": plane == "sagittal" and len(planes) > 1,
            "mirrored": mirrored,
        }
        for plane in planes
    ]
    entries = {"views": views, "networks": {"net": description}, "labels": labels, "merged_pairs": [*pairs]}
    torch.manual_seed(5)
    return Predictor(ModelCard.from_dict(card | entries), {"net": build_network(description).eval()}, CPU)


@pytest.mark.parametrize("planes", [["axial"], ["coronal"], ["sagittal"], ["axial", "coronal", "sagittal"]])
def test_a_mirrored_volume_gives_the_mirrored_result_with_the_sides_changed(phantom_package, planes):
    volume = np.random.default_rng(2).random((12, 14, 16), dtype=np.float32)
    model = untrained(phantom_package, planes, True)
    seen = model.predict(volume, model.views).probabilities
    other = model.predict(volume[..., ::-1].copy(), model.views).probabilities
    torch.testing.assert_close(other.flip(-1)[[0, 2, 1, 3]], seen, atol=2e-3, rtol=0)
    plain = untrained(phantom_package, planes, False)
    alone = plain.predict(volume, plain.views).probabilities
    turned = plain.predict(volume[..., ::-1].copy(), plain.views).probabilities.flip(-1)[[0, 2, 1, 3]]
    assert (turned - alone).abs().max() > 1e-2, "an untrained network is not symmetrical by itself"
    if len(planes) == 1:
        torch.testing.assert_close((alone + turned) / 2, seen, atol=2e-3, rtol=0)


def test_structures_without_a_side_stay_what_they_are(phantom_package):
    volume = np.random.default_rng(2).random((8, 10, 12), dtype=np.float32)
    model = untrained(phantom_package, ["coronal"], True, pairs=())
    seen = model.predict(volume, model.views).probabilities
    other = model.predict(volume[..., ::-1].copy(), model.views).probabilities
    torch.testing.assert_close(other.flip(-1), seen, atol=2e-3, rtol=0)


def test_the_quickest_view_is_not_mirrored(phantom_package):
    model = untrained(phantom_package, ["axial", "coronal"], True)
    assert all(view.mirrored for view in model.views)
    assert not model.best_view().mirrored


def test_the_card_says_whether_a_view_is_mirrored():
    entry = {"plane": "axial", "weight": 1.0, "network": "net", "thickness": 1, "merged": False}
    assert View.from_dict(entry).to_dict() == entry
    assert View.from_dict(entry | {"mirrored": True}).to_dict() == entry | {"mirrored": True}
    assert View.from_dict(entry | {"mirrored": False}).to_dict() == entry
    with pytest.raises(ModelError):
        View.from_dict(entry | {"mirrored": "yes"})
