"""Two neighbouring coronal slices of a real hippocampus are corrected: the others become better, by clicks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from panel_clicks import click, wait
from panel_story import voxels

from harness import application
from harness.segment_editor import paint

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "hippocampus"
MODEL = ROOT / "weights" / "hippocampus-t1"
#: neither the model nor the learnt correction was trained on it
CASE = "hippocampus_259"
VALUES = (1, 2)


@pytest.fixture
def crop(tmp_path):
    """A volume node of thick slices, and the truth (k, j, i)."""
    if not DATA.is_dir() or not (MODEL / "model.safetensors").is_file():
        pytest.skip("needs ../shared/data/hippocampus and the weights of hippocampus-t1")
    from SESegmentationTraining.calibration import shift_volume

    image = sitk.ReadImage(str(DATA / "imagesTr" / f"{CASE}_0000.nii.gz"))
    path = tmp_path / "crop.nii.gz"
    sitk.WriteImage(shift_volume(image, "thick slices", seed=1), str(path))
    volume = slicer.util.loadVolume(str(path))
    application.process_events()
    truth = sitk.ReadImage(str(DATA / "labelsTr" / f"{CASE}.nii.gz"))
    return volume, sitk.GetArrayFromImage(truth)


def state(node, volume):
    return {value: voxels(node, f"Segment_{value}", volume).copy() for value in VALUES}


def same(one, other):
    return all((one[value] == other[value]).all() for value in VALUES)


def dice(segments, truth, where):
    """Mean over both structures."""
    pairs = [(segments[value] & where, (truth == value) & where) for value in VALUES]
    return float(np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs]))


def test_two_neighbouring_slices_improve_the_others(open_story, crop):
    volume, truth = crop
    story = open_story(MODEL)
    ui = story.ui
    story.choices.inputVolume = volume
    node = story.segment()
    own = state(node, volume)

    # the coronal slice with the most wrong voxels and the next one, drawn as they should be
    labels = sum(value * own[value].astype(np.uint8) for value in VALUES)
    first = int((labels != truth).sum((0, 2)).argmax())
    elsewhere = np.ones(truth.shape, bool)
    elsewhere[:, first : first + 2] = False
    for value in VALUES:
        paint(node, f"Segment_{value}", own[value] & (truth != value) & ~elsewhere, volume, erase=True)
        paint(node, f"Segment_{value}", (truth == value) & ~elsewhere, volume)
    corrected = state(node, volume)
    before = dice(corrected, truth, elsewhere)

    click(ui.recalibrateButton)
    assert story.running, story.messages
    wait(lambda: not story.running)
    assert story.messages == [] and ui.previewFrame.isVisible()
    assert same(state(node, volume), corrected)

    click(ui.acceptChangesButton)
    accepted = state(node, volume)
    after = dice(accepted, truth, elsewhere)
    print(before, after)
    assert after > before + 0.01
    for value in VALUES:  # what was drawn stays
        assert (accepted[value] == corrected[value])[~elsewhere].all()
    click(ui.undoButton)
    assert same(state(node, volume), corrected)
    click(ui.redoButton)
    assert same(state(node, volume), accepted)
