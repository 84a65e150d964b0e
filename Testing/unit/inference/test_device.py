"""Where networks run."""

from __future__ import annotations

import pytest
import torch

from SESegmentationCohort.processes import _gpus
from SESegmentationLib.errors import DeviceError
from SESegmentationLib.inference import device
from SESegmentationLib.inference.device import choose_device, device_for, fast_precision
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.models import find_model


@pytest.mark.parametrize(("there", "expected"), [(("cuda", "mps"), "cuda"), (("mps",), "mps"), ((), "cpu")], ids=str)
def test_the_fastest_that_is_there(monkeypatch, there, expected):
    monkeypatch.setattr(device, "_works", lambda name: name in there)
    assert choose_device() == torch.device(expected)


def test_one_that_is_named():
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["abacus", "", "meta", "cuda:x"])
def test_no_such_kind(name):
    with pytest.raises(DeviceError, match="no kind of device"):
        choose_device(name)


@pytest.mark.parametrize(
    ("name", "version", "available", "reason"),
    [
        ("cuda", None, False, "built for the CPU only"),
        ("cuda", "13.0", False, "no NVIDIA GPU or no working driver"),
        ("cuda:7", "13.0", True, "there are 2, counted from 0"),
        ("mps", None, False, "Apple's GPU"),
    ],
)
def test_one_that_does_not_work_is_explained(monkeypatch, name, version, available, reason):
    monkeypatch.setattr(device, "_works", lambda name: False)
    monkeypatch.setattr(torch.version, "cuda", version)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(DeviceError) as raised:
        choose_device(name)
    assert reason in raised.value.cause
    assert "cpu" in raised.value.remedy


@pytest.mark.parametrize("error", [RuntimeError, AssertionError, NotImplementedError])
def test_a_driver_that_is_there_and_useless(monkeypatch, error):
    def fail(*arguments, **options):
        raise error("no kernel image is available")

    monkeypatch.setattr(torch, "ones", fail)
    with pytest.raises(DeviceError):
        choose_device("cuda")


@pytest.mark.parametrize("able", [True, False])
def test_bfloat16_where_the_hardware_has_it(monkeypatch, able):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: able)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0) if able else (7, 5))
    expected = torch.bfloat16 if able else torch.float32
    assert fast_precision(torch.device("cpu")) == expected
    assert fast_precision(torch.device("cuda")) == expected
    assert fast_precision(torch.device("mps")) == torch.float32


def test_a_model_that_apples_gpu_does_not_run_runs_on_the_processor(monkeypatch, tiny_model):
    """As 3-D networks before PyTorch 2.9; this PyTorch knows nothing at all of such a GPU."""
    monkeypatch.setattr(device, "_works", lambda name: name == "mps")
    package = find_model(tiny_model)
    assert Engine(package).device == torch.device("cpu")
    with pytest.raises(DeviceError, match="tiny-t1 on Apple's GPU") as caught:
        Engine(package, "mps")
    assert "cpu" in caught.value.remedy
    assert _gpus("auto") == ["auto"]  # of a cohort: the engine decides
    monkeypatch.setattr(device, "_unsupported", lambda card, device: None)
    assert device_for(package.card) == device_for(package.card, "MPS") == torch.device("mps")


@pytest.mark.parametrize("model", ["brain-mr", "hippocampus-t1"])
def test_a_model_is_tried_by_all_of_its_networks(model, monkeypatch):
    """What one of them lacks is told: here convolutions in 3-D, as by PyTorch 2.2 on Apple's GPU."""
    card = find_model(model).card
    assert device._unsupported(card, torch.device("cpu")) is None

    def refuse(layer, maps):
        raise NotImplementedError("Conv3D is not supported on MPS.\nDo something else.")

    monkeypatch.setattr(torch.nn.Conv3d, "forward", refuse)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    expected = None if model == "brain-mr" else "Conv3D is not supported on MPS"
    assert device._unsupported(card, torch.device("cpu")) == expected


@pytest.mark.gpu
def test_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    assert choose_device().type == "cuda"
