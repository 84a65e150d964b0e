"""Which parameters learn."""

from __future__ import annotations

import pytest

from SESegmentationLib.errors import UsageError
from SESegmentationLib.networks import build_network
from SESegmentationLib.refine.adapted import PARAMETER_SETS, parameters_to_adapt

NETWORKS = [
    {"type": "PyramidUNet", "in_channels": 3, "classes": 3, "channels": [4, 8, 16]},
    {"type": "UNet", "in_channels": 1, "classes": 3, "channels": 8, "se": "scSE"},
    {"type": "SDNet", "in_channels": 1, "classes": 3, "channels": 8, "se": "cSE"},
    {"type": "DenseFCN", "in_channels": 1, "classes": 3, "channels": 8, "se": "sSE"},
]


@pytest.mark.parametrize("description", NETWORKS, ids=lambda d: d["type"])
def test_the_sets_of_every_network(description):
    network = build_network(description)
    sets = {which: parameters_to_adapt(network, which) for which in PARAMETER_SETS}
    assert sets["all"] == dict(network.named_parameters())
    (weight,) = [name for name, p in sets["classifier"].items() if p.shape[0] == 3 and p.dim() == 4]
    (bias,) = [name for name in sets["se"] if name.startswith("classifier.")]
    assert weight.removesuffix("weight") == bias.removesuffix("bias")
    se = {name for name in sets["all"] if ".fc1." in name or ".fc2." in name or _is_spatial(name)}
    assert se
    assert set(sets["se"]) == se | {bias}
    assert sum(p.numel() for p in sets["se"].values()) < sum(p.numel() for p in sets["all"].values()) / 4


def test_unknown_sets_and_networks_without_se_blocks_are_refused():
    plain = build_network(NETWORKS[0] | {"se": None})
    with pytest.raises(UsageError, match="no squeeze & excitation blocks"):
        parameters_to_adapt(plain, "se")
    assert parameters_to_adapt(plain, "classifier")
    with pytest.raises(UsageError, match="no set of parameters 'decoder'") as caught:
        parameters_to_adapt(plain, "decoder")
    assert "se, classifier, all" in caught.value.remedy


def _is_spatial(name: str) -> bool:
    """The sSE blocks' convolution to a single channel, in scSE or alone."""
    return name.endswith((".conv.weight", ".conv.bias"))
