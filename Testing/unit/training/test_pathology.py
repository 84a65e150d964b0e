"""Changed anatomy in synthesised images: what changes, where, and what does not."""

from __future__ import annotations

import torch

from SESegmentationTraining.transforms import add_lesions, add_vessels, enlarge_ventricles

#: label indices: background, white matter, ventricle, caudate
VENTRICLE = torch.tensor([0, 0, 2, 0])
WHITE_MATTER = torch.tensor([False, True, False, False])


def brains(count: int = 20) -> torch.Tensor:
    labels = torch.zeros(count, 3, 40, 40, dtype=torch.uint8)
    labels[:, :, 5:35, 5:35] = 1
    labels[:, :, 15:25, 18:22] = 2
    labels[:, :, 15:25, 22:26] = 3
    return labels


def test_ventricles_grow_into_white_matter_alone():
    labels = brains()
    grown = enlarge_ventricles(labels, VENTRICLE, WHITE_MATTER, 0.5, torch.Generator().manual_seed(0))
    changed = grown != labels
    assert (labels[changed] == 1).all()
    assert (grown[changed] == 2).all()
    share = float(changed.flatten(1).any(1).float().mean())
    assert 0.2 < share < 0.8
    assert torch.equal(labels, brains())  # what was given is not changed


def test_lesions_lie_in_white_matter_and_are_brighter_or_darker():
    labels = brains()
    images = torch.full(labels.shape, 100.0)
    marked = add_lesions(images, labels == 1, 1.0, 80.0, torch.Generator().manual_seed(0))
    changed = marked != images
    assert changed.any()
    assert (labels[changed] == 1).all()
    assert 0 < float(changed[labels == 1].float().mean()) < 0.4
    assert (marked[changed] > 100).any() and (marked[changed] < 100).any()
    assert torch.equal(add_lesions(images, labels == 1, 0.0, 80.0, torch.Generator()), images)


def test_vessels_are_bright_lines():
    labels = brains()
    images = torch.zeros(labels.shape)
    marked = add_vessels(images, labels == 1, 1.0, 255.0, torch.Generator().manual_seed(0))
    assert (labels[marked > 0] == 1).all()
    assert 0.02 < float((marked[labels == 1] == 255).float().mean()) < 0.3
