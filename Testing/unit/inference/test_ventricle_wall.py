"""Ventricles end where the image shows that the fluid does."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from SESegmentationLib.geometry import RAS
from SESegmentationLib.inference.crops import CropPlanner
from SESegmentationLib.inference.model_grid import to_model_grid
from SESegmentationLib.inference.ventricle_wall import LAYERS, limit_to_fluid
from SESegmentationLib.models import find_model

CARD = find_model("brain-mr").card
WHITE_MATTER, VENTRICLE, THALAMUS = (CARD.channels[value] for value in (2, 4, 10))
SHAPE = (40, 44, 36)
#: of fluid and of white matter, as the networks see them
T1, T2 = (0.1, 0.8), (1.0, 0.35)


def ball(radius: float) -> np.ndarray:
    """Depth below the surface of a ball in the middle, in voxels."""
    k, j, i = np.indices(SHAPE) - np.reshape(np.array(SHAPE) // 2, (3, 1, 1, 1))
    return radius - np.sqrt(k**2 + j**2 + i**2)


def scan(fluid: float, tissue: float, radius: float = 8, noise: float = 0.02) -> np.ndarray:
    """A ball of fluid in tissue, mixed in the voxels at its surface."""
    share = np.clip(ball(radius) + 0.5, 0, 1)
    return (tissue + (fluid - tissue) * share + np.random.default_rng(0).normal(0, noise, SHAPE)).astype(np.float32)


@torch.inference_mode()  # as the networks' output is
def found(radius: float, next_best: int = WHITE_MATTER) -> torch.Tensor:
    """Probabilities of a ventricle of this radius in white matter; in it another class is the next probable one."""
    inside = torch.from_numpy(ball(radius) >= 0)
    probabilities = torch.zeros(len(CARD.labels) + 1, *SHAPE, dtype=torch.float16)
    probabilities[VENTRICLE] = torch.where(inside, 0.7, 0.05)
    probabilities[next_best] += torch.where(inside, 0.25, 0.0)
    probabilities[WHITE_MATTER] += torch.where(inside, 0.05, 0.95)
    return probabilities


def limited(probabilities: torch.Tensor, image: np.ndarray, card=CARD) -> np.ndarray:
    """Most probable channels afterwards."""
    limit_to_fluid(probabilities, image, card)
    assert torch.allclose(probabilities.float().sum(0), torch.ones(SHAPE), atol=5e-3)
    return probabilities.argmax(0).numpy()


@pytest.mark.parametrize("brightness", [T1, T2])
def test_a_ventricle_drawn_into_white_matter_ends_where_the_fluid_does(brightness):
    labels = limited(found(8 + LAYERS), scan(*brightness))
    assert set(np.unique(labels[ball(8) > 0.5])) == {VENTRICLE}
    assert set(np.unique(labels[ball(8) < -0.5])) == {WHITE_MATTER}


def test_what_is_taken_goes_to_what_it_touches():
    """Not to the next probable class: its few voxels are removed as specks, and background is left in the brain."""
    labels = limited(found(9, next_best=THALAMUS), scan(*T1))
    assert set(np.unique(labels[(ball(9) >= 0) & (ball(8) < -0.5)])) == {WHITE_MATTER}


def test_two_structures_each_get_what_lies_on_their_side():
    probabilities = found(8 + LAYERS).clone()
    left = torch.from_numpy(np.indices(SHAPE)[2] < SHAPE[2] // 2)
    probabilities[THALAMUS] = torch.where(left, probabilities[WHITE_MATTER], 0.0)
    probabilities[WHITE_MATTER] = torch.where(left, 0.0, probabilities[WHITE_MATTER])
    labels = limited(probabilities, scan(*T1))
    wall = (ball(8 + LAYERS) >= 0) & (ball(8) < -0.5)
    columns = np.indices(SHAPE)[2] - SHAPE[2] // 2
    assert set(np.unique(labels[wall & (columns < -LAYERS)])) == {THALAMUS}
    assert set(np.unique(labels[wall & (columns > LAYERS)])) == {WHITE_MATTER}


def test_no_more_than_some_layers_are_taken():
    labels = limited(found(8 + LAYERS + 3), scan(*T1))
    deep = LAYERS * math.sqrt(3) + 0.5  # voxels of a layer touch by corners
    assert (labels[ball(8 + LAYERS + 3) >= deep] == VENTRICLE).all()
    assert (labels[ball(8) < 0] == VENTRICLE).any()


def test_the_choroid_plexus_in_a_ventricle_stays():
    image = scan(*T2)
    image[ball(3) > 0] = T2[1]
    assert (limited(found(8), image)[ball(7) > 0] == VENTRICLE).all()


@pytest.mark.parametrize(
    ("radius", "image"),
    [
        (9, scan(0.5, 0.45, noise=0.05)),  # PD: fluid is as bright as white matter
        (1, scan(*T1, radius=0.5)),  # too small to tell
        (-1, scan(*T1)),  # none was found
    ],
)
def test_nothing_is_taken_where_the_image_does_not_tell(radius, image):
    assert np.array_equal(limited(found(radius), image), found(radius).argmax(0).numpy())


def test_nothing_is_taken_that_the_card_does_not_name():
    assert np.array_equal(limited(found(9), scan(*T1), replace(CARD, cleanup={})), found(9).argmax(0).numpy())


def test_the_scan_is_looked_at_as_it_is():
    """Normalisation clips the brightest voxels, which moves the half-way of a step to fluid that is brighter."""
    image = sitk.GetImageFromArray(scan(*T2))
    image.SetDirection(RAS)
    roi = sitk.GetImageFromArray(np.ones(SHAPE, np.uint8))
    roi.CopyInformation(image)
    crop = CropPlanner(image, CARD).region(roi)
    seen = crop.intensities(image)
    assert seen.shape == crop.volume.shape
    assert np.array_equal(seen, sitk.GetArrayFromImage(image))
    assert seen.max() > crop.volume.max()
    mirrored = replace(crop, mirrored=True)
    assert np.array_equal(mirrored.intensities(image), seen[..., ::-1])


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 3.0), (1.0, 1.0, 1.0)])
def test_the_scan_lies_where_the_networks_see_it(spacing):
    image = sitk.GetImageFromArray((200 * scan(*T1)).astype(np.uint8))
    image.SetSpacing(spacing)
    image.SetOrigin((-71.3, 20.7, 5.1))
    image.SetDirection(RAS)
    on_grid, grid = to_model_grid(image, CARD)
    there = on_grid.GetSize()[::-1]
    inside = tuple(slice(2, n - 2) for n in there)  # beyond the volume's edge there are no intensities
    assert np.allclose(grid.image_to_grid(image)[inside], sitk.GetArrayFromImage(on_grid)[inside], atol=1e-3)
