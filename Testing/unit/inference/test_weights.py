"""Weights of a package: whole, of this network, and the same after folding."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from SESegmentationLib.errors import ModelError
from SESegmentationLib.models import ModelPackage, write_package
from SESegmentationLib.models.card import ModelCard
from SESegmentationLib.networks import build_network
from SESegmentationLib.networks.batch_norms import fold_batch_norms
from SESegmentationLib.networks.weights import load_networks, load_weights


def randomised(network: nn.Module) -> nn.Module:
    """Batch norms as after a training, not as they begin."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(0.3, 3)
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)
    return network.eval()


@pytest.mark.parametrize("se", [None, "scSE"])
def test_folding_batch_norms_changes_nothing(se):
    description = {"type": "PyramidUNet", "in_channels": 3, "classes": 4, "channels": [8, 12, 16], "se": se}
    network = randomised(build_network(description))
    slabs = torch.randn(2, 3, 37, 45)
    with torch.no_grad():
        before = network(slabs)
        norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
        after = fold_batch_norms(network)(slabs)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    assert norms > 0
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) < norms


def test_norms_that_do_not_follow_a_convolution_stay():
    block = randomised(nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.BatchNorm2d(2)))
    slabs = torch.randn(1, 2, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(fold_batch_norms(block)(slabs), block(slabs))
    assert isinstance(block[2], nn.BatchNorm2d)


def test_networks_are_loaded_in_single_precision_for_evaluation(tiny_model):
    networks = load_networks(ModelPackage.from_folder(tiny_model))
    assert networks.keys() == {"axial", "coronal", "sagittal"}
    stored = load_file(tiny_model / "model.safetensors")
    for name, network in networks.items():
        assert not network.training
        for key, value in network.state_dict().items():
            torch.testing.assert_close(value, stored[f"{name}.{key}"])


def repacked(tiny_model: Path, folder: Path, change) -> ModelPackage:
    """The package with changed tensors and the hash of these."""
    tensors = change(load_file(tiny_model / "model.safetensors"))
    save_file(tensors, folder / "tensors")
    entries = ModelCard.from_file(tiny_model).to_dict()
    del entries["weights"]
    return write_package(folder / "model", entries, folder / "tensors")


def test_half_precision_and_no_counters_are_enough(tiny_model, tmp_path):
    def halved(tensors):
        return {key: value.half() for key, value in tensors.items() if "num_batches_tracked" not in key}

    for network in load_networks(repacked(tiny_model, tmp_path, halved)).values():
        assert {value.dtype for value in network.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (
            lambda tensors: {key: tensors[key] for key in tensors if key != "axial.encoders.0.0.weight"},
            "do not fit its network",
        ),
        (lambda tensors: {key: tensors[key] for key in tensors if not key.startswith("axial.encoders")}, "and others"),
        (lambda tensors: tensors | {"axial.extra": torch.ones(1)}, "do not fit its network"),
        (lambda tensors: tensors | {"oblique.weight": torch.ones(1)}, "which no network in the card has"),
        (lambda tensors: {key: torch.ones(*value.shape, 1) for key, value in tensors.items()}, "do not fit"),
    ],
)
def test_weights_of_another_network_are_refused(tiny_model, tmp_path, change, cause):
    package = repacked(tiny_model, tmp_path, change)
    with pytest.raises(ModelError) as raised:
        load_networks(package)
    assert cause in raised.value.cause
    assert len(raised.value.cause.splitlines()) == 1
    assert len(raised.value.cause) < 400


@pytest.mark.parametrize("damage", ["a bit", "the end", "everything"])
def test_damaged_weights_are_refused(tiny_model, tmp_path, damage):
    shutil.copytree(tiny_model, tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "a bit":
        content[-10] ^= 1
    file.write_bytes({"a bit": content, "the end": content[:-50], "everything": b"x" * 99}[damage])
    with pytest.raises(ModelError, match="damaged"):
        load_weights(ModelPackage.from_folder(tmp_path / "model"))


def test_a_pickle_is_not_loaded_even_if_the_card_vouches_for_it(tiny_model, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path(tmp_path / "sprung").touch, ())

    (tmp_path / "tensors").write_bytes(pickle.dumps(Trap()))
    shutil.copytree(tiny_model, tmp_path / "model")
    shutil.copy(tmp_path / "tensors", tmp_path / "model" / "model.safetensors")
    card = (tmp_path / "model" / "model.json").read_text(encoding="utf-8")
    from SESegmentationLib.models import sha256_of

    old, new = sha256_of(tiny_model / "model.safetensors"), sha256_of(tmp_path / "tensors")
    (tmp_path / "model" / "model.json").write_text(card.replace(old, new), encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be read"):
        load_weights(ModelPackage.from_folder(tmp_path / "model"))
    assert not (tmp_path / "sprung").exists()
