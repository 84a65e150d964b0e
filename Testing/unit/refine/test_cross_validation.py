"""Recalibration: as far as it finds a corrected slice better that was hidden from it, and no further."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from SESegmentationLib.geometry import Slices
from SESegmentationLib.networks.weights import load_networks
from SESegmentationLib.refine import cross_validation
from SESegmentationLib.refine.adapted import AdaptedParameters, parameters_to_adapt
from SESegmentationLib.refine.corrections import Corrections
from SESegmentationLib.refine.cross_validation import STEPS, recalibrate_cross_validated, split_slices
from SESegmentationLib.refine.recalibration import RecalibrationSettings
from SESegmentationLib.result import SegmentOptions

QUICK = RecalibrationSettings(steps=3, rate=0.05)


def learn(engine, sample, slices, settings=QUICK):
    corrections = Corrections.in_slices(sample.labels, slices)
    return recalibrate_cross_validated(
        engine, sample.image, corrections, slices, settings, SegmentOptions(), None, lambda share: None
    )


def test_neighbours_are_hidden_together():
    parts = split_slices([Slices("k", (3, 4, 9)), Slices("i", (7,))], 2)
    assert parts == [[Slices("k", (3, 4)), Slices("i", (7,))], [Slices("k", (9,))]]
    assert split_slices([Slices("k", (3, 4))], 2) == [[Slices("k", (3, 4))]]


def test_the_largest_step_that_helps_is_taken_and_none_if_none_does(tiny_engine, sample, monkeypatch, tmp_path):
    """What is asked of the hidden slices decides, whatever was learnt."""
    slices = [Slices("k", (12, 20))]
    own = load_networks(tiny_engine.package)
    gains: dict[float, float] = {}
    between = cross_validation._between

    def noted(old, new, step):
        moved = between(old, new, step)
        for network in moved.values():
            network.step = step
        return moved

    def dice(networks, asked):
        return 0.5 + gains.get(getattr(next(iter(networks.values())), "step", 0.0), 0.0)

    monkeypatch.setattr(cross_validation, "_between", noted)
    monkeypatch.setattr(cross_validation, "_dice", dice)
    assert learn(tiny_engine, sample, slices) is None
    gains[STEPS[0]], gains[STEPS[1]], gains[STEPS[2]] = -0.1, 0.02, 0.03
    adapted = learn(tiny_engine, sample, slices)
    assert adapted.notes["step"] == f"{STEPS[1]:g}"
    gains[STEPS[0]] = 0.01
    whole = learn(tiny_engine, sample, slices)
    for name, tensor in adapted.tensors.items():  # half the way to what was learnt
        network, _, parameter = name.partition(".")
        old = parameters_to_adapt(own[network], "se")[parameter].detach()
        assert torch.allclose(tensor - old, (whole.tensors[name] - old) / 2, atol=1e-5)
    adapted.save(tmp_path / "adapted.safetensors")
    again = AdaptedParameters.load(tmp_path / "adapted.safetensors")
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in adapted.tensors.items())


@pytest.mark.parametrize("slices", [[Slices("k", (16,))], [Slices("k", (16, 17))]], ids=["one", "neighbours"])
def test_what_cannot_be_checked_is_not_learnt(tiny_engine, sample, slices):
    assert learn(tiny_engine, sample, slices) is None


def test_slices_that_the_networks_do_not_see_are_left_out(tiny_engine, sample):
    """Of two slices in a region one lies outside of it: nothing can be checked, and nothing is wrong."""
    inside = np.zeros_like(sitk.GetArrayFromImage(sample.labels))
    inside[5:20, 10:30, 5:30] = 1
    roi = sitk.GetImageFromArray(inside)
    roi.CopyInformation(sample.labels)
    slices = [Slices("k", (12, 35))]
    corrections = Corrections.in_slices(sample.labels, slices)
    options = SegmentOptions(roi=roi)
    assert (
        recalibrate_cross_validated(
            tiny_engine,
            sample.image,
            corrections,
            slices,
            RecalibrationSettings(steps=2),
            options,
            None,
            lambda share: None,
        )
        is None
    )
