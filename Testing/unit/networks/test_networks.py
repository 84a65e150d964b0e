"""All networks: SE blocks live, distinct and in their places; any size; the template's structure and numbers."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from SESegmentationLib.networks import build_network
from SESegmentationLib.networks.architectures import POSITIONS
from SESegmentationLib.networks.batch_norms import fold_batch_norms
from SESegmentationLib.networks.losses import segmentation_loss
from SESegmentationLib.networks.se import AGGREGATIONS, KINDS

TEMPLATE = ["UNet", "SDNet", "DenseFCN"]
UNPOOLING = ["SDNet", "DenseFCN"]
NETWORKS = [*TEMPLATE, "PyramidUNet"]
#: kind and aggregation, each once
RECALIBRATIONS = [("cSE", "max"), ("sSE", "max"), *[("scSE", aggregation) for aggregation in AGGREGATIONS]]


def slices(height: int = 8, width: int = 12, batch: int = 2, seed: int = 0) -> Tensor:
    """Slices (batch, 2, height, width)."""
    return torch.randn(batch, 2, height, width, generator=torch.Generator().manual_seed(seed))


def with_recalibration(kinds, recalibrations=RECALIBRATIONS):
    """All pairs of network and recalibration that can be built."""
    pairs = itertools.product(kinds, recalibrations)
    return [(kind, *pair) for kind, pair in pairs if (kind, pair[1]) != ("PyramidUNet", "concat")]


def watch(module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """What the module will be given first, and what it will give, at each call."""
    calls = []
    module.register_forward_hook(lambda _, inputs, output: calls.append((inputs[0].clone(), output.clone())))
    return calls


@pytest.mark.parametrize(("kind", "se", "aggregation"), with_recalibration(NETWORKS))
def test_every_se_parameter_has_a_gradient(make_network, se_blocks, kind, se, aggregation):
    """No dead block: one that is built and whose output is not used would have none."""
    positions = [p for p in POSITIONS if (kind, p) != ("PyramidUNet", "classifier")]
    network = make_network(kind, se=se, aggregation=aggregation, positions=positions)
    for name, parameter in network.named_parameters():
        if name.endswith("fc1.bias"):
            nn.init.ones_(parameter)  # hidden units that a ReLU silences have no gradient
    segmentation_loss(network(slices()), torch.randint(3, (2, 8, 12))).backward()
    blocks = se_blocks(network)
    assert len(blocks) == {"PyramidUNet": 5}.get(kind, 6)
    for name, block in blocks.items():
        for parameter, tensor in block.named_parameters():
            assert tensor.grad is not None, f"{name}.{parameter}"
            assert tensor.grad.abs().sum() > 0, f"{name}.{parameter}"


@pytest.mark.parametrize("se", KINDS)
@pytest.mark.parametrize(
    ("kind", "positions", "expected"),
    [
        (kind, positions, expected)
        for kind in NETWORKS
        for positions, expected in (
            (["encoder", "decoder"], 4),
            (["encoder"], 2),
            (["decoder"], 2),
            (["bottleneck"], 1),
            (["classifier"], 1),
        )
        if (kind, positions) != ("PyramidUNet", ["classifier"])
    ],
)
def test_se_blocks_are_distinct_and_called_once(make_network, se_blocks, kind, se, positions, expected):
    network = make_network(kind, se=se, positions=positions).eval()
    blocks = se_blocks(network)
    assert len(blocks) == expected
    assert all(any(part in name for part in positions) for name in blocks)
    assert len({id(block) for block in blocks.values()}) == expected
    tensors = [tensor.data_ptr() for block in blocks.values() for tensor in block.parameters()]
    assert len(set(tensors)) == len(tensors)
    calls = Counter()
    for block in blocks.values():
        for part in block.modules():
            part.register_forward_hook(lambda module, *_: calls.update([module]))
    network(slices())
    assert calls == {part: 1 for block in blocks.values() for part in block.modules()}


@pytest.mark.parametrize("kind", NETWORKS)
def test_without_recalibration_nothing_of_it_remains(make_network, se_blocks, kind):
    network = make_network(kind, se=None)
    assert not se_blocks(network)
    assert network(slices()).shape == (2, 3, 8, 12)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("reduction", [1, 3, 16])
def test_reduction_reaches_every_block(make_network, se_blocks, kind, reduction):
    for block in se_blocks(make_network(kind, reduction=reduction)).values():
        hidden, channels = block.cSE.fc1.weight.shape
        assert hidden == max(channels // reduction, 1)


@pytest.mark.parametrize(("kind", "aggregation"), itertools.product(TEMPLATE, AGGREGATIONS))
def test_skip_and_pooling_take_the_recalibrated_map(make_network, kind, aggregation):
    network = make_network(kind, aggregation=aggregation).eval()
    recalibrated = watch(network.encoders[0].se)
    below, above = watch(network.encoders[1]), watch(network.decoders[1])
    network(slices())
    ((_, maps),) = recalibrated
    assert maps.shape[1] == (12 if aggregation == "concat" else 6)
    assert torch.equal(below[0][0], F.max_pool2d(maps, 2))
    assert torch.equal(above[0][0][:, : maps.shape[1]], maps)


@pytest.mark.parametrize("kind", TEMPLATE)
def test_dropout_follows_the_recalibration(make_network, kind):
    network = make_network(kind, dropout=0.5, channels=32).train()
    recalibrated, skip = watch(network.encoders[0].se), watch(network.decoders[1])
    network(slices())
    given, maps = recalibrated[0]
    kept = skip[0][0][:, :32].abs().sum((2, 3)) > 0
    assert 0.2 < kept.float().mean() < 0.8
    assert (maps.abs().sum((2, 3)) > 0).float().mean() > 0.9
    assert (given.abs().sum((2, 3)) > 0).float().mean() > 0.9
    torch.testing.assert_close(skip[0][0][:, :32][kept], 2 * maps[kept])  # what is kept is doubled


@pytest.mark.parametrize(("kind", "aggregation"), itertools.product(UNPOOLING, AGGREGATIONS))
def test_unpooling_puts_values_where_the_encoders_maxima_were(make_network, randomise, kind, aggregation):
    network = randomise(make_network(kind, aggregation=aggregation))
    encoders = [watch(encoder) for encoder in network.encoders]
    upsamplings = [watch(upsampling) for upsampling in network.upsamplings]
    fits = [watch(upsampling.fit) for upsampling in network.upsamplings]
    network(slices())
    for encoder, upsampling, fit in zip(reversed(encoders), upsamplings, fits, strict=True):
        maps, grown, small = encoder[0][1], upsampling[0][1], fit[0][1]
        windows = maps.unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2)
        unique = windows.sort(-1).values.diff(dim=-1)[..., -1] > 0  # where a ReLU made ties, any place is right
        winner = F.one_hot(windows.argmax(-1), 4).bool()
        values = grown.unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2)
        assert unique.float().mean() > 0.3
        torch.testing.assert_close(values[winner & unique[..., None]], small[unique])
        assert not values[~winner & unique[..., None]].any()
        torch.testing.assert_close(values.sum(-1), small)


@pytest.mark.parametrize(
    ("kind", "block", "bottleneck"),
    [
        ("UNet", "Conv2d BatchNorm2d ReLU Conv2d BatchNorm2d ReLU", "Conv2d BatchNorm2d ReLU"),
        ("SDNet", "Conv2d BatchNorm2d ReLU", "Conv2d BatchNorm2d ReLU"),
        ("DenseFCN", " ".join(["BatchNorm2d ReLU Conv2d"] * 3), "Conv2d BatchNorm2d"),
    ],
)
def test_layers_stand_in_the_papers_order(make_network, kind, block, bottleneck):
    def order(module):
        return " ".join(type(layer).__name__ for layer in module.layers.modules() if not list(layer.children()))

    network = make_network(kind)
    assert [order(module) for module in (*network.encoders, *network.decoders)] == [block] * 4
    assert order(network.bottleneck) == bottleneck


def test_dense_layers_append_to_what_they_get(make_network, randomise):
    network = randomise(make_network("DenseFCN"))
    first, second, norm = (watch(layer) for layer in network.encoders[1].layers[:3])
    network(slices())
    maps, once = first[0]
    twice = second[0][1]
    assert (maps.shape[1], once.shape[1], twice.shape[1]) == (6, 12, 18)
    assert torch.equal(once[:, :6], maps)
    assert torch.equal(twice[:, :12], once)
    assert torch.equal(norm[0][0], twice)
    assert once[:, 6:].std() > 0
    assert twice[:, 12:].std() > 0


def test_the_unet_grows_by_transposed_convolutions(make_network):
    network = make_network("UNet")
    assert [tuple(up.weight.shape) for up in network.upsamplings] == [(6, 6, 2, 2)] * 2


@pytest.mark.parametrize("kind", UNPOOLING)
@pytest.mark.parametrize(
    ("positions", "fitted"),
    [(["encoder", "decoder"], 1), (["encoder"], 2), (["decoder"], 1), (["encoder", "decoder", "bottleneck"], 0)],
)
def test_channels_are_fitted_only_where_concatenation_makes_them_differ(make_network, kind, positions, fitted):
    network = make_network(kind, aggregation="concat", positions=positions)
    assert sum(isinstance(up.fit, nn.Conv2d) for up in network.upsamplings) == fitted
    assert network(slices()).shape == (2, 3, 8, 12)
    for aggregation in ("max", "add", "mul"):
        network = make_network(kind, aggregation=aggregation, positions=positions)
        assert all(isinstance(up.fit, nn.Identity) for up in network.upsamplings)


@pytest.mark.parametrize("kind", NETWORKS)
@settings(max_examples=10, deadline=None)
@given(height=st.integers(1, 37), width=st.integers(1, 37))
def test_any_size_is_padded_and_cropped(make_network, kind, height, width):
    network = make_network(kind).eval()
    images = slices(height, width, batch=1)
    with torch.no_grad():
        logits = network(images)
        whole = network(F.pad(images, (0, -width % 4, 0, -height % 4)))
    assert network.stride == 4
    assert logits.shape == (1, 3, height, width)
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits, whole[..., :height, :width])


@pytest.mark.parametrize("kind", TEMPLATE)
def test_shapes_follow_the_arguments(make_network, kind):
    network = make_network(kind, in_channels=5, classes=7, blocks=3, kernel=[7, 3])
    assert (network.in_channels, network.classes, network.stride) == (5, 7, 8)
    kernels = {m.kernel_size for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)}
    assert kernels == {(7, 3)}
    assert network(torch.randn(2, 5, 16, 11)).shape == (2, 7, 16, 11)


@pytest.mark.parametrize("kind", TEMPLATE)
def test_blocks_are_he_initialised(kind):
    """Standard deviation sqrt(2 / fan-in); the gates keep PyTorch's bounds of 1 / sqrt(fan-in)."""
    torch.manual_seed(0)
    network = build_network({"type": kind, "channels": 32, "blocks": 2})
    blocks = [*network.encoders, network.bottleneck, *network.decoders]
    convolutions = [m for block in blocks for m in block.layers.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == {"UNet": 9, "SDNet": 5, "DenseFCN": 13}[kind]
    for layer in convolutions:
        assert float(layer.weight.detach().std() * (layer.weight[0].numel() / 2) ** 0.5) == pytest.approx(1.0, abs=0.1)
    gate = network.encoders[0].se.sSE.conv.weight
    assert gate.abs().max() <= 32**-0.5


@pytest.mark.parametrize("kind", TEMPLATE)
def test_scse_adds_the_published_number_of_weights(kind):
    """Sum over 8 blocks of 2 C^2 / r + C, C = 64, r = 2; with biases C / r + C + 1 more for each."""
    plain, full = (
        dict(build_network({"type": kind, "se": se}).named_parameters()) for se in (None, "scSE")
    )  # fmt: skip
    added = {name: tensor for name, tensor in full.items() if name not in plain}
    assert sum(tensor.numel() for name, tensor in added.items() if name.endswith("weight")) == 33_280
    assert sum(tensor.numel() for tensor in added.values()) == 34_056
    assert all(full[name].shape == tensor.shape for name, tensor in plain.items())


def test_the_unet_has_its_published_size():
    """5x5: 1600 + 7 x 102,400 (encoders), 102,400, 4 x 3 x 102,400 (decoders); 4 x 16,448; 17 norms; classifier."""
    network = build_network({"type": "UNet", "classes": 28, "se": None})
    parameters = sum(tensor.numel() for tensor in network.parameters())
    assert parameters == 1600 + (7 + 1 + 12) * 102_400 + 4 * 16_448 + 17 * 128 + 28 * 65
    assert parameters == pytest.approx(2.12e6, rel=0.001)
    assert 0.014 < 33_280 / parameters < 0.018
    assert 0.014 < 34_056 / (parameters + 34_056) < 0.018


def test_the_other_networks_have_the_size_of_their_layers():
    """Per block: SD-Net one 5x5 convolution and its norm; DenseFCN two of growing input, and 1x1 to 64."""

    def dense(inputs):
        grown = (inputs, inputs + 64)
        return sum(25 * 64 * n + 2 * n for n in grown) + 2 * (inputs + 128) + 64 * (inputs + 128) + 64

    common = 102_400 + 128 + 28 * 65  # bottleneck, classifier
    expected = {
        "SDNet": (1 + 3 * 64 + 4 * 128) * 1600 + 8 * 128 + common,
        "DenseFCN": dense(1) + 3 * dense(64) + 4 * dense(128) + common,
    }
    for kind, number in expected.items():
        network = build_network({"type": kind, "classes": 28, "se": None})
        assert sum(tensor.numel() for tensor in network.parameters()) == number


@pytest.mark.parametrize(
    ("kind", "se", "aggregation"), with_recalibration(NETWORKS, [("scSE", "max"), ("scSE", "concat")])
)
def test_networks_run_as_inference_runs_them(make_network, randomise, kind, se, aggregation):
    """Batch norms folded, channels last, and in half precision."""
    network = randomise(make_network(kind, se=se, aggregation=aggregation))
    images = slices()
    with torch.inference_mode():
        expected = network(images)
        folded = fold_batch_norms(network).to(memory_format=torch.channels_last)
        torch.testing.assert_close(folded(images.contiguous(memory_format=torch.channels_last)), expected)
        halved = folded.to(torch.bfloat16)(images.to(torch.bfloat16))
    assert halved.dtype == torch.bfloat16
    assert float((halved.float() - expected).abs().mean()) < 0.05 * float(expected.std())


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("bf16", [False, True])
def test_networks_learn(make_network, kind, bf16):
    """A bright square is found after a few steps, also with autocast."""
    network = make_network(kind, in_channels=1, classes=2)
    optimizer = torch.optim.AdamW(network.parameters(), 0.01)
    target = torch.zeros(4, 16, 16, dtype=torch.long)
    for index in range(4):
        target[index, 2 + index : 8 + index, 3 : 9 + index] = 1
    images = target[:, None] + 0.3 * torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(50):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = network(images)
        loss = segmentation_loss(logits.float(), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]


def test_the_parameters_of_the_pyramid_keep_their_names():
    """Published weights and checkpoints load by these names."""
    network = build_network({"type": "PyramidUNet", "in_channels": 3, "classes": 2, "channels": [4, 8]})
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    scse = [f"6.{name}.{kind}" for name in ("cSE.fc1", "cSE.fc2", "sSE.conv") for kind in ("weight", "bias")]
    block = ["0.weight", *[f"1.{n}" for n in norm], "3.weight", *[f"4.{n}" for n in norm], *scse]
    expected = [f"encoders.0.{name}" for name in block] + [f"bottleneck.{name}" for name in block]
    expected += ["upsamplings.0.weight", "upsamplings.0.bias"]
    expected += [f"decoders.0.{name}" for name in block] + ["classifier.weight", "classifier.bias"]
    assert list(network.state_dict()) == expected


@pytest.mark.parametrize("kind", TEMPLATE)
def test_se_weights_are_named_as_the_authors_name_them(make_network, se_blocks, kind):
    network = make_network(kind)
    for name, block in se_blocks(network).items():
        assert name.endswith(".se")
        assert {f"{name}.{key}" for key in block.state_dict()} <= set(network.state_dict())
        assert set(block.state_dict()) == {
            f"{layer}.{part}" for layer in ("cSE.fc1", "cSE.fc2", "sSE.conv") for part in ("weight", "bias")
        }
