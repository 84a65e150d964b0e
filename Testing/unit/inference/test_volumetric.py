"""Volumetric views: a network that sees all slices at once, in three dimensions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from SESegmentationLib.errors import ModelError, OutOfMemoryError
from SESegmentationLib.inference.engine import _view_names
from SESegmentationLib.inference.predictor import Predictor
from SESegmentationLib.inference.views import PLANE_AXIS
from SESegmentationLib.models import ModelCard
from SESegmentationLib.models.card import View
from SESegmentationLib.networks import build_network

pytestmark = pytest.mark.usefixtures("single_precision")
CPU = torch.device("cpu")
SHAPE = (9, 12, 14)
PLANES = ("axial", "coronal", "sagittal")
DESCRIPTION = {
    "type": "PyramidUNet", "in_channels": 1, "classes": 4, "channels": [4, 8], "se": "scSE", "dimensions": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    return np.random.default_rng(2).random(SHAPE, dtype=np.float32)


def make_card(package, planes=("coronal",), description=DESCRIPTION, **changes) -> ModelCard:
    """Volumetric views of three structures, the first of which is left and the second right."""
    card = package.card.to_dict()
    labels = [card["labels"][0] | {"value": value, "name": name} for value, name in enumerate("abc", start=1)]
    views = [{"plane": plane, "weight": 1.0, "network": "net", "volumetric": True, **changes} for plane in planes]
    entries = {"views": views, "networks": {"net": description}, "labels": labels, "merged_pairs": [[1, 2]]}
    return ModelCard.from_dict(card | entries)


def network() -> nn.Module:
    torch.manual_seed(5)
    return build_network(DESCRIPTION).eval()


def untrained(package, planes=("coronal",), **changes) -> Predictor:
    return Predictor(make_card(package, planes, **changes), {"net": network()}, CPU)


@pytest.mark.parametrize("plane", PLANES)
def test_all_slices_are_seen_at_once(phantom_package, volume, plane):
    axis = PLANE_AXIS[plane]
    with torch.no_grad():
        stack = torch.from_numpy(np.moveaxis(volume, axis, 0).copy())
        expected = network()(stack[None, None])[0].softmax(0).movedim(1, axis + 1)
    model = untrained(phantom_package, [plane])
    found = model.predict(volume, model.views)
    torch.testing.assert_close(found.probabilities.float(), expected, atol=2e-3, rtol=0)
    assert (found.votes[0] == expected.argmax(0)).float().mean() > 0.99


@pytest.mark.parametrize("plane", PLANES)
def test_small_volumes_lie_in_the_middle_of_the_frame_of_training(phantom_package, volume, plane):
    """As for the network itself, when it is given the frame."""
    frame = (18, 20, 16)
    lengths = np.moveaxis(volume, PLANE_AXIS[plane], 0).shape
    before = [(most - length) // 2 for most, length in zip(frame, lengths, strict=True)]
    around = [(one, most - length - one) for one, most, length in zip(before, frame, lengths, strict=True)]
    framed = torch.from_numpy(np.pad(np.moveaxis(volume, PLANE_AXIS[plane], 0), around))
    inside = tuple(slice(one, one + length) for one, length in zip(before, lengths, strict=True))
    with torch.no_grad():
        expected = network()(framed[None, None])[0].softmax(0)[(slice(None), *inside)].movedim(1, PLANE_AXIS[plane] + 1)
    model = untrained(phantom_package, [plane], size=list(frame))
    torch.testing.assert_close(model.predict(volume, model.views).probabilities.float(), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("plane", PLANES)
def test_a_mirrored_volume_gives_the_mirrored_result_with_the_sides_changed(phantom_package, volume, plane):
    other = volume[..., ::-1].copy()
    plain, model = untrained(phantom_package, [plane]), untrained(phantom_package, [plane], mirrored=True)
    seen = model.predict(volume, model.views).probabilities
    alone = plain.predict(volume, plain.views).probabilities
    turned = plain.predict(other, plain.views).probabilities.flip(-1)[[0, 2, 1, 3]]
    assert (turned - alone).abs().max() > 1e-2, "an untrained network is not symmetrical by itself"
    torch.testing.assert_close((alone + turned) / 2, seen, atol=2e-3, rtol=0)
    torch.testing.assert_close(
        model.predict(other, model.views).probabilities.flip(-1)[[0, 2, 1, 3]], seen, atol=2e-3, rtol=0
    )


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("plane", PLANES)
def test_the_gates_lie_where_the_volume_is(phantom_package, volume, plane, mirrored):
    """The gates of the mirror image are the mirror image of the gates; every view's gates are those of the network."""
    model = untrained(phantom_package, [plane], mirrored=mirrored, size=[16, 16, 16])
    gates = model.gates(volume, model.views)
    assert gates.shape == SHAPE
    assert gates.std() > 0
    turned = model.gates(volume[..., ::-1].copy(), model.views)[..., ::-1]
    assert np.allclose(gates, turned, atol=1e-5) == mirrored


def test_finding_structures_looks_once(phantom_package, volume, monkeypatch):
    model = untrained(phantom_package)
    whole = model.predict(volume, model.views).probabilities.argmax(0) > 0
    calls = []
    monkeypatch.setattr(
        model, "_softmax", lambda *args, **options: calls.append(1) or Predictor._softmax(model, *args, **options)
    )
    assert (model.find(volume, 4) == whole[:, 2::4].numpy()).mean() > 0.99
    assert len(calls) == 1


def test_what_does_not_fit_into_memory_whole_is_not_tried_in_parts(phantom_package, volume):
    class Full(nn.Module):
        in_channels, classes, dimensions, calls = 1, 4, 3, 0

        def forward(self, maps):
            self.calls += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")

    full = Full()
    model = Predictor(make_card(phantom_package), {"net": full}, CPU)
    with pytest.raises(OutOfMemoryError) as raised:
        model.predict(volume, model.views)
    assert "volume does not fit" in raised.value.cause
    assert full.calls == 1


def test_a_network_of_slices_is_refused_for_a_volumetric_view_and_the_reverse(phantom_package):
    flat = DESCRIPTION | {"dimensions": 2}
    with pytest.raises(ModelError, match="2 dimensions"):
        Predictor(make_card(phantom_package, description=flat), {"net": build_network(flat)}, CPU)
    card = make_card(phantom_package)
    card = replace(card, views=tuple(replace(view, volumetric=False) for view in card.views))
    with pytest.raises(ModelError, match="3 dimensions"):
        Predictor(card, {"net": network()}, CPU)


def test_progress_calls_each_network_by_what_it_sees(phantom_package):
    views = make_card(phantom_package, ("coronal", "coronal")).views
    assert _view_names(views) == ["volume 1", "volume 2"]
    assert _view_names([*views[:1], replace(views[0], volumetric=False)]) == ["volume", "coronal"]


def test_the_card_says_whether_a_view_is_volumetric():
    entry = {"plane": "coronal", "weight": 1.0, "network": "net", "thickness": 1, "merged": False}
    volumetric = entry | {"volumetric": True, "size": [48, 40, 32]}
    assert View.from_dict(volumetric).to_dict() == volumetric
    assert View.from_dict(entry | {"volumetric": False}).to_dict() == entry
    for wrong in ({"thickness": 3}, {"size": [40, 40]}, {"volumetric": 1}):
        with pytest.raises(ModelError):
            View.from_dict(volumetric | wrong)
    with pytest.raises(ModelError):
        View.from_dict(entry | {"size": [48, 40, 40]})
