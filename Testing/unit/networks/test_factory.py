"""Networks from descriptions, and what is said about wrong ones."""

from __future__ import annotations

import pytest

from SESegmentationLib.errors import ModelError, OutOfMemoryError
from SESegmentationLib.networks import build_network
from SESegmentationLib.networks.architectures import NETWORKS


@pytest.mark.parametrize("kind", ["PyramidUNet", "UNet", "SDNet", "DenseFCN"])
def test_descriptions_become_networks(make_network, kind):
    network = make_network(kind)
    assert type(network) is NETWORKS[kind]
    assert (network.in_channels, network.classes) == (2, 3)


def test_a_description_stays_as_it_is():
    description = {"type": "UNet", "channels": 4, "blocks": 1}
    build_network(description)
    assert description == {"type": "UNet", "channels": 4, "blocks": 1}


@pytest.mark.parametrize("description", [{}, {"type": "VNet"}, {"type": None}, {"type": ["UNet"]}])
def test_unknown_types_are_answered_with_the_known_ones(description):
    with pytest.raises(ModelError, match="There is no network type") as caught:
        build_network(description)
    for known in ("DenseFCN", "PyramidUNet", "SDNet", "UNet"):
        assert f" {known}" in caught.value.remedy


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"depth": 3}, "depth"),
        ({"channels": "many"}, "'<' not supported"),
        ({"channels": 0}, "channels is at least 1, not 0"),
        ({"in_channels": -1}, "in_channels is at least 1, not -1"),
        ({"classes": 0}, "classes is at least 1, not 0"),
        ({"blocks": 0}, "blocks is at least 1, not 0"),
        ({"kernel": 4}, "not 4"),
        ({"kernel": -3}, "not -3"),
        ({"kernel": [5, 2]}, r"not \[5, 2\]"),
        ({"kernel": [5, 5, 5]}, "height and width"),
        ({"kernel": None}, "not iterable"),
        ({"se": "SE"}, "cSE, sSE, scSE or None"),
        ({"aggregation": "mean"}, "max, add, mul, concat"),
        ({"reduction": 0}, "reduction is at least 1"),
        ({"reduction": None}, "not supported"),
        ({"positions": ["skip"]}, "encoder, decoder, bottleneck, classifier, not skip"),
        ({"dropout": 1.5}, "dropout"),
    ],
)
@pytest.mark.parametrize("kind", ["UNet", "SDNet", "DenseFCN"])
def test_wrong_arguments_are_named_in_one_line(make_network, kind, changes, match):
    with pytest.raises(ModelError, match=match) as caught:
        make_network(kind, **changes)
    assert f"The network {kind} cannot be built" in str(caught.value)
    assert "\n" not in caught.value.cause
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"aggregation": "concat"}, "max, add or mul, not concat"),
        ({"positions": ["classifier"]}, "not classifier"),
        ({"reduction": 0}, "reduction is at least 1"),
        ({"channels": []}, "cannot be built"),
        ({"channels": 16}, "cannot be built"),
        ({"channels": [4, "8"]}, "cannot be built"),
        ({"channels": [-4, 8]}, "cannot be built"),
    ],
)
def test_wrong_arguments_of_the_pyramid_are_named_in_one_line(make_network, changes, match):
    with pytest.raises(ModelError, match=match) as caught:
        make_network("PyramidUNet", **changes)
    assert "\n" not in caught.value.cause


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_memory_that_runs_out_is_no_fault_of_the_description(monkeypatch, error):
    def build(**arguments):
        raise error

    monkeypatch.setitem(NETWORKS, "UNet", build)
    with pytest.raises(OutOfMemoryError):
        build_network({"type": "UNet"})
