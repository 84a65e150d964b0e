"""The picture of training slices shows images and targets."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from SESegmentationLib.cli import main
from SESegmentationTraining import preparation


def test_slices_stand_beside_their_targets(blobs_folder, blobs_recipe):
    recipe = blobs_recipe()
    picture = np.asarray(preparation.draw_gallery(blobs_folder, recipe, seed=1)).astype(int)
    assert picture.shape == (4 * 24, 4 * 2 * 24, 3)
    blocks = picture.reshape(4, 24, 4, 2, 24, 3)
    plain, coloured = blocks[:, :, :, 0], blocks[:, :, :, 1]
    assert (plain.max(-1) == plain.min(-1)).all()  # grey
    assert (coloured.max(-1) - coloured.min(-1)).max() > 50
    same = coloured.max(-1) == coloured.min(-1)
    np.testing.assert_array_equal(plain[same], coloured[same])
    again = preparation.draw_gallery(blobs_folder, recipe, seed=1)
    np.testing.assert_array_equal(picture, np.asarray(again))


def test_of_a_volumetric_view_the_middle_slices_are_drawn(blobs_folder, blobs_recipe):
    """As of hippocampus-t1, whose recipe has no phases of slices."""
    recipe = blobs_recipe(
        phases=[],
        volumetric={"phases": [{"steps": 1, "batch": 1, "size": [16, 20], "depth": 5}]},
        card={"views": [{"plane": "axial", "weight": 1.0, "network": "deep", "volumetric": True}]},
    )
    picture = np.asarray(preparation.draw_gallery(blobs_folder, recipe, seed=1)).astype(int)
    assert picture.shape == (4 * 16, 4 * 2 * 20, 3)
    assert (picture.max(-1) - picture.min(-1)).max() > 50


@pytest.mark.parametrize("seed", ["-1", str(2**64)])
def test_a_seed_that_is_none_is_refused(blobs_folder, tmp_path, capsys, seed):
    command = ["prepare", "gallery", str(blobs_folder), "--recipe", "blobs", "-o", str(tmp_path / "slices.png")]
    assert main([*command, "--seed", seed]) == 2
    assert "seed" in capsys.readouterr().err


def test_the_command(blobs_folder, blobs_entries, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(preparation.Recipe, "load", lambda name: preparation.Recipe.from_dict(blobs_entries()))
    output = tmp_path / "slices.png"
    assert main(["prepare", "gallery", str(blobs_folder), "--recipe", "blobs", "-o", str(output)]) == 0
    assert Image.open(output).size == (192, 96)
    assert main(["prepare", "gallery", str(tmp_path / "none"), "--recipe", "blobs", "-o", str(output)]) == 2
    assert "There is no folder" in capsys.readouterr().err
