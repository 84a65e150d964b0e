"""SE blocks: closed forms, other people's implementations, and the known faults of those."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.blocks import ChannelSELayer
from torch import Tensor, nn

from SESegmentationLib.networks.se import AGGREGATIONS, ChannelSE, ConcurrentSE, SpatialSE, build_se

#: image sizes in two and three dimensions
SPACES = [(7, 5), (4, 3, 6)]


def maps_of(space: tuple[int, ...], channels: int = 8, seed: int = 0) -> Tensor:
    """Feature maps (3, channels, *space) of either sign."""
    return torch.randn(3, channels, *space, generator=torch.Generator().manual_seed(seed))


def join(by_channel: Tensor, by_position: Tensor, aggregation: str) -> Tensor:
    """The paper's aggregations, written down once more."""
    if aggregation == "concat":
        return torch.cat([by_channel, by_position], dim=1)
    return {"max": torch.maximum, "add": torch.add, "mul": torch.mul}[aggregation](by_channel, by_position)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("max", lambda u: 0.5 * u),
        ("add", lambda u: u),
        ("mul", lambda u: 0.25 * u**2),
        ("concat", lambda u: torch.cat([0.5 * u, 0.5 * u], dim=1)),
    ],
)
def test_without_weights_all_gates_are_a_half(space, aggregation, expected):
    block = ConcurrentSE(8, aggregation=aggregation, dimensions=len(space))
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    maps = maps_of(space)
    torch.testing.assert_close(block(maps), expected(maps))
    assert block(maps).shape[1] == block.out_channels


@pytest.mark.parametrize("space", SPACES)
def test_the_channel_branch_is_the_papers_equation(space):
    block = ChannelSE(8, reduction=4)
    maps = maps_of(space)
    squeezed = maps.flatten(2).mean(-1)
    hidden = (squeezed @ block.fc1.weight.T + block.fc1.bias).clamp(min=0)
    gates = 1 / (1 + torch.exp(-(hidden @ block.fc2.weight.T + block.fc2.bias)))
    torch.testing.assert_close(block(maps), torch.einsum("nc...,nc->nc...", maps, gates))


@pytest.mark.parametrize("space", SPACES)
def test_the_spatial_branch_is_the_papers_equation(space):
    block = SpatialSE(8, dimensions=len(space))
    maps = maps_of(space)
    gates = 1 / (1 + torch.exp(-(torch.einsum("nc...,c->n...", maps, block.conv.weight.flatten()) + block.conv.bias)))
    torch.testing.assert_close(block(maps), torch.einsum("nc...,n...->nc...", maps, gates))
    torch.testing.assert_close(block.gate(maps), gates[:, None])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), aggregation=st.sampled_from(AGGREGATIONS), space=st.sampled_from(SPACES))
def test_aggregations_join_the_recalibrated_maps(seed, aggregation, space):
    torch.manual_seed(seed)
    block = ConcurrentSE(8, aggregation=aggregation, dimensions=len(space))
    maps = maps_of(space, seed=seed)
    torch.testing.assert_close(block(maps), join(block.cSE(maps), block.sSE(maps), aggregation))


def test_the_maximum_is_of_maps_and_not_of_gates():
    """For negative activations the smaller gate gives the larger map."""
    torch.manual_seed(0)
    block = ConcurrentSE(8, aggregation="max")
    maps = -maps_of((7, 5)).abs() - 0.1
    of_gates = maps * torch.maximum(block.cSE.gate(maps), block.sSE.gate(maps))
    result = block(maps)
    assert (result >= of_gates).all()
    assert (result > of_gates + 1e-6).float().mean() > 0.9
    torch.testing.assert_close(result, maps * torch.minimum(block.cSE.gate(maps), block.sSE.gate(maps)))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_after_a_relu_the_faster_maximum_is_the_same_to_the_last_bit(precision, dimensions):
    torch.manual_seed(4)
    plain = ConcurrentSE(8, dimensions=dimensions).to(precision)
    fast = ConcurrentSE(8, dimensions=dimensions, rectified=True).to(precision)
    fast.load_state_dict(plain.state_dict())
    maps = torch.relu(torch.randn(2, 8, *(6, 7, 5)[:dimensions])).to(precision)
    with torch.inference_mode():
        assert torch.equal(fast(maps), plain(maps))


def test_the_gradient_of_the_maximum_is_pytorchs():
    torch.manual_seed(0)
    block = ConcurrentSE(8, aggregation="max").double()
    parameters = list(block.parameters())
    maps = maps_of((7, 5)).double().requires_grad_()
    weights = maps_of((7, 5), seed=1).double()
    ours = torch.autograd.grad((block(maps) * weights).sum(), [maps, *parameters])
    reference = (torch.maximum(block.cSE(maps), block.sSE(maps)) * weights).sum()
    for gradient, expected in zip(ours, torch.autograd.grad(reference, [maps, *parameters]), strict=True):
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_every_parameter_has_a_gradient(space, aggregation):
    torch.manual_seed(0)
    block = ConcurrentSE(8, aggregation=aggregation, dimensions=len(space))
    nn.init.ones_(block.cSE.fc1.bias)  # hidden units that a ReLU silences have none
    (block(maps_of(space)) ** 2).sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("reduction", [1, 2, 4, 8, 16, 64])
def test_reduction_divides_the_hidden_units(reduction):
    """The reduction r is no constant: 2 C^2 / r + C weights; a hidden unit remains however large r is."""
    channels = 16
    block = build_se("scSE", channels, reduction)
    hidden = max(channels // reduction, 1)
    assert block.cSE.fc1.weight.shape == (hidden, channels)
    assert block.cSE.fc2.weight.shape == (channels, hidden)
    weights = sum(p.numel() for name, p in block.named_parameters() if name.endswith("weight"))
    assert weights == 2 * channels * hidden + channels
    assert block(maps_of((3, 3), channels)).shape == (3, channels, 3, 3)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_weights_of_the_authors_load_by_name(dimensions):
    """Names and shapes as in the authors' code."""
    one = (1,) * dimensions
    shapes = {
        "cSE.fc1.weight": (4, 8),
        "cSE.fc1.bias": (4,),
        "cSE.fc2.weight": (8, 4),
        "cSE.fc2.bias": (8,),
        "sSE.conv.weight": (1, 8, *one),
        "sSE.conv.bias": (1,),
    }
    block = build_se("scSE", 8, dimensions=dimensions)
    block.load_state_dict({name: torch.zeros(shape) for name, shape in shapes.items()}, strict=True)
    assert {name: tuple(tensor.shape) for name, tensor in block.state_dict().items()} == shapes


def test_kinds():
    assert isinstance(build_se(None, 8), nn.Identity)
    assert isinstance(build_se("cSE", 8), ChannelSE)
    assert isinstance(build_se("sSE", 8), SpatialSE)
    assert isinstance(build_se("scSE", 8), ConcurrentSE)
    assert {name: build_se("scSE", 8, aggregation=name).out_channels for name in AGGREGATIONS} == {
        "max": 8, "add": 8, "mul": 8, "concat": 16
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"kind": "SE"}, "cSE, sSE, scSE or None, not 'SE'"),
        ({"kind": "scSE", "aggregation": "mean"}, "max, add, mul, concat, not 'mean'"),
        ({"kind": "cSE", "reduction": 0}, "at least 1, not 0"),
        ({"kind": "scSE", "reduction": -2}, "at least 1, not -2"),
    ],
)
def test_wrong_arguments_are_named(arguments, match):
    with pytest.raises(ValueError, match=match):
        build_se(channels=8, **arguments)


@pytest.mark.parametrize("space", SPACES)
def test_the_channel_branch_is_monais(space):
    torch.manual_seed(0)
    ours = ChannelSE(8, reduction=2)
    theirs = ChannelSELayer(spatial_dims=len(space), in_channels=8, r=2)
    theirs.load_state_dict(
        dict(zip(["fc.0.weight", "fc.0.bias", "fc.2.weight", "fc.2.bias"], ours.state_dict().values(), strict=True))
    )
    maps = maps_of(space)
    assert torch.equal(ours(maps), theirs(maps))


@pytest.fixture(scope="module")
def smp_modules() -> ModuleType:
    """``base/modules.py`` of segmentation_models_pytorch by itself: the whole package needs torchvision and timm."""
    package = importlib.util.find_spec("segmentation_models_pytorch")
    if package is None:
        pytest.skip("needs segmentation-models-pytorch (pip install --no-deps)")
    file = Path(package.submodule_search_locations[0]) / "base" / "modules.py"
    spec = importlib.util.spec_from_file_location("smp_base_modules", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("reduction", [2, 4])
def test_the_block_is_that_of_segmentation_models_pytorch(smp_modules, reduction, aggregation):
    """Theirs adds; the other aggregations are composed from its branches."""
    torch.manual_seed(0)
    ours = ConcurrentSE(8, reduction, aggregation).double()
    theirs = smp_modules.SCSEModule(8, reduction=reduction).double()
    state = ours.state_dict()
    theirs.load_state_dict(
        {
            "cSE.1.weight": state["cSE.fc1.weight"][:, :, None, None],
            "cSE.1.bias": state["cSE.fc1.bias"],
            "cSE.3.weight": state["cSE.fc2.weight"][:, :, None, None],
            "cSE.3.bias": state["cSE.fc2.bias"],
            "sSE.0.weight": state["sSE.conv.weight"],
            "sSE.0.bias": state["sSE.conv.bias"],
        }
    )
    maps = maps_of((7, 5)).double()
    expected = (
        theirs(maps) if aggregation == "add" else join(maps * theirs.cSE(maps), maps * theirs.sSE(maps), aggregation)
    )
    torch.testing.assert_close(ours(maps), expected, rtol=1e-12, atol=1e-14)
