"""The pyramid U-Net in three dimensions."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from SESegmentationLib.errors import ModelError
from SESegmentationLib.networks import build_network
from SESegmentationLib.networks.batch_norms import fold_batch_norms
from SESegmentationLib.networks.losses import segmentation_loss
from SESegmentationLib.networks.pyramid import Convolution3d
from SESegmentationLib.networks.se import ConcurrentSE

DESCRIPTION = {"type": "PyramidUNet", "in_channels": 1, "classes": 3, "channels": [4, 8, 8], "se": "scSE"}
LENGTHS = st.integers(1, 11)


def network(**changes) -> nn.Module:
    torch.manual_seed(0)
    return build_network(DESCRIPTION | {"dimensions": 3} | changes)


@given(LENGTHS, LENGTHS, LENGTHS)
@settings(max_examples=40, deadline=None)
def test_any_size_gives_logits_of_that_size(depth, height, width):
    with torch.no_grad():
        logits = network().eval()(torch.zeros(2, 1, depth, height, width))
    assert logits.shape == (2, 3, depth, height, width)


def test_every_se_parameter_has_a_gradient():
    net = network()
    for name, parameter in net.named_parameters():
        if name.endswith("fc1.bias"):
            nn.init.ones_(parameter)  # hidden units that a ReLU silences have no gradient
    volumes = torch.randn(2, 1, 8, 8, 12, generator=torch.Generator().manual_seed(0))
    segmentation_loss(net(volumes), torch.randint(3, (2, 8, 8, 12))).backward()
    blocks = [module for module in net.modules() if isinstance(module, ConcurrentSE)]
    assert len(blocks) == 5
    assert all(parameter.grad.abs().sum() > 0 for block in blocks for parameter in block.parameters())


def test_with_kernels_of_one_slice_the_middle_of_equal_slices_is_that_of_two_dimensions():
    """A volume of equal slices, seen by kernels whose weights are all in their middle slice, is what a slice is."""
    flat, deep = network(dimensions=2).eval(), network().eval()
    weights = {}
    for key, value in flat.state_dict().items():
        wanted = deep.state_dict()[key].shape
        if len(wanted) == 5:
            spread = torch.zeros(wanted) if wanted[2] == 3 else value[:, :, None].expand(wanted)
            if wanted[2] == 3:
                spread[:, :, 1] = value
            value = spread
        weights[key] = value
    deep.load_state_dict(weights)
    image = torch.randn(1, 1, 12, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = flat(image)
        found = deep(image[:, :, None].expand(-1, -1, 8, -1, -1))
    torch.testing.assert_close(found, expected[:, :, None].expand_as(found), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("size", "around"), [(3, 1), ((1, 3, 3), (0, 1, 1))])
@pytest.mark.parametrize("shape", [(1, 4, 5, 6, 7), (1, 4, 6, 6, 7), (1, 4, 2, 6, 7), (2, 4, 6, 6, 7)])
def test_the_convolution_is_pytorchs(shape, size, around, bias):
    """The value and the gradients, whatever library computes them, in halves or not."""
    torch.manual_seed(0)
    own = Convolution3d(4, 6, size, padding=around, bias=bias)
    plain = nn.Conv3d(4, 6, size, padding=around, bias=bias)
    plain.load_state_dict(own.state_dict())
    maps = torch.randn(shape, requires_grad=True)
    found, expected = own(maps), plain(maps)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn_like(found)
    gradients = [
        torch.autograd.grad((out * weights).sum(), [maps, net.weight]) for out, net in ((found, own), (expected, plain))
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_folded_batch_norms_give_the_same():
    net = network().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    volume = torch.randn(1, 1, 8, 8, 8)
    folded = fold_batch_norms(copy.deepcopy(net))
    assert not any(isinstance(module, nn.BatchNorm3d) for module in folded.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(volume), net(volume), atol=1e-4, rtol=1e-4)


def test_other_numbers_of_dimensions_are_refused():
    with pytest.raises(ModelError, match="2 or 3 dimensions"):
        network(dimensions=4)
