"""What the clinician changed in a segmentation since networks wrote into it, also in scenes that are loaded again.

With the segmentation node are kept what each model wrote last, and which slices were found to be corrected before it
was written; both as attributes, so that they are saved with the scene and follow the frames of sequences.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from slicer.i18n import tr as _

from ..errors import InputError
from ..io.volume_image import voxels_of
from ..models import Label
from ..refine.slices import Slices, edited_slices, slices_mask
from .layers import find_layers, find_segment, label_map
from .notes import EditNotes, OwnResult
from .volume import ijk_to_ras


def find_corrections(node: slicer.vtkMRMLSegmentationNode) -> list[Slices]:
    """The slices that were corrected: those known from before, and those edited since."""
    notes = EditNotes.usable(node)
    known = list(notes.corrected)
    for own in notes.own:
        known += edited_slices(_not_in(known, own.edited(node.GetSegmentation())))
    numbers: dict[str, set[int]] = {}
    for entry in known:
        numbers.setdefault(entry.axis, set()).update(entry.numbers)
    return [Slices(axis, tuple(sorted(found))) for axis, found in numbers.items()]


def corrected_mask(
    node: slicer.vtkMRMLSegmentationNode, geometry: sitk.Image, slices: Sequence[Slices] | None = None
) -> np.ndarray | None:
    """The voxels (k, j, i) of the corrected slices on an image's grid; None where no slice was corrected.

    Raises:
        InputError: they are slices of a volume with another grid.
    """
    slices = find_corrections(node) if slices is None else slices
    if not slices:
        return None
    if not all(_same_grid(own.labels, geometry) for own in EditNotes.usable(node).own):
        raise _other_volume(node)
    return slices_mask(slices, geometry.GetSize()[::-1])


def result_grid(node: slicer.vtkMRMLSegmentationNode, image: sitk.Image) -> sitk.Image:
    """An image on the grid of the results in a segmentation: a model's, where slices are thick, or the volume's own.

    Args:
        node: the segmentation.
        image: the volume, for segmentations of which nothing is known.
    """
    found = EditNotes.usable(node).own
    return found[-1].labels if found else image


def is_on_grid(node: slicer.vtkMRMLSegmentationNode | None, volume: slicer.vtkMRMLScalarVolumeNode) -> bool | None:
    """Whether the results in a segmentation lie on a volume's own grid; None where it holds no segment."""
    if node is None or not node.GetSegmentation().GetNumberOfSegments():
        return None
    return all(_is_grid_of(own.labels, volume) for own in EditNotes.usable(node).own)


def check_grid(
    node: slicer.vtkMRMLSegmentationNode, volume: slicer.vtkMRMLScalarVolumeNode, spacing: Sequence[float]
) -> None:
    """Refuse to write results of a volume into a segmentation that holds corrected slices of another.

    Takes little time: voxels are compared only where the grids differ.

    Args:
        spacing: of the model, in mm: its grid over the volume is as good as the volume's own.

    Raises:
        InputError: so it is; or what is known of its corrections cannot be used.
    """
    for own in EditNotes.read(node).own:
        fits = _is_grid_of(own.labels, volume) or _is_grid_over(own.labels, volume, spacing)
        if not fits and find_corrections(node):
            raise _other_volume(node)


def _is_grid_of(labels: sitk.Image, volume: slicer.vtkMRMLScalarVolumeNode) -> bool:
    same = np.allclose(slicer.util.arrayFromVTKMatrix(ijk_to_ras(labels)), _ijk_to_ras(volume))
    return same and labels.GetSize() == volume.GetImageData().GetDimensions()


def _is_grid_over(labels: sitk.Image, volume: slicer.vtkMRMLScalarVolumeNode, spacing: Sequence[float]) -> bool:
    """Whether a label map has voxels of this size and the volume's centre, and covers the volume."""
    volume_to_labels = np.linalg.inv(slicer.util.arrayFromVTKMatrix(ijk_to_ras(labels))) @ _ijk_to_ras(volume)
    size, own_size = np.array(volume.GetImageData().GetDimensions()), np.array(labels.GetSize())
    corners = np.array(list(itertools.product(*((-0.5, n - 0.5) for n in size))))
    there = corners @ volume_to_labels[:3, :3].T + volume_to_labels[:3, 3]
    middle, slack = (there.min(0) + there.max(0)) / 2, own_size - np.ptp(there, axis=0)
    centred = np.allclose(middle, (own_size - 1) / 2, atol=0.01)
    return np.allclose(labels.GetSpacing(), spacing) and centred and bool((np.abs(slack) < 1.01).all())


def _ijk_to_ras(volume: slicer.vtkMRMLScalarVolumeNode) -> np.ndarray:
    to_ras = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(to_ras)
    return slicer.util.arrayFromVTKMatrix(to_ras)


def _other_volume(node: slicer.vtkMRMLSegmentationNode) -> InputError:
    return InputError(
        _("The segmentation {node} holds corrected slices of another volume.").format(node=node.GetName()),
        _("Choose a new segmentation as the output, so that no correction is lost."),
    )


def edited_voxels(node: slicer.vtkMRMLSegmentationNode, structures: Sequence[Label]) -> dict[int, int]:
    """By value of the structure, how many of its voxels were added or removed since they were written."""
    counts = dict.fromkeys((label.value for label in structures), 0)
    for own in EditNotes.usable(node).own:
        written = voxels_of(own.labels)
        for layer in find_layers(node.GetSegmentation(), own.structures, own.labels):
            differs = np.nonzero(layer.values != np.where(np.isin(written, list(layer.labels)), written, 0))
            for values in (layer.values[differs], written[differs]):
                for value, count in zip(*np.unique(values, return_counts=True), strict=True):
                    if int(value) in counts and int(value) in layer.labels:
                        counts[int(value)] += int(count)
    return counts


def remember_written(
    node: slicer.vtkMRMLSegmentationNode,
    structures: Sequence[Label],
    geometry: sitk.Image,
    corrected: Sequence[Slices],
) -> None:
    """Note that a network has just written into a segmentation: from now on, what differs is the clinician's.

    Args:
        node: the segmentation.
        structures: that were written.
        geometry: that of the result.
        corrected: the slices that had been corrected before, and were kept.
    """
    segmentation = node.GetSegmentation()
    written = [find_segment(segmentation, label) for label in structures]
    kept = []
    for own in EditNotes.usable(node).own:  # other models' structures, still as they were
        others = tuple(label for label in own.structures if find_segment(segmentation, label) not in written)
        if others and _same_grid(own.labels, geometry):
            kept.append(OwnResult(own.labels, others))
    kept.append(OwnResult(label_map(node, structures, geometry), tuple(structures)))
    EditNotes(tuple(kept), tuple(corrected)).write(node)


def _not_in(slices: Sequence[Slices], voxels: np.ndarray) -> np.ndarray:
    return voxels & ~slices_mask(slices, voxels.shape)


def _same_grid(one: sitk.Image, other: sitk.Image) -> bool:
    return one.GetSize() == other.GetSize() and all(
        np.allclose(getattr(one, ask)(), getattr(other, ask)(), atol=1e-4)
        for ask in ("GetSpacing", "GetOrigin", "GetDirection")
    )
