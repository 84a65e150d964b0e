"""The file of adapted parameters: read as written, tied to its weights, harmless where damaged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from SESegmentationLib.adapted_notes import AdaptedNotes
from SESegmentationLib.errors import InputError, ModelError
from SESegmentationLib.models import ModelPackage
from SESegmentationLib.networks.weights import load_networks
from SESegmentationLib.refine.adapted import AdaptedParameters


@pytest.fixture
def package(tiny_model):
    return ModelPackage.from_folder(tiny_model)


@pytest.fixture
def adapted(package):
    tensors = {"axial.classifier.bias": torch.tensor([1.0, -2.0, 3.0]), "coronal.classifier.bias": torch.ones(3)}
    return AdaptedParameters(tensors, package.card.weights_sha256, {"parameters": "se"})


def test_a_file_is_read_as_it_was_written(adapted, package, tmp_path):
    adapted.save(tmp_path / "a.safetensors")
    read = AdaptedParameters.load(tmp_path / "a.safetensors")
    assert read.notes == {"parameters": "se"}
    assert read.weights_sha256 == package.card.weights_sha256
    assert read.count == 6
    networks, plain = read.networks(package), load_networks(package)
    assert networks["axial"].classifier.bias.tolist() == [1, -2, 3]
    assert networks["coronal"].classifier.bias.tolist() == [1, 1, 1]
    assert torch.equal(networks["sagittal"].classifier.bias, plain["sagittal"].classifier.bias)
    assert torch.equal(networks["axial"].classifier.weight, plain["axial"].classifier.weight)


def test_a_file_tells_of_itself_without_torch(adapted, package):
    notes = AdaptedNotes.read(adapted.to_bytes())
    assert (notes.weights_sha256, notes.count, notes.notes) == (package.card.weights_sha256, 6, {"parameters": "se"})
    again = AdaptedParameters.from_bytes(adapted.to_bytes())
    assert again.notes == adapted.notes
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in adapted.tensors.items())


@pytest.mark.parametrize(
    "content", [None, b"", b"short", b"\x02" + bytes(7) + b"{}", b"\xff" * 30, b"\x04" + bytes(7) + b"null"]
)
def test_other_content_tells_nothing(content, package):
    assert AdaptedNotes.read(content) is None
    assert AdaptedNotes.read(package.weights_path.read_bytes()) is None


def test_other_weights_are_refused(adapted, package):
    other = replace(adapted, weights_sha256="0" * 64)
    with pytest.raises(InputError, match="belong to other weights than those of tiny-t1"):
        other.networks(package)


@pytest.mark.parametrize("name", ["axial.nothing", "oblique.classifier.bias", "classifier", "axial.classifier.weight"])
def test_parameters_that_do_not_fit_are_refused(adapted, package, name):
    with pytest.raises(ModelError, match=name):
        replace(adapted, tensors={name: torch.zeros(3)}).networks(package)


def test_other_files_are_refused(tmp_path, tiny_model):
    with pytest.raises(InputError, match="holds no adapted parameters"):
        AdaptedParameters.load(tiny_model / "model.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "b.safetensors", {"format": "sesegmentation-adapted-1"})
    with pytest.raises(InputError, match="holds no adapted parameters"):
        AdaptedParameters.load(tmp_path / "b.safetensors")
    (tmp_path / "c.safetensors").write_bytes(b"no tensors")
    for name in ("c.safetensors", "absent.safetensors"):
        with pytest.raises(InputError, match="cannot be read") as caught:
            AdaptedParameters.load(tmp_path / name)
        assert caught.value.remedy
