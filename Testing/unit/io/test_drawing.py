"""The picture shows the structures where they are: left is right, as radiologists look at it."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from SESegmentationLib.io.drawing import PANEL, write_picture
from SESegmentationLib.models.labels import LEFT, RIGHT, structure_label

LEFT_LABEL, RIGHT_LABEL = structure_label(17, "hippocampus", LEFT), structure_label(58, "accumbens", RIGHT)


def volume() -> tuple[sitk.Image, sitk.Image]:
    """A block with one structure on the left, at the front and above, another on the right, at the back and below."""
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(100, 5, (20, 30, 40)).astype(np.float32))
    values = np.zeros((20, 30, 40), np.uint8)  # LPS: i to the left, j to the back, k up
    values[8:18, 4:16, 24:36] = LEFT_LABEL.value
    values[3:13, 14:26, 4:16] = RIGHT_LABEL.value
    labels = sitk.GetImageFromArray(values)
    for part in (image, labels):
        part.SetSpacing((1.0, 1.5, 2.0))
    return image, labels


def centre(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Mean (x, y) of the pixels of one colour in the panels (the legend is below them)."""
    rows, columns = np.nonzero((picture[: PANEL + 40] == color).all(axis=2))
    assert len(rows) > 50
    return np.array([columns.mean(), rows.mean()])


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "LIA", "PIR", "SAL"])
def test_sides_are_radiological_whatever_the_volumes_orientation(tmp_path, orientation):
    image, labels = (sitk.DICOMOrient(part, orientation) for part in volume())
    write_picture(tmp_path / "a.png", image, labels, [LEFT_LABEL, RIGHT_LABEL], [1.0, 2.0], "title")
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    axial, coronal = picture[:, : PANEL + 12], picture[:, PANEL + 20 : 2 * PANEL + 24]
    for panel in (axial, coronal):  # the patient's left is on the right of the picture
        assert centre(panel, LEFT_LABEL.color)[0] > centre(panel, RIGHT_LABEL.color)[0] + 100
    assert centre(axial, LEFT_LABEL.color)[1] < centre(axial, RIGHT_LABEL.color)[1]  # front is up
    assert centre(coronal, LEFT_LABEL.color)[1] < centre(coronal, RIGHT_LABEL.color)[1]  # head is up


def test_nothing_found_is_drawn_too(tmp_path):
    image, labels = volume()
    write_picture(tmp_path / "a.png", image, labels * 0, [LEFT_LABEL], [0.0], "title")
    width, height = Image.open(tmp_path / "a.png").size
    assert width > 3 * PANEL
    assert height > PANEL
