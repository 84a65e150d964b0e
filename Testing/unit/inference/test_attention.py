"""What the networks looked at: the gates of their last decoders, on the input's grid, and nothing in between."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from safetensors.torch import save_file

from SESegmentationLib.errors import CancelledError, UsageError
from SESegmentationLib.inference.attention import attention_map
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.inference.intensity import normalise
from SESegmentationLib.models import ModelPackage, write_package
from SESegmentationLib.models.labels import LEFT, RIGHT, structure_label
from SESegmentationLib.networks import build_network
from SESegmentationLib.networks.se import recorded_gates, spatial_gate
from SESegmentationLib.networks.weights import load_networks
from SESegmentationLib.result import SegmentOptions


@pytest.fixture
def make_model(tmp_path, card_dict):
    """Function that makes a package with random weights: its networks' description is changed, then its card."""

    def make(network=None, **changes):
        card = card_dict | changes
        card["networks"] = {name: entry | (network or {}) for name, entry in card["networks"].items()}
        torch.manual_seed(5)
        tensors = {
            # gates with random weights are all but the same everywhere
            f"{name}.{key}": (20 * value if key.endswith("conv.weight") and len(value) == 1 else value).contiguous()
            for name, description in card["networks"].items()
            for key, value in build_network(description).state_dict().items()
        }
        save_file(tensors, tmp_path / "tensors")
        return write_package(tmp_path / "model", card, tmp_path / "tensors")

    return make


@pytest.fixture
def volume():
    """13 x 11 x 9 voxels of noise on the model's own grid, in RAS order."""
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(100, 20, (9, 11, 13)).astype(np.float32))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    image.SetOrigin((3, 5, 7))
    return image


def axial_gates(package: ModelPackage, image: sitk.Image) -> np.ndarray:
    """The gates of the axial network (k, j, i), from the input of its last SE block, slice by slice."""
    network = load_networks(package)["axial"]
    array = torch.from_numpy(normalise(sitk.GetArrayFromImage(image), package.card.intensity))
    slices = torch.cat([array[:1], array, array[-1:]])
    seen = []
    hook = network.last_se.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for k in range(len(array)):
            network(slices[None, k : k + 3])
    hook.remove()
    convolution = getattr(network.last_se, "sSE", network.last_se).conv
    with torch.no_grad():
        gates = torch.cat([torch.sigmoid(convolution(maps))[:, 0] for maps in seen])
    return gates[:, : array.shape[1], : array.shape[2]].numpy()


AXIAL = [{"plane": "axial", "weight": 1.0, "network": "axial", "thickness": 3}]


@pytest.mark.parametrize("se", ["scSE", "sSE"])
@pytest.mark.parametrize("kind", ["PyramidUNet", "UNet"])
def test_it_is_the_gate_of_the_last_decoder(make_model, volume, se, kind):
    network = {"type": kind, "se": se}
    if kind == "UNet":
        network |= {"channels": 6, "blocks": 2, "kernel": 3}
    package = make_model(network, views=AXIAL)
    attention = attention_map(Engine(package, "cpu"), volume)
    assert attention.GetSize() == volume.GetSize() and attention.GetOrigin() == volume.GetOrigin()
    got = sitk.GetArrayFromImage(attention)
    # on some processors networks run in half precision
    assert got.dtype == np.float32 and np.abs(got - axial_gates(package, volume)).mean() < 0.02
    assert got.std() > 0.05


def test_it_is_the_mean_over_the_views_and_fast_takes_one(make_model, volume):
    views = [{"plane": "axial", "weight": weight, "network": "axial", "thickness": 3} for weight in (1.0, 3.0)]
    views.append({"plane": "coronal", "weight": 4.0, "network": "coronal", "thickness": 3})
    package = make_model(views=views)
    engine = Engine(package, "cpu")
    maps = {
        fast: sitk.GetArrayFromImage(attention_map(engine, volume, SegmentOptions(fast=fast))) for fast in (False, True)
    }
    # half of the weight is the axial network's, the other half the coronal one's, which fast takes alone
    assert np.abs(2 * maps[False] - maps[True] - axial_gates(package, volume)).mean() < 0.02
    low = sitk.GetArrayFromImage(attention_map(engine, volume, SegmentOptions(low_memory=True)))
    assert np.abs(low - maps[False]).mean() < 0.02


def test_a_mirrored_view_gives_the_mirror_image_for_the_mirror_image(make_model, volume):
    labels = [structure_label(1, "hippocampus", LEFT), structure_label(2, "hippocampus", RIGHT)]
    entries = {"labels": [label.to_dict() for label in labels], "merged_pairs": [[1, 2]]}
    engine = Engine(make_model(views=[AXIAL[0] | {"mirrored": True, "size": [20, 24]}], **entries), "cpu")
    mirrored = sitk.Flip(volume, (True, False, False))
    mirrored.CopyInformation(volume)
    there, back = (sitk.GetArrayFromImage(attention_map(engine, image)) for image in (volume, mirrored))
    assert np.abs(there - back[..., ::-1]).mean() < 0.02 < there.std()


def test_it_comes_back_to_the_inputs_grid(make_model, volume):
    engine = Engine(make_model(views=AXIAL), "cpu")
    plain = sitk.GetArrayFromImage(attention_map(engine, volume))
    turned = attention_map(engine, sitk.PermuteAxes(sitk.Flip(volume, (False, True, True)), (2, 0, 1)))
    back = sitk.Flip(sitk.PermuteAxes(turned, (1, 2, 0)), (False, True, True))
    assert np.abs(sitk.GetArrayFromImage(back) - plain).mean() < 0.02 < plain.std()
    fine = sitk.Resample(volume, (25, 21, 17), sitk.Transform(), sitk.sitkLinear, volume.GetOrigin(), (0.5,) * 3,
                         volume.GetDirection())  # fmt: skip
    coarse = sitk.GetArrayFromImage(attention_map(engine, fine))
    assert coarse.shape == (17, 21, 25) and 0 < coarse.min() < coarse.max() < 1


def test_outside_a_region_it_is_zero(make_model, volume):
    roi = sitk.Image(volume.GetSize(), sitk.sitkUInt8)
    roi.CopyInformation(volume)
    roi[3:9, 2:8, 2:7] = 1
    attention = sitk.GetArrayFromImage(
        attention_map(Engine(make_model(views=AXIAL), "cpu"), volume, SegmentOptions(roi=roi))
    )
    inside = sitk.GetArrayFromImage(roi) > 0
    assert (attention[inside] > 0).all() and not attention[~inside].any()


@pytest.mark.parametrize("network", [{"se": None}, {"se": "cSE"}, {"positions": ["encoder"]}])
def test_networks_without_such_a_gate_say_so(make_model, volume, network):
    with pytest.raises(UsageError, match="have no spatial gate") as caught:
        attention_map(Engine(make_model(network), "cpu"), volume)
    assert "sSE or scSE" in caught.value.remedy


def test_nothing_of_it_stays_behind(make_model, volume):
    engine = Engine(make_model(), "cpu")
    before = sitk.GetArrayFromImage(engine.segment(volume, SegmentOptions(doubt=True)).doubt)
    told = []
    attention_map(engine, volume, progress=lambda *progress: told.append(progress))
    assert (sitk.GetArrayFromImage(engine.segment(volume, SegmentOptions(doubt=True)).doubt) == before).all()
    fractions = [fraction for _, fraction, _ in told]
    assert np.diff(fractions).min() > -1e-9 and fractions[-1] == 1

    def stop(phase, fraction, seconds_left):
        if phase == "look":
            raise CancelledError("enough", "")

    with pytest.raises(CancelledError):
        attention_map(engine, volume, progress=stop)
    for network in engine.predictor._networks.values():
        assert not any(module._forward_hooks for module in network.modules())


def test_gates_are_recorded_only_meanwhile(make_model):
    network = load_networks(make_model())["axial"]
    block, slices = spatial_gate(network), torch.zeros(2, 3, 8, 8)
    with recorded_gates(block) as gates:
        network(slices)
    network(slices)
    assert [tuple(gate.shape) for gate in gates] == [(2, 1, 8, 8)]
