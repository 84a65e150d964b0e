"""A small volume to try the program with: a drawn crop of a T1 MRI round the left hippocampus.

It is drawn from ellipses along the hippocampus' axis, whose place and size in each coronal section follow the average
of many hippocampi; no scan of a person is in it. Good for a first run and for tests, not for any measure of accuracy.

``python Testing/drawn_hippocampus.py FILE`` writes it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from SESegmentationLib.files import OutputFiles
from SESegmentationLib.io.volume_image import voxels_of
from SESegmentationLib.io.writing import write_image

SIZE = (36, 50, 36)  # voxels to the right, front and head, 1 mm each
FINE = 2  # partial volumes: drawn in steps of 1/2 mm, then averaged
# intensities of a T1 image
WHITE, GREY, HIPPOCAMPUS, FLUID = 100.0, 64.0, 68.0, 30.0
NOISE = 3.0
TEXTURE = 4.0  # slow variations of intensity, standard deviation
TEXTURE_MM = 2.5  # their size

#: the hippocampus in coronal sections, in mm from its centre: position to the front; the section's centre to the right
#: and to the head; its half width and half height
SECTIONS = np.array(
    [
        (-21.0, 5.5, 10.0, 2.5, 2.0),
        (-19.0, 3.5, 9.0, 4.0, 3.5),
        (-16.0, 1.2, 7.2, 5.0, 4.0),
        (-12.0, -1.1, 4.2, 5.5, 3.6),
        (-8.0, -2.1, 2.3, 6.0, 3.5),
        (-4.0, -2.8, 0.8, 6.0, 3.5),
        (0.0, -2.9, -0.6, 7.0, 4.0),
        (4.0, -1.3, -1.9, 7.5, 4.5),
        (8.0, 0.1, -3.1, 8.0, 5.0),
        (12.0, 1.7, -4.6, 7.5, 4.5),
        (16.0, 4.2, -6.2, 5.0, 3.0),
        (18.0, 5.0, -6.8, 3.0, 1.5),
    ]
)
#: front end of the posterior part (body and tail), in mm from the centre
BOUNDARY = 1.0


@dataclass(frozen=True)
class Sample:
    """A drawn volume.

    Attributes:
        image: float32, 1 mm, RAS.
        labels: uint8 on the same grid: 1 anterior, 2 posterior hippocampus.
    """

    image: sitk.Image
    labels: sitk.Image


def draw_sample(seed: int = 0) -> Sample:
    """Draw the crop; ``seed`` chooses the noise."""
    right, front, head = _coordinates()
    position, centres_right, centres_head, half_widths, half_heights = SECTIONS.T
    u = right - np.interp(front, position, centres_right)
    v = head - np.interp(front, position, centres_head)
    width = np.interp(front, position, half_widths, left=0.1, right=0.1)
    height = np.interp(front, position, half_heights, left=0.1, right=0.1)
    hippocampus = _ellipse(u, v, width, height)

    tissue = np.full(np.broadcast_shapes(u.shape, v.shape), WHITE, np.float32)
    # towards the skull base: cortex with sulci
    base = head + 15 + 2.5 * np.sin(right / 3.5) + 0.08 * front
    tissue[base < 0] = GREY
    tissue[base < -3.5] = FLUID
    # parahippocampal gyrus: cortex round a core of white matter, the cistern on its medial side
    gyrus = _ellipse(u - 4, v + 6, 9.0, 7.0)
    tissue[(gyrus < 1.35) & (u > 3)] = FLUID
    tissue[gyrus < 1] = GREY
    tissue[_ellipse(u - 4, v + 6.5, 5.5, 3.0) < 1] = WHITE
    # amygdala in front of and above the head; putamen and insula above, to the side
    amygdala = ((right - 2) / 9) ** 2 + ((front - 17) / 9) ** 2 + ((head - 3.5) / 6.5) ** 2
    tissue[amygdala < 1] = GREY
    tissue[((right + 15) / 6) ** 2 + (front / 30) ** 2 + ((head - 15) / 6) ** 2 < 1] = GREY
    # cisterns beside the brain stem
    tissue[((right - 17) / 3) ** 2 + ((front - 6) / 14) ** 2 + ((head - 4) / 9) ** 2 < 1] = FLUID
    # temporal horn: a thin sheet of fluid above and lateral of the hippocampus
    horn = _ellipse(u, v, width + 1.0, height + 1.0)
    tissue[(horn < 1) & (v - 0.5 * u > 1) & (front < 14) & (front > -20)] = FLUID
    tissue[hippocampus < 1] = HIPPOCAMPUS

    random = np.random.default_rng(seed)
    image = _averaged(tissue)
    texture = sitk.SmoothingRecursiveGaussian(_image(random.normal(size=image.shape).astype(np.float32)), TEXTURE_MM)
    image += voxels_of(texture) * (TEXTURE / np.std(voxels_of(texture)))
    image += random.normal(0, NOISE, image.shape).astype(np.float32)
    point_spread = [0.25] * 3  # mm^2, of the scanner
    scanned = sitk.DiscreteGaussian(_image(np.maximum(image, 0)), point_spread)
    part = np.where(front > BOUNDARY, 1, 2)
    share = [_averaged(((hippocampus < 1) & (part == value)).astype(np.float32)) for value in (1, 2)]
    labels = np.where(np.add(*share) >= 0.5, np.argmax(share, axis=0) + 1, 0).astype(np.uint8)
    return Sample(scanned, _image(labels))


def write_sample(path: Path, seed: int = 0) -> None:
    """Write the image of :func:`draw_sample` to ``path``, whole or not at all."""
    with OutputFiles() as files:
        write_image(files.begin(path), draw_sample(seed).image)


def _coordinates() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions to the right, front and head in mm from the middle, as arrays that broadcast to (k, j, i)."""
    axes = [(np.arange(size * FINE) + 0.5) / FINE - size / 2 for size in SIZE]
    return axes[0][None, None, :], axes[1][None, :, None], axes[2][:, None, None]


def _ellipse(u: np.ndarray, v: np.ndarray, width: np.ndarray | float, height: np.ndarray | float) -> np.ndarray:
    """Below 1 inside the ellipse with these half axes."""
    return (u / width) ** 2 + (v / height) ** 2


def _averaged(array: np.ndarray) -> np.ndarray:
    """Means over blocks of FINE^3."""
    i, j, k = SIZE
    return array.reshape(k, FINE, j, FINE, i, FINE).mean(axis=(1, 3, 5))


def _image(array: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))  # RAS in SimpleITK's LPS
    return image


if __name__ == "__main__":
    write_sample(Path(sys.argv[1]))
