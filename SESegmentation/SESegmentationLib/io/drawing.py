"""Pictures of a segmentation: slices with its outlines, names, colours and volumes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image, ImageDraw, ImageFont

from ..files import store
from ..geometry import Geometry, mask_box, whole_box
from ..models import Label
from ..plain_text import printable
from .volume_image import voxels_of

PANEL = 420  # pixels of a panel's longer side
MARGIN = 30.0  # mm shown round the segmentation
OPACITY = 0.35  # of a structure's inside; its outline is opaque
_GAP = 12
_LINE = 22
_COLUMNS = 3
_FEW = 8  # structures
_BACKGROUND = (18, 20, 24)
_TEXT = (225, 228, 232)


@dataclass(frozen=True)
class _Plane:
    """One view: the numpy axis (of an LPS image: k, j, i) that is cut, and letters of its left, right, top, bottom."""

    name: str
    axis: int
    letters: tuple[str, str, str, str]


# radiological convention: the patient's right is on the left of the picture
_PLANES = (
    _Plane("axial", 0, ("R", "L", "A", "P")),
    _Plane("coronal", 1, ("R", "L", "S", "I")),
    _Plane("sagittal", 2, ("A", "P", "S", "I")),
)


def write_picture(
    path: Path,
    image: sitk.Image,
    labels: sitk.Image,
    structures: Sequence[Label],
    volumes_ml: Sequence[float],
    title: str,
) -> None:
    """Write the picture of :func:`draw_picture` as PNG; OutputError where it cannot be written."""
    store(path, as_png(draw_picture(image, labels, structures, volumes_ml, title)))


def draw_picture(
    image: sitk.Image, labels: sitk.Image, structures: Sequence[Label], volumes_ml: Sequence[float], title: str
) -> Image.Image:
    """Draw the three slices that show most of the segmentation.

    Args:
        image: the volume, any orientation.
        labels: the segmentation; if it is on another grid, ``image`` is resampled to it.
        structures: its structures.
        volumes_ml: their volumes in ml.
        title: one line on top.
    """
    panels = _panels(image, labels, structures, PANEL, OPACITY)
    legend = [(label.name, label.color, ml) for label, ml in zip(structures, volumes_ml, strict=True)]
    return _compose(panels, legend, printable(title))


def draw_slices(
    image: sitk.Image, labels: sitk.Image, structures: Sequence[Label], size: int, most_of: sitk.Image | None = None
) -> Image.Image:
    """The three slices that show most of a segmentation, side by side, with outlines only.

    Args:
        image: the volume, any orientation.
        labels: the segmentation, as in :func:`draw_picture`.
        structures: its structures.
        size: pixels of a slice's longer side.
        most_of: another segmentation on the same grid, of which the slices show most: for pictures of one place.
    """
    picture = Image.new("RGB", (len(_PLANES) * size, size))
    for number, panel in enumerate(_panels(image, labels, structures, size, 0.0, most_of)):
        picture.paste(panel, (number * size, 0))
    return picture


def _panels(
    image: sitk.Image,
    labels: sitk.Image,
    structures: Sequence[Label],
    size: int,
    opacity: float,
    most_of: sitk.Image | None = None,
) -> list[Image.Image]:
    grid = Geometry.of(labels)
    if Geometry.of(image) != grid:
        image = grid.resample(image, sitk.sitkLinear)
    oriented = sitk.DICOMOrient(labels, "LPS")
    spacing = oriented.GetSpacing()[::-1]
    chosen = voxels_of(sitk.DICOMOrient(most_of or labels, "LPS"))
    window = _window(chosen, spacing)
    chosen, values = chosen[window], voxels_of(oriented)[window]
    grey = _grey(voxels_of(sitk.DICOMOrient(image, "LPS"))[window])
    palette = {label.value: label.color for label in structures}
    return [_panel(plane, _fullest(chosen, plane), grey, values, spacing, palette, size, opacity) for plane in _PLANES]


def as_png(picture: Image.Image) -> bytes:
    """The content of a PNG file."""
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return content.getvalue()


def _window(values: np.ndarray, spacing: Sequence[float]) -> tuple[slice, ...]:
    """The part of the volume to show: the segmentation with a margin; all of it where nothing was found."""
    return mask_box(values != 0, [round(MARGIN / mm) for mm in spacing]) or whole_box(values.shape)


def _grey(array: np.ndarray) -> np.ndarray:
    """Intensities as uint8: the 1st to 99.5th percentile of what is not the darkest value become black to white."""
    array = array.astype(np.float32)
    foreground = array[array > array.min()]
    low, high = np.percentile(foreground if foreground.size else array, (1, 99.5))
    return (np.clip((array - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)


def _fullest(values: np.ndarray, plane: _Plane) -> int:
    """The slice that shows most of a segmentation; the middle one where there is none."""
    foreground = np.count_nonzero(values, axis=tuple(axis for axis in range(3) if axis != plane.axis))
    return int(np.argmax(foreground)) if foreground.any() else values.shape[plane.axis] // 2


def _panel(
    plane: _Plane,
    index: int,
    grey: np.ndarray,
    values: np.ndarray,
    spacing: Sequence[float],
    palette: dict[int, tuple[int, int, int]],
    side: int,
    opacity: float,
) -> Image.Image:
    """Slice ``index`` with overlay, its pixels square in mm, ``side`` pixels on its longer side."""
    others = tuple(axis for axis in range(3) if axis != plane.axis)
    rows, columns = (spacing[axis] for axis in others)
    slice_grey, slice_values = (np.take(array, index, axis=plane.axis) for array in (grey, values))
    if plane.axis != 0:  # rows run from inferior to superior; a picture from top to bottom
        slice_grey, slice_values = slice_grey[::-1], slice_values[::-1]
    height, width = slice_grey.shape[0] * rows, slice_grey.shape[1] * columns
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    colours = np.asarray(Image.fromarray(slice_grey).resize(size, Image.Resampling.BICUBIC).convert("RGB")).copy()
    regions = np.asarray(Image.fromarray(slice_values.astype(np.int32)).resize(size, Image.Resampling.NEAREST))
    # wide lines would hide many small structures
    outline = _outline(regions, width=2 if side >= PANEL or len(palette) <= _FEW else 1)
    for value, colour in palette.items():
        inside = regions == value
        colours[inside] = (1 - opacity) * colours[inside] + opacity * np.asarray(colour)
        colours[inside & outline] = colour
    picture = Image.new("RGB", (side, side), (0, 0, 0))
    picture.paste(Image.fromarray(colours), ((side - size[0]) // 2, (side - size[1]) // 2))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    left, right, top, bottom = plane.letters
    for letter, place, anchor in (
        (left, (6, side // 2), "lm"),
        (right, (side - 6, side // 2), "rm"),
        (top, (side // 2, 4), "ma"),
        (bottom, (side // 2, side - 4), "md"),
    ):
        draw.text(place, letter, _TEXT, font, anchor, stroke_width=2, stroke_fill=(0, 0, 0))
    draw.text((6, 4), plane.name, _TEXT, font, stroke_width=2, stroke_fill=(0, 0, 0))
    return picture


def _outline(regions: np.ndarray, width: int) -> np.ndarray:
    """Pixels of a region that touch another region or the background, ``width`` pixels wide."""
    edge = np.zeros(regions.shape, bool)
    for axis in (0, 1):
        for step in range(1, width + 1):
            for shift in (step, -step):
                edge |= np.roll(regions, shift, axis) != regions
    return edge


def _compose(
    panels: Sequence[Image.Image], legend: Sequence[tuple[str, tuple[int, int, int], float]], title: str
) -> Image.Image:
    lines = -(-len(legend) // _COLUMNS)
    width = len(panels) * PANEL + (len(panels) + 1) * _GAP
    top = 2 * _GAP + _LINE
    picture = Image.new("RGB", (width, top + PANEL + 2 * _GAP + lines * _LINE), _BACKGROUND)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    draw.text((_GAP, _GAP), title, _TEXT, ImageFont.load_default(18))
    for index, panel in enumerate(panels):
        picture.paste(panel, (_GAP + index * (PANEL + _GAP), top))
    for index, (name, colour, volume) in enumerate(legend):
        column, line = divmod(index, lines)
        x, y = _GAP + column * (PANEL + _GAP), top + PANEL + _GAP + line * _LINE
        draw.rectangle((x, y + 4, x + 14, y + 18), fill=colour)
        draw.text((x + 22, y + 2), name, _TEXT, font)
        draw.text((x + PANEL - 6, y + 2), f"{volume:.2f} ml", _TEXT, font, "ra")
    return picture
