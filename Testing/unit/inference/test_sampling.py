"""Samples: drawn by dropout or augmentation, how much they differ, structure by structure of the result."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from SESegmentationLib.errors import CancelledError, InputError, UsageError
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.inference.predictor import Predictor
from SESegmentationLib.inference.sampling import draw_samples, sample_spread, sample_structures
from SESegmentationLib.models import ModelPackage
from SESegmentationLib.networks import build_network
from SESegmentationLib.networks.weights import load_networks
from SESegmentationLib.result import SegmentOptions

CPU = torch.device("cpu")


def test_the_spread_of_samples():
    rows = ([0, 1, 1, 1, 2], [0, 1, 1, 0, 2], [0, 1, 0, 0, 2])
    spread = sample_spread([torch.tensor(row).reshape(1, 1, 5) for row in rows], 4)
    wavering = np.std([3, 2, 1]) / 2
    assert [entry.overlap for entry in spread] == pytest.approx([1 / 3, 1 / 3, 1, 0])
    assert [entry.variation for entry in spread] == pytest.approx([wavering, wavering, 0, 0])
    with pytest.raises(ValueError, match="at least two"):
        sample_spread([torch.zeros(1, 1, 5)], 4)


def make_predictor(package: ModelPackage, dropout: float) -> Predictor:
    """The package's views, with networks of random weights that drop channels."""
    torch.manual_seed(0)
    networks = {name: build_network(entry | {"dropout": dropout}) for name, entry in package.card.networks.items()}
    return Predictor(package.card, {name: network.eval() for name, network in networks.items()}, CPU)


@pytest.fixture(scope="module")
def package(tiny_model) -> ModelPackage:
    return ModelPackage.from_folder(tiny_model)


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(12, 14, 16)).astype(np.float32)


def differ(samples: list[torch.Tensor]) -> bool:
    return any(bool((sample != samples[0]).any()) for sample in samples[1:])


def test_dropout_gives_samples_and_leaves_no_trace(package, volume):
    predictor = make_predictor(package, dropout=0.3)
    before = predictor.predict(volume, predictor.views).probabilities
    state = torch.get_rng_state()
    samples = draw_samples(predictor, volume, predictor.views, "dropout", count=3, seed=1)
    assert len(samples) == 3
    assert differ(samples)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(predictor.predict(volume, predictor.views).probabilities, before)
    again = draw_samples(predictor, volume, predictor.views, "dropout", count=3, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(samples, again, strict=True))
    steady = make_predictor(package, dropout=0.0)
    with pytest.raises(UsageError, match="trained without dropout"):
        draw_samples(steady, volume, steady.views, "dropout", count=3)


def test_augmentation_gives_samples_on_the_same_grid(phantom_package, make_phantom):
    """Shifts are undone: the phantom, found by its brightness, stays where it is, and its surface wavers."""
    image, truth = make_phantom()
    predictor = Predictor(phantom_package.card, load_networks(phantom_package), CPU)
    volume = np.clip(sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS")) / 250, 0, 1).astype(np.float32)
    volume = volume[:, ::-1, ::-1]  # axes to the head, the front and the right
    found = predictor.predict(volume, predictor.views).probabilities.argmax(0)
    samples = draw_samples(predictor, volume, predictor.views, count=4, seed=2)
    assert differ(samples)
    for sample in samples:
        mask, own = sample > 0, found > 0
        assert 2 * (mask & own).sum() / (mask.sum() + own.sum()) > 0.9
    assert all(0.7 < entry.overlap < 1 and 0 < entry.variation < 0.1 for entry in sample_spread(samples, 3)[1:])


def test_structures_of_a_volume(phantom_package, make_phantom):
    """By the values of the result, the same every time; noise in the volume makes samples differ more."""
    engine = Engine(phantom_package, "cpu")
    image, _ = make_phantom()
    told = []
    spread = sample_structures(engine, image, count=3, progress=lambda *args: told.append(args[1]))
    assert set(spread) == {17, 53}
    assert all(0.7 < entry.overlap < 1 for entry in spread.values())
    assert sample_structures(engine, image, count=3) == spread
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1)
    noise = np.random.default_rng(0).normal(0, 40, image.GetSize()[::-1]).astype(np.float32)
    noisy = sitk.GetImageFromArray(sitk.GetArrayFromImage(image) + noise)
    noisy.CopyInformation(image)
    assert sample_structures(engine, noisy, count=3)[17].overlap < spread[17].overlap
    assert sample_structures(engine, image, SegmentOptions(fast=True), count=2)[17].overlap > 0.7


def test_wrong_use_and_cancelling(phantom_package, make_phantom):
    engine = Engine(phantom_package, "cpu")
    image, _ = make_phantom()
    with pytest.raises(UsageError, match="single sample"):
        sample_structures(engine, image, count=1)
    with pytest.raises(UsageError, match="trained without dropout"):
        sample_structures(engine, image, kind="dropout")
    with pytest.raises(InputError):
        sample_structures(engine, sitk.Image(9, 9, 9, sitk.sitkFloat32) + float("nan"))

    def cancel(phase: str, fraction: float, seconds_left: float | None) -> None:
        raise CancelledError("Cancelled.")

    with pytest.raises(CancelledError):
        sample_structures(engine, image, progress=cancel)
