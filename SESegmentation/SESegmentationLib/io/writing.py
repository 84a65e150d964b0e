"""Results as files: ``.seg.nrrd`` with names, colours and terminology, plain label maps, and pictures."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image, ImageDraw, ImageFont

from ..errors import UsageError, printable
from ..files import cannot_write, incomplete, store, sync
from ..geometry import Geometry, mask_box, whole_box
from ..models import Label
from .segmentations import algorithm_tags, segment_tags
from .volume_image import voxels_of

#: endings of files for maps of real numbers
MAP_ENDINGS = (".nii.gz", ".nii", ".nrrd")
_ENDINGS = (".nii.gz", ".seg.nrrd")
_NIFTI_HEADER = 352  # bytes before the voxels
PANEL = 420  # pixels of a panel's longer side
MARGIN = 30.0  # mm shown round the segmentation
OPACITY = 0.35  # of a structure's inside; its outline is opaque
_GAP = 12
_LINE = 22
_COLUMNS = 3
_FEW = 8  # structures
_BACKGROUND = (18, 20, 24)
_TEXT = (225, 228, 232)


def write_image(path: Path, image: sitk.Image, compressed: bool = True) -> None:
    """Write an image in the format that the file's name says, and verify it by reading it back.

    Args:
        path: in a folder where nothing else is; see :class:`~SESegmentationLib.files.OutputFiles`.
        image: 2-D or 3-D, one value in each voxel.
        compressed: where the format leaves the choice.

    Raises:
        OutputError: the file cannot be written (disk full, for example).
    """
    name = path.name.lower()
    ending = next((ending for ending in _ENDINGS if name.endswith(ending)), path.suffix.lower())
    try:
        with _plain_folder(path.parent) as folder:
            written = f"{folder}/image{ending}"
            reason = _try_to_write(written, image, compressed)
            os.replace(written, path)  # ITK knows no endings in capitals, and no names that are not UTF-8
    except OSError as error:
        raise cannot_write(path, error) from error
    if reason is not None:
        pixels = image.GetNumberOfPixels() * image.GetSizeOfPixelComponent()
        raise incomplete(path, pixels) from reason


def _try_to_write(name: str, image: sitk.Image, compressed: bool) -> Exception | None:
    """Write an image and read it back; returns the error, if any. ITK does not report every truncated file."""
    try:
        sitk.WriteImage(image, name, useCompression=compressed)
        sync(Path(name))
        size = _NIFTI_HEADER + image.GetNumberOfPixels() * image.GetSizeOfPixelComponent()
        if name.endswith(".nii") and os.path.getsize(name) < size:
            raise ValueError("cut off")  # ITK reads zeros instead, as the last slices of labels have anyway
        _compare(image, sitk.ReadImage(name), has_geometry=not name.endswith(".png"))
    except (RuntimeError, ValueError) as error:
        Path(name).touch()
        return error
    return None


def _compare(image: sitk.Image, read: sitk.Image, has_geometry: bool) -> None:
    """Raise ValueError where an image is not what was written."""
    if read.GetSize() != image.GetSize() or read.GetPixelID() != image.GetPixelID():
        raise ValueError("another size or type")
    bytes_of = (np.ascontiguousarray(voxels_of(part)).view(np.uint8) for part in (image, read))
    if not np.array_equal(next(bytes_of), next(bytes_of)):
        raise ValueError("other voxels")
    close = 1e-2 * max(image.GetSpacing())  # formats keep single precision
    if has_geometry and not (
        np.allclose(read.GetSpacing(), image.GetSpacing(), rtol=1e-3)
        and np.allclose(read.GetOrigin(), image.GetOrigin(), rtol=1e-5, atol=close)
        and np.allclose(read.GetDirection(), image.GetDirection(), atol=2e-2)
    ):
        raise ValueError("another geometry")


@contextlib.contextmanager
def _plain_folder(folder: Path) -> Iterator[str]:
    """A name of ``folder`` that is UTF-8, as ITK's names are: its own, or that of a link to it."""
    name = os.path.abspath(folder)
    try:
        if os.name == "nt" or os.fsencode(name) == name.encode("utf-8"):
            yield name
            return
    except UnicodeEncodeError:
        pass
    with tempfile.TemporaryDirectory() as temporary:
        link = os.path.join(temporary, "folder")
        os.symlink(name, link, target_is_directory=True)
        yield link


def write_segmentation(
    path: Path,
    labels: sitk.Image,
    structures: Sequence[Label],
    algorithm: str = "SESegmentation",
    corrected: bool = False,
) -> None:
    """Write a label map in the format that the file's name says.

    Args:
        path: ends in ``.seg.nrrd`` (segments with name, colour and terminology), ``.nii.gz`` or ``.nii`` (the values),
            or ``.png`` (the values of a single slice).
        labels: 3-D label map of unsigned integers, in LPS as everywhere in SimpleITK.
        structures: what the values mean; structures without a voxel become empty segments.
        algorithm: what found them, for DICOM; see :func:`.segmentations.algorithm_name`.
        corrected: a person contributed to it, see :func:`.segmentations.algorithm_tags`.

    Raises:
        UsageError: the name ends in .dcm, or there are several slices for a PNG file.
        SegmentationError: the file cannot be written (disk full, for example).
    """
    if path.suffix.lower() == ".dcm":  # ITK would write an image that refers to nothing
        raise UsageError(f"{path.name} would not be a DICOM segmentation.", "Use the command: sesegment run -o x.dcm.")
    # without the fields that came with the input's file: they do not hold for labels
    image = sitk.GetImageFromArray(voxels_of(labels))
    image.CopyInformation(labels)
    name = path.name.lower()
    if name.endswith(".png"):
        if image.GetSize()[2] > 1:
            raise UsageError(f"{image.GetSize()[2]} slices do not fit into {path.name}.", "Write .nii.gz instead.")
        image = image[:, :, 0]
    elif name.endswith(".seg.nrrd"):
        for key, value in segment_fields(image, structures, algorithm_tags(algorithm, corrected)).items():
            image.SetMetaData(key, value)
    write_image(path, image)


def segment_fields(
    labels: sitk.Image, structures: Sequence[Label], more_tags: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The header fields by which Slicer knows the segments of a label map: all in one layer over the whole grid.

    ``more_tags`` are those that all segments have, besides what each is.
    """
    extent = " ".join(f"0 {size - 1}" for size in labels.GetSize())
    fields = {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ConversionParameters": "",
        "Segmentation_MasterRepresentation": "Binary labelmap",  # read by every version of Slicer
        "Segmentation_SourceRepresentation": "Binary labelmap",  # the name in newer ones
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    for index, label in enumerate(structures):
        tags = segment_tags(label) | dict(more_tags or {})
        segment = {
            "ID": f"Segment_{label.value}",
            "Name": label.name,
            "NameAutoGenerated": "0",
            "Color": " ".join(f"{channel / 255:g}" for channel in label.color),
            "ColorAutoGenerated": "0",
            "LabelValue": str(label.value),
            "Layer": "0",
            "Extent": extent,
            "Tags": "".join(f"{name}:{text}|" for name, text in tags.items()),
        }
        fields |= {f"Segment{index}_{key}": value for key, value in segment.items()}
    return fields


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
