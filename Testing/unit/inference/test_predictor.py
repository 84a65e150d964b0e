"""Networks over views: fusion, batches that fit into memory, views that cannot tell left from right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from SESegmentationLib import memory
from SESegmentationLib.errors import CancelledError, ModelError, OutOfMemoryError
from SESegmentationLib.inference import predictor
from SESegmentationLib.inference.predictor import Predictor
from SESegmentationLib.models import ModelCard
from SESegmentationLib.networks import build_network

pytestmark = pytest.mark.usefixtures("single_precision")
CPU = torch.device("cpu")
SHAPE = (10, 12, 14)


class Recorder(nn.Module):
    """Logits that depend on the pixel and its slab; notes batches, and has memory for so many slices only."""

    def __init__(self, slope: float = 1.0, slices: float = 1e9, error: Exception | None = None) -> None:
        super().__init__()
        self.slope = slope
        self.slices = slices
        self.error = error or torch.OutOfMemoryError("CUDA out of memory.")
        self.batches: list[int] = []
        self.dtypes: set[torch.dtype] = set()

    def forward(self, slabs: torch.Tensor) -> torch.Tensor:
        self.dtypes.add(slabs.dtype)
        if len(slabs) > self.slices:
            raise self.error
        self.batches.append(len(slabs))
        pixel = slabs.float().mean(1, keepdim=True) * self.slope
        return torch.cat([torch.zeros_like(pixel), pixel, 0.5 - pixel], dim=1)


def make_card(package, merged: tuple[str, ...] = (), weights=(1.0, 0.5, 2.0), thickness: int = 1) -> ModelCard:
    """One network, "axial", "coronal" or "sagittal", for each view."""
    views = [
        {"plane": plane, "weight": weight, "network": plane, "thickness": thickness, "merged": plane in merged}
        for plane, weight in zip(("sagittal", "axial", "coronal"), weights, strict=True)
    ]
    return ModelCard.from_dict(
        package.card.to_dict() | {"views": views, "networks": {view["plane"]: {"type": "x"} for view in views}}
    )


def make_networks(**changes) -> dict[str, nn.Module]:
    return {plane: Recorder() for plane in ("axial", "coronal", "sagittal")} | changes


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 2, SHAPE).astype(np.float32)


def softmax_of(volume: np.ndarray, slope: float) -> torch.Tensor:
    pixel = torch.from_numpy(volume) * slope
    return torch.stack([torch.zeros_like(pixel), pixel, 0.5 - pixel]).softmax(0)


def test_views_are_fused_by_their_weights(phantom_package, volume):
    networks = make_networks(axial=Recorder(0.2), coronal=Recorder(-1.0), sagittal=Recorder(3.0))
    model = Predictor(make_card(phantom_package), networks, CPU)
    result = model.predict(volume, model.views)
    expected = 0.5 * softmax_of(volume, 0.2) + 2 * softmax_of(volume, -1.0) + softmax_of(volume, 3.0)
    torch.testing.assert_close(result.probabilities.float(), expected / 3.5, atol=2e-3, rtol=0)
    torch.testing.assert_close(result.probabilities.float().sum(0), torch.ones(SHAPE), atol=3e-3, rtol=0)
    for view, vote in zip(model.views, result.votes, strict=True):
        slope = {"axial": 0.2, "coronal": -1.0, "sagittal": 3.0}[view.plane]
        assert (vote == softmax_of(volume, slope).argmax(0)).float().mean() > 0.999


def test_the_weights_of_the_views_that_are_asked_add_up_to_one(phantom_package, volume):
    model = Predictor(make_card(phantom_package), make_networks(), CPU)
    only = [view for view in model.views if view.plane == "axial"]
    result = model.predict(volume, only)
    torch.testing.assert_close(result.probabilities.float(), softmax_of(volume, 1.0), atol=2e-3, rtol=0)


def test_thick_slices_are_seen(phantom_package, volume):
    model = Predictor(make_card(phantom_package, thickness=3), make_networks(), CPU)
    only = [view for view in model.views if view.plane == "coronal"]
    padded = np.pad(volume, ((0, 0), (1, 1), (0, 0)), "edge")
    seen = (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]) / 3
    expected = softmax_of(seen, 1.0)
    torch.testing.assert_close(model.predict(volume, only).probabilities.float(), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_batches_are_halved_until_they_fit(phantom_package, volume, error):
    """10 axial slices: batches of 10 and 5 do not fit, nor do the 12 coronal and 14 sagittal ones."""
    networks = {plane: Recorder(slices=3, error=error) for plane in ("axial", "coronal", "sagittal")}
    model = Predictor(make_card(phantom_package), networks, CPU)
    result = model.predict(volume, model.views)
    assert networks["axial"].batches == [2] * 5
    assert networks["coronal"].batches == [3] * 4
    assert networks["sagittal"].batches == [3, 3, 3, 3, 2]
    roomy = Predictor(make_card(phantom_package), make_networks(), CPU)
    expected = roomy.predict(volume, roomy.views)
    torch.testing.assert_close(result.probabilities, expected.probabilities, atol=2e-3, rtol=0)
    for vote, other in zip(result.votes, expected.votes, strict=True):
        assert (vote == other).float().mean() > 0.999


@pytest.mark.parametrize(("device", "memory_of"), [("cpu", "the computer"), ("cuda", "the graphics card")])
def test_a_slice_too_large_is_told_with_what_lacks_memory(phantom_package, volume, monkeypatch, device, memory_of):
    networks = {plane: Recorder(slices=0) for plane in ("axial", "coronal", "sagittal")}
    model = Predictor(make_card(phantom_package), networks, CPU)
    view, image = model.views[0], torch.from_numpy(volume)
    monkeypatch.setattr(model, "device", torch.device(device))  # tensors stay on the CPU
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    with pytest.raises(memory.OutOfMemoryError) as raised:
        model._in_batches(view, image, 1, lambda *_: None, lambda which: model._probabilities(view, image, which), None)
    assert raised.value.cause == f"A single slice does not fit into the memory of {memory_of}."


@pytest.fixture
def two_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Threads(Recorder):
    """Notes how many threads compute and whether a gradient would be kept."""

    def forward(self, slabs: torch.Tensor) -> torch.Tensor:
        self.seen = {*getattr(self, "seen", ()), (torch.get_num_threads(), torch.is_inference_mode_enabled())}
        return super().forward(slabs)


def test_every_core_has_a_batch_of_its_own(phantom_package, volume, monkeypatch, two_cores):
    """The result is that of one batch after the other, and the next volume is free to use all threads again."""
    planes = ("axial", "coronal", "sagittal")
    roomy = Predictor(make_card(phantom_package), make_networks(), CPU)
    expected = roomy.predict(volume, roomy.views)
    monkeypatch.setitem(predictor.BATCH_PIXELS, "cpu", 3 * 12 * 14)
    networks = {plane: Threads() for plane in planes}
    model = Predictor(make_card(phantom_package), networks, CPU)
    told = []
    result = model.predict(volume, model.views, report=lambda view, fraction: told.append((view.plane, fraction)))
    torch.testing.assert_close(result.probabilities, expected.probabilities, atol=2e-3, rtol=0)
    for vote, other in zip(result.votes, expected.votes, strict=True):
        assert (vote == other).float().mean() > 0.999
    assert [networks[plane].seen for plane in planes] == [{(1, True)}] * 3
    assert torch.get_num_threads() == 2
    assert [fraction for plane, fraction in told if plane == "axial"] == [0, 0.6, 1]  # 10 slices: 3 and 3, 3 and 1
    alone = {plane: Threads() for plane in planes}
    Predictor(make_card(phantom_package), alone, CPU).predict(volume, model.views, low_memory=True)
    assert alone["axial"].seen == {(2, True)}


def test_structures_are_found_slice_by_slice_one_core_each(phantom_package, volume, two_cores):
    networks = make_networks(axial=Threads())
    model = Predictor(make_card(phantom_package), networks, CPU)
    model.views = [view for view in model.views if view.plane == "axial"]
    found = model.find(volume, 3)
    assert networks["axial"].seen == {(1, True)}
    assert torch.get_num_threads() == 2
    votes = model.predict(volume, model.views).votes[0].numpy()
    assert found.any()
    np.testing.assert_array_equal(found, votes[1::3] > 0)


@pytest.mark.parametrize("count", [1, 2])
def test_structures_are_found_in_slabs_thinner_than_the_step(phantom_package, volume, count):
    model = Predictor(make_card(phantom_package), make_networks(axial=Threads()), CPU)
    model.views = [view for view in model.views if view.plane == "axial"]
    assert model.find(volume[4 : 4 + count], 5).shape == (1, *volume.shape[1:])


def test_many_cores_share_few_batches(phantom_package, volume, monkeypatch):
    """Memory bounds how many batches there are at once."""
    before = torch.get_num_threads()
    torch.set_num_threads(6)
    monkeypatch.setattr(predictor, "MAX_WORKERS", 2)
    monkeypatch.setitem(predictor.BATCH_PIXELS, "cpu", 3 * 12 * 14)
    networks = make_networks(axial=Threads())
    model = Predictor(make_card(phantom_package), networks, CPU)
    model.predict(volume, model.views)
    assert networks["axial"].seen == {(3, True)}
    assert torch.get_num_threads() == 6
    torch.set_num_threads(before)


def test_batches_side_by_side_are_halved_until_they_fit(phantom_package, volume, monkeypatch, two_cores):
    monkeypatch.setitem(predictor.BATCH_PIXELS, "cpu", 4 * 12 * 14)
    networks = {plane: Recorder(slices=2) for plane in ("axial", "coronal", "sagittal")}
    model = Predictor(make_card(phantom_package), networks, CPU)
    roomy = Predictor(make_card(phantom_package), make_networks(), CPU)
    found, expected = (one.predict(volume, one.views).probabilities for one in (model, roomy))
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
    assert sorted(networks["axial"].batches) == [2] * 5


def test_where_not_even_one_slice_fits_the_remedy_is_told(phantom_package, volume):
    model = Predictor(make_card(phantom_package), make_networks(coronal=Recorder(slices=0)), CPU)
    with pytest.raises(OutOfMemoryError) as raised:
        model.predict(volume, model.views)
    assert "single slice" in raised.value.cause
    assert "region" in raised.value.remedy


def test_other_errors_are_not_taken_for_a_lack_of_memory(phantom_package, volume):
    broken = Recorder(slices=0, error=RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    model = Predictor(make_card(phantom_package), make_networks(coronal=broken), CPU)
    with pytest.raises(RuntimeError, match="mat1"):
        model.predict(volume, model.views)


def test_a_volume_that_memory_cannot_hold_is_refused_before(phantom_package, volume, monkeypatch):
    monkeypatch.setattr(memory, "available_gigabytes", lambda: 1e-6)
    networks = make_networks()
    model = Predictor(make_card(phantom_package), networks, CPU)
    with pytest.raises(OutOfMemoryError, match="of memory; 0 MB are available"):
        model.predict(volume, model.views)
    assert not networks["axial"].batches


def test_low_memory_gives_the_same_with_smaller_batches(phantom_package, tiny_model):
    """A real network; what is computed together may differ in the last digit."""
    from SESegmentationLib.models import ModelPackage
    from SESegmentationLib.networks.weights import load_networks

    package = ModelPackage.from_folder(tiny_model)
    model = Predictor(package.card, load_networks(package), CPU)
    large = np.random.default_rng(1).normal(0, 1, (40, 72, 64)).astype(np.float32)
    batches = {False: [], True: []}
    for low in batches:
        model.predict(large, model.views[:1], low, lambda view, fraction, low=low: batches[low].append(fraction))
    assert len(batches[True]) > len(batches[False])
    plain, low = (model.predict(large, model.views, low) for low in (False, True))
    torch.testing.assert_close(low.probabilities, plain.probabilities, atol=2e-3, rtol=0)
    assert (low.probabilities.argmax(0) == plain.probabilities.argmax(0)).float().mean() > 0.9999


def test_progress_counts_the_slices_of_each_view(phantom_package, volume):
    told = []
    model = Predictor(make_card(phantom_package), make_networks(coronal=Recorder(slices=5)), CPU)
    model.predict(volume, model.views, report=lambda view, fraction: told.append((view.plane, fraction)))
    assert [plane for plane, fraction in told if fraction == 1] == [view.plane for view in model.views]
    assert [fraction for plane, fraction in told if plane == "coronal"] == [0, 0.25, 0.5, 0.75, 1]


def test_a_report_that_raises_stops(phantom_package, volume):
    def cancel(view, fraction) -> None:
        if fraction > 0:
            raise CancelledError("Cancelled.")

    networks = make_networks()
    model = Predictor(make_card(phantom_package), networks, CPU)
    with pytest.raises(CancelledError):
        model.predict(volume, model.views, report=cancel)
    assert sum(len(network.batches) for network in networks.values()) == 1


def test_views_that_cannot_tell_left_from_right_come_last_and_are_divided(phantom_package, volume):
    """The merged view calls everything left; in the end left is where the others say so."""

    class Left(Recorder):
        def forward(self, slabs: torch.Tensor) -> torch.Tensor:
            background, left, _ = super().forward(slabs).split(1, dim=1)
            return torch.cat([background, left + 5, torch.full_like(left, -9)], dim=1)

    card = make_card(phantom_package, merged=("sagittal",))
    model = Predictor(card, make_networks(sagittal=Left(0.0), axial=Recorder(9.0), coronal=Recorder(9.0)), CPU)
    assert [view.merged for view in model.views] == [False, False, True]
    result = model.predict(np.sign(volume), model.views)
    vote = result.votes[-1]
    assert (vote == torch.from_numpy(np.where(volume > 0, 1, 2))).all()


def test_the_best_view_is_the_weightiest_that_tells_left_from_right(phantom_package):
    card = make_card(phantom_package, merged=("sagittal",), weights=(9.0, 0.5, 0.4))
    assert Predictor(card, make_networks(), CPU).best_view().plane == "axial"


def test_networks_run_in_the_fast_precision(phantom_package, volume, monkeypatch):
    monkeypatch.setattr(predictor, "fast_precision", lambda device: torch.bfloat16)
    networks = make_networks()
    model = Predictor(make_card(phantom_package), networks, CPU)
    result = model.predict(volume, model.views)
    assert networks["axial"].dtypes == {torch.bfloat16}
    assert result.probabilities.dtype == torch.float16


def test_a_model_whose_views_all_merge_is_refused(phantom_package):
    card = make_card(phantom_package, merged=("sagittal", "axial", "coronal"))
    with pytest.raises(ModelError, match="left from right"):
        Predictor(card, make_networks(), CPU)


@pytest.mark.parametrize(("in_channels", "classes", "cause"), [(3, 3, "slices thick"), (1, 5, "5 classes")])
def test_networks_that_do_not_suit_the_card_are_refused(phantom_package, in_channels, classes, cause):
    network = build_network({"type": "PyramidUNet", "in_channels": in_channels, "classes": classes, "channels": [4, 8]})
    with pytest.raises(ModelError, match=cause):
        Predictor(make_card(phantom_package), make_networks(axial=network), CPU)
