"""A drawn volume with its truth, and the tiny model with random weights."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from drawn_hippocampus import Sample, draw_sample
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.models import ModelPackage


@pytest.fixture(scope="session")
def sample() -> Sample:
    """A drawn hippocampus: image and truth."""
    return draw_sample()


@pytest.fixture(scope="session")
def tiny_engine(tiny_model) -> Engine:
    """The tiny model, loaded."""
    return Engine(ModelPackage.from_folder(tiny_model), "cpu")


@pytest.fixture(scope="session")
def own_labels(tiny_engine, sample) -> sitk.Image:
    """What the tiny model makes of the sample."""
    return tiny_engine.segment(sample.image).labels


@pytest.fixture
def label_map():
    """Function that makes a label map (k, j, i) with any spacing and direction."""

    def make(array: np.ndarray, spacing=(1.0, 1.0, 1.0), direction=None, origin=(0.0, 0.0, 0.0)) -> sitk.Image:
        image = sitk.GetImageFromArray(array.astype(np.uint8))
        image.SetSpacing(spacing)
        image.SetOrigin(origin)
        if direction is not None:
            image.SetDirection(np.asarray(direction, float).ravel().tolist())
        return image

    return make
