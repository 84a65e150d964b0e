"""Segments on a volume's voxels. Segments that share a layer are one label map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from vtk.util.numpy_support import get_vtk_array_type, numpy_to_vtk, vtk_to_numpy

from ..geometry import Geometry, mask_box, whole_box
from ..io.segmentations import LABEL_TAG, STRUCTURE_TAG, structure_key
from ..models import Label
from .volume import ijk_to_ras

BINARY_LABELMAP = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()


@dataclass(frozen=True)
class Layer:
    """Structures that cannot overlap, because their segments share a layer.

    Attributes:
        values: (k, j, i) on the volume's grid, values of labels.
        labels: values of the structures that lie here, with voxels or without.
    """

    values: np.ndarray
    labels: frozenset[int]


def find_layers(segmentation: slicer.vtkSegmentation, structures: Sequence[Label], geometry: sitk.Image) -> list[Layer]:
    """The layers that hold segments of some structures, on an image's grid."""
    values_by_layer: dict[slicer.vtkOrientedImageData | None, dict[int, int]] = {}
    for label in structures:
        segment = find_segment(segmentation, label)
        if segment is not None:
            layer = segment.GetRepresentation(BINARY_LABELMAP)
            values_by_layer.setdefault(layer, {})[segment.GetLabelValue()] = label.value
    layers = []
    for layer, values in values_by_layer.items():
        found = resample_layer(layer, geometry)
        meaning = np.zeros(max(int(found.max()), *values) + 1, value_type(structures))
        meaning[list(values)] = list(values.values())
        layers.append(Layer(meaning[found], frozenset(values.values())))
    return layers


def label_map(node: slicer.vtkMRMLSegmentationNode, structures: Sequence[Label], geometry: sitk.Image) -> sitk.Image:
    """Some structures of a segmentation as an image with the geometry of another; overlaps show one of them."""
    merged = np.zeros(geometry.GetSize()[::-1], value_type(structures))
    for layer in find_layers(node.GetSegmentation(), structures, geometry):
        np.copyto(merged, layer.values, where=layer.values > 0)
    return Geometry.of(geometry).image(merged)


def value_type(structures: Sequence[Label]) -> np.dtype:
    """The smallest type that holds the values of structures."""
    return np.min_scalar_type(max((label.value for label in structures), default=0))


def find_segment(segmentation: slicer.vtkSegmentation, label: Label) -> slicer.vtkSegment | None:
    """The segment of a label; None where there is none.

    It is the one that was made for the structure, whatever name, colour and terminology the clinician has given it.
    Segments that do not say it, drawn by hand or by an earlier version, are those whose name and codes agree; of the
    latter one of both is enough, with the label's value. Where the clinician has copied a segment, it is the one with
    the name, and of these the one with the ID. Elsewhere IDs tell nothing: Slicer calls the user's own segments
    Segment_1, Segment_2 as well.
    """
    found = []
    for segment in segments_of(segmentation):
        made_for, named = tag(segment, STRUCTURE_TAG), segment.GetName() == label.name
        if made_for:
            agrees = made_for == structure_key(label)
        else:
            coded = _codes(tag(segment, segment.GetTerminologyEntryTagName())) == _codes(label.terminology_entry())
            agrees = named + coded + (tag(segment, LABEL_TAG) == str(label.value)) > 1
        if agrees:
            identified = segmentation.GetSegmentIdBySegment(segment) == segment_id(label)
            found.append(((bool(made_for), named, identified), segment))
    return max(found, key=lambda entry: entry[0])[1] if found else None


def segment_id(label: Label) -> str:
    """The ID of a label's segment, the same in the scene and in files."""
    return f"Segment_{label.value}"


def segments_of(segmentation: slicer.vtkSegmentation) -> list[slicer.vtkSegment]:
    """All segments in their order."""
    return [segmentation.GetNthSegment(index) for index in range(segmentation.GetNumberOfSegments())]


def tag(segment: slicer.vtkSegment, name: str) -> str:
    """A tag of a segment; empty where it has none of this name."""
    value = vtk.reference("")
    return str(value) if segment.GetTag(name, value) else ""


def _codes(entry: str) -> list[tuple[str, ...]]:
    """Scheme and value of category, type and modifier; contexts and meanings depend on language and version."""
    return [tuple(code.split("^")[:2]) for code in entry.split("~")[1:4]]


def segments_mask(segments: Sequence[slicer.vtkSegment], geometry: sitk.Image) -> np.ndarray:
    """Where segments lie on an image's grid, (k, j, i), bool.

    Segments that share a layer are brought to the grid together: one after the other they would take seconds.
    """
    values_by_layer: dict[slicer.vtkOrientedImageData | None, list[int]] = {}
    for segment in segments:
        values_by_layer.setdefault(segment.GetRepresentation(BINARY_LABELMAP), []).append(segment.GetLabelValue())
    inside = np.zeros(geometry.GetSize()[::-1], bool)
    for layer, values in values_by_layer.items():
        inside |= np.isin(resample_layer(layer, geometry), values)
    return inside


def resample_layer(layer: slicer.vtkOrientedImageData | None, geometry: sitk.Image) -> np.ndarray:
    """The values of a layer at the voxels of an image, (k, j, i), from the nearest voxel; 0 outside the layer."""
    shape = geometry.GetSize()[::-1]
    if layer is None or layer.IsEmpty():
        return np.zeros(shape, np.uint8)
    resampled = slicer.vtkOrientedImageData()
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
        layer, oriented_geometry(geometry), resampled, False, False
    )
    return vtk_to_numpy(resampled.GetPointData().GetScalars()).reshape(shape)


def oriented_image(values: np.ndarray, geometry: sitk.Image) -> slicer.vtkOrientedImageData:
    """A label map as VTK's, cut to the voxels that are not 0.

    Args:
        values: (k, j, i), whole numbers.
        geometry: image with this size.
    """
    bounds = _bounds(values)
    cut = np.ascontiguousarray(values[tuple(slice(low, high + 1) for low, high in reversed(bounds))])
    image = _empty_image(bounds, ijk_to_ras(Geometry.of(geometry)))
    scalars = numpy_to_vtk(cut.ravel(), deep=True, array_type=get_vtk_array_type(cut.dtype))
    scalars.SetName("ImageScalars")
    image.GetPointData().SetScalars(scalars)
    return image


def oriented_geometry(image: sitk.Image) -> slicer.vtkOrientedImageData:
    """All of an image, without voxels."""
    return _empty_image([(0, size - 1) for size in image.GetSize()], ijk_to_ras(Geometry.of(image)))


def _bounds(values: np.ndarray) -> list[tuple[int, int]]:
    """First and last index along i, j and k with a value that is not 0; all of the image where there is none."""
    box = mask_box(values != 0) or whole_box(values.shape)
    return [(side.start, side.stop - 1) for side in reversed(box)]


def _empty_image(bounds: Sequence[tuple[int, int]], ijk_to_world: vtk.vtkMatrix4x4) -> slicer.vtkOrientedImageData:
    """An image without voxels, with first and last index along i, j and k."""
    image = slicer.vtkOrientedImageData()
    image.SetExtent(*(index for pair in bounds for index in pair))
    image.SetGeometryFromImageToWorldMatrix(ijk_to_world)
    return image
