"""Fixtures of the unit tests: small models and volumes that can be made anywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def make_card() -> dict[str, Any]:
    """A valid model card of a tiny three-view network, without "weights"; tests change what they need."""
    from SESegmentationLib.models.labels import structure_label

    labels = [structure_label(1, "anterior hippocampus"), structure_label(2, "posterior hippocampus")]
    network = {"type": "PyramidUNet", "in_channels": 3, "classes": 3, "channels": [4, 8], "se": "scSE"}
    return {
        "format": 1,
        "name": "tiny-t1",
        "title": "Tiny",
        "version": "1.0.0",
        "summary": "A network with random weights for tests.",
        "modality": "MR",
        "contrast": "T1",
        "spacing": [1.0, 1.0, 1.0],
        "orientation": "RAS",
        "intensity": {"type": "zscore", "clip": [0.5, 99.5], "foreground": "all"},
        "networks": {plane: dict(network) for plane in ("axial", "coronal", "sagittal")},
        "views": [
            {"plane": plane, "weight": 1.0, "network": plane, "thickness": 3}
            for plane in ("axial", "coronal", "sagittal")
        ],
        "labels": [label.to_dict() for label in labels],
        "input": {"kind": "crop"},
        "cleanup": {"largest_component": "all", "fill_holes": False},
        "licence": {"spdx": "Apache-2.0", "name": "Apache License 2.0", "free": True},
    }


@pytest.fixture
def card_dict() -> dict[str, Any]:
    """See :func:`make_card`."""
    return make_card()


@pytest.fixture(scope="session")
def make_random_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Function that makes a whole model package with random weights; it gets what differs from :func:`make_card`."""

    def made(**changes: Any) -> Path:
        import torch
        from safetensors.torch import save_file

        from SESegmentationLib.models import write_package
        from SESegmentationLib.networks import build_network

        card = make_card() | changes
        torch.manual_seed(3)
        tensors = {
            f"{name}.{key}": value.contiguous()
            for name, description in card["networks"].items()
            for key, value in build_network(description).state_dict().items()
        }
        folder = tmp_path_factory.mktemp("models")
        save_file(tensors, folder / "tensors")
        return write_package(folder / card["name"], card, folder / "tensors").path

    return made


@pytest.fixture(scope="session")
def tiny_model(make_random_model: Callable[..., Path]) -> Path:
    """Folder of a whole model package: three views, few channels, random weights."""
    return make_random_model()


@pytest.fixture(scope="session")
def sample_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small volume on disk, called as in nnU-Net's layout."""
    from drawn_hippocampus import write_sample

    path = tmp_path_factory.mktemp("volumes") / "sample_0000.nii.gz"
    write_sample(path)
    return path
