"""The wall of ventricles: a voxel there belongs to the ventricle if at least half of it is fluid.

On T2, FLAIR and thick slices networks draw ventricles a voxel or two into white matter that lesions, or partial volume,
make look like neither. Fluid and white matter differ in nearly every contrast of MRI, so the image itself tells where
the one ends: of two tissues in a voxel, the share of each follows from its brightness between theirs. The card's entry
"cleanup", "fluid" names the ventricles and the tissue around them:

- ``{"values": [4, 43, 5, 44], "tissue": [2, 41]}``, label values.

The third and the fourth ventricle lie between other tissues, whose brightness is not that of white matter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import mask_box
from ..models import ModelCard

#: least share of fluid in a voxel of the ventricle
LEAST_SHARE = 0.5
#: at most so many layers of voxels are taken away; what lies deeper, as the choroid plexus does, stays
LAYERS = 2
#: layers within which white matter counts as what lies around the ventricle
AROUND = 5
#: layers left off to see fluid alone; fewer where that leaves too little
INSIDE = (2, 1)
#: fewer voxels of fluid or white matter do not tell their brightness
FEWEST = 50
#: the difference in brightness is at least this many standard deviations of the white matter's; nothing is changed in
#: images with less contrast
CONTRAST = 3.0


@torch.inference_mode()
def limit_to_fluid(probabilities: Tensor, image: np.ndarray, card: ModelCard) -> None:
    """Give voxels at the wall of ventricles that are mostly tissue to the structures they touch, in place.

    The next probable class would not do: beside it, it often has so few voxels that they are removed as specks, and
    background is left within the brain.

    Args:
        probabilities: (C, k, j, i), background first.
        image: (k, j, i), intensities of the scan; normalised ones will not do, as they are clipped where fluid is
            brightest.
        card: names ventricles and tissue; without that entry nothing is changed.
    """
    entry = card.cleanup.get("fluid")
    if not entry:
        return
    fluid, tissue = ([card.channels[value] for value in entry[key]] for key in ("values", "tissue"))
    # a class with a smaller probability is nowhere the most probable one
    possible = probabilities[fluid].amax(0) > 1 / len(probabilities)
    box = mask_box(possible.cpu().numpy(), margin=AROUND + 1)
    if box is None:
        return
    part = probabilities[(slice(None), *box)]
    before = part.argmax(0).cpu()
    after = _limited(before, image[box], fluid, tissue, len(probabilities))
    taken = before != after
    receiving = after[taken][None].to(part.device)
    taken = taken.to(part.device)
    values = part[:, taken]
    values.scatter_add_(0, receiving, values[fluid].sum(0, keepdim=True))
    values[fluid] = 0
    part[:, taken] = values


def _limited(labels: Tensor, image: np.ndarray, fluid: Sequence[int], tissue: Sequence[int], channels: int) -> Tensor:
    """Labels (k, j, i), as channels, with less in ventricles and more in what they touch."""
    inside = torch.isin(labels, torch.tensor(fluid))
    share = _share_of_fluid(torch.from_numpy(image.astype(np.float32)), inside, labels, tissue)
    if share is None:
        return labels
    mostly_tissue = inside & (share < LEAST_SHARE)
    labels, outside = labels.clone(), ~inside
    for _ in range(LAYERS):
        layer = _dilated(outside, 1) & mostly_tissue & ~outside
        labels[layer] = _most_frequent_neighbour(labels, outside, layer, channels)
        outside |= layer
    return labels


def _share_of_fluid(image: Tensor, inside: Tensor, labels: Tensor, tissue: Sequence[int]) -> Tensor | None:
    """The share of fluid in each voxel (k, j, i), if it is mixed with tissue; None where the image does not tell."""
    cores = (~_dilated(~inside, layers) for layers in INSIDE)
    core = next((core for core in cores if int(core.sum()) >= FEWEST), None)
    around = _dilated(inside, AROUND) & torch.isin(labels, torch.tensor(tissue))
    if core is None or int(around.sum()) < FEWEST:
        return None
    low, median, high = np.percentile(image[around].numpy(), (16, 50, 84))
    # the choroid plexus, and flow in FLAIR, look more like tissue than the rest
    fluid = max(np.percentile(image[core].numpy(), (25, 75)), key=lambda brightness: abs(brightness - median))
    if abs(fluid - median) < CONTRAST * (high - low) / 2:
        return None
    return (image - median) / (fluid - median)


def _most_frequent_neighbour(labels: Tensor, known: Tensor, voxels: Tensor, classes: int) -> Tensor:
    """For each of the ``voxels`` (k, j, i), the label that most of its 26 neighbours have where labels are known."""
    padded = F.pad(torch.where(known, labels, -1), (1,) * 6, value=-1)
    steps = torch.cartesian_prod(*[torch.arange(3)] * 3)
    neighbours = padded[tuple((voxels.nonzero()[:, None] + steps).unbind(-1))]
    votes = torch.zeros(len(neighbours), classes + 1).scatter_add_(1, neighbours + 1, torch.ones(neighbours.shape))
    return votes[:, 1:].argmax(1)


def _dilated(mask: Tensor, layers: int) -> Tensor:
    """A mask (k, j, i) grown by layers of voxels that touch it by faces, edges or corners."""
    return F.max_pool3d(mask.float()[None, None], 2 * layers + 1, stride=1, padding=layers)[0, 0] > 0
