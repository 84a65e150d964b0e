"""Results as files: ``.seg.nrrd`` with names, colours and terminology, plain label maps, and maps of real numbers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import UsageError
from ..files import cannot_write, incomplete, store, sync
from ..files.staging import put
from ..geometry import bytes_of_voxel
from ..models import Label
from .itk_names import itk_folder
from .segmentations import algorithm_tags, segment_tags
from .volume_image import voxels_of

#: endings of files for maps of real numbers
MAP_ENDINGS = (".nii.gz", ".nii", ".nrrd")
_ENDINGS = (".nii.gz", ".seg.nrrd")
_NIFTI_HEADER = 352  # bytes before the voxels


def write_image(path: Path, image: sitk.Image, compressed: bool = True) -> None:
    """Write an image in the format that the file's name says, and verify it by reading it back.

    Args:
        path: in a folder where nothing else is; see :class:`~SESegmentationLib.files.OutputFiles`.
        image: 2-D or 3-D, one value in each voxel, or several.
        compressed: where the format leaves the choice.

    Raises:
        OutputError: the file cannot be written (disk full, for example).
    """
    name = path.name.lower()
    ending = next((ending for ending in _ENDINGS if name.endswith(ending)), path.suffix.lower())
    try:
        with itk_folder(path.parent) as folder:
            written = Path(folder, f"image{ending}")  # ITK knows no endings in capitals, and not every name
            reason = _try_to_write(str(written), image, compressed)
            if written.parent.samefile(path.parent):
                put(written, path)
            else:
                store(path, written.read_bytes())
    except OSError as error:
        raise cannot_write(path, error) from error
    if reason is not None:
        raise incomplete(path, image.GetNumberOfPixels() * bytes_of_voxel(image)) from reason


def _try_to_write(name: str, image: sitk.Image, compressed: bool) -> Exception | None:
    """Write an image and read it back; returns the error, if any. ITK does not report every truncated file."""
    try:
        sitk.WriteImage(image, name, useCompression=compressed)
        sync(Path(name))
        size = _NIFTI_HEADER + image.GetNumberOfPixels() * bytes_of_voxel(image)
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
