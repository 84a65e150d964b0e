"""What the clinician changed in a segmentation since networks wrote into it, also in scenes that are loaded again.

The segmentation node stores, as attributes, what each model wrote last, and which slices were corrected before that:
attributes are saved with the scene and follow the frames of sequences. Scenes are not trusted: attributes are read
as a whole, with bounds on all of it, or not at all.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer
from slicer.i18n import tr as _

from ..errors import InputError, SegmentationError
from ..files.json_files import Fields, parse_json
from ..geometry import AXES, Geometry, Slices, edited_slices, same_grid, slices_mask
from ..io.segmentations import structure_key
from ..io.volume_image import voxels_of
from ..models import Label
from .layers import find_layers, find_segment, label_map
from .place import PLACE_ATTRIBUTE, grid_now, movement, record_place, segments_as_written
from .segmentation import check_voxels
from .volume import FARTHEST_MM, LARGEST_SPACING_MM, SMALLEST_SPACING_MM, image_from_volume_node, volume_geometry

_WRITTEN, _CORRECTED = "SESegmentation.Own", "SESegmentation.Corrected"
#: attributes that must be saved and restored together
EDIT_ATTRIBUTES = (_WRITTEN, _CORRECTED, PLACE_ATTRIBUTE)
_LONGEST_WRITTEN, _LONGEST_CORRECTED = 2**26, 2**16  # bytes, characters
_MAXIMUM_RESULTS, _MAXIMUM_STRUCTURES, _MAXIMUM_SIZE = 32, 1024, 8192
#: most voxels of all results together: the first number, or the second times those of the scene's largest volume
_VOXELS, _TIMES_LARGEST = 2**25, 8


@dataclass(frozen=True)
class WrittenLabels:
    """What a model wrote.

    Attributes:
        labels: label map on the grid of the result.
        structures: what its values mean.
    """

    labels: sitk.Image
    structures: tuple[Label, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON, with compressed voxels: about 10 kB for a crop and 300 kB for a whole brain."""
        values = voxels_of(self.labels)
        geometry = self.labels
        return {
            "structures": [label.to_dict() for label in self.structures],
            "size": geometry.GetSize(),
            "spacing": geometry.GetSpacing(),
            "origin": geometry.GetOrigin(),
            "direction": geometry.GetDirection(),
            "type": values.dtype.str,
            "values": base64.b64encode(zlib.compress(np.ascontiguousarray(values).tobytes())).decode(),
        }

    @classmethod
    def from_dict(cls, entry: Any, most_voxels: int) -> WrittenLabels:
        """Read what :meth:`to_dict` returned; ModelError or ValueError if it is invalid or larger."""
        fields = Fields(entry, "result")
        structures = tuple(map(Label.from_dict, fields.sequence("structures", most=_MAXIMUM_STRUCTURES)))
        if not structures or len({label.value for label in structures}) < len(structures):
            raise ValueError("structures")
        size = fields.numbers("size", 3, whole=True, low=1, high=_MAXIMUM_SIZE)
        if math.prod(size) > most_voxels:
            raise ValueError("size")
        directions = np.reshape(fields.numbers("direction", 9, low=-1.001, high=1.001), (3, 3))
        if not np.allclose(directions @ directions.T, np.eye(3), atol=1e-3):
            raise ValueError("direction")
        kind = np.dtype(fields.text("type", choices=("|u1", "<u2")))
        voxels = _decompress(fields.text("values", longest=_LONGEST_WRITTEN), math.prod(size) * kind.itemsize)
        labels = sitk.GetImageFromArray(np.frombuffer(voxels, kind).reshape(size[::-1]))
        labels.SetSpacing(fields.numbers("spacing", 3, low=SMALLEST_SPACING_MM, high=LARGEST_SPACING_MM))
        labels.SetOrigin(fields.numbers("origin", 3, low=-FARTHEST_MM, high=FARTHEST_MM))
        labels.SetDirection(directions.ravel().tolist())
        return cls(labels, structures)

    def edited(self, segmentation: slicer.vtkSegmentation) -> np.ndarray:
        """Voxels (k, j, i) in which a segment is no longer as it was written; segments that are gone do not count."""
        written = voxels_of(self.labels)
        edited = np.zeros(written.shape, bool)
        for layer in find_layers(segmentation, self.structures, self.labels):
            of_layer = np.zeros(int(max(written.max(), *layer.labels)) + 1, layer.values.dtype)
            of_layer[list(layer.labels)] = list(layer.labels)
            edited |= layer.values != of_layer[written]
        return edited


@dataclass(frozen=True)
class EditRecord:
    """What a segmentation node stores about edits.

    Attributes:
        written: what each model wrote last.
        corrected: slices that were found to be corrected before it was written.
    """

    written: tuple[WrittenLabels, ...] = ()
    corrected: tuple[Slices, ...] = ()

    @classmethod
    def read(cls, node: slicer.vtkMRMLSegmentationNode) -> EditRecord:
        """The record of a node, empty where it has none.

        Raises:
            InputError: a part of it is invalid: of another version of this module, damaged, or malicious; or the
                segments lie elsewhere than when it was written, because a transform was hardened; or they have become
                surfaces.
        """
        check_voxels(node)
        if movement(node) is not None:
            raise InputError(
                _(
                    "{name} was moved by a hardened transform, or given another geometry, since its result was written."
                ).format(name=node.GetName()),
                _("Move it back (harden the inverse transform), specify its old geometry, or segment into a new one."),
            )
        return cls._stored(node)

    @classmethod
    def is_valid(cls, node: slicer.vtkMRMLSegmentationNode) -> bool:
        """Whether what a node stores can be read, wherever its segments lie now and whatever they are made of."""
        try:
            cls._stored(node)
        except InputError:
            return False
        return True

    @classmethod
    def _stored(cls, node: slicer.vtkMRMLSegmentationNode) -> EditRecord:
        """What a node stores; InputError if a part of it is invalid."""
        try:
            written = _read_written(node)
            corrected = _read_corrected(node.GetAttribute(_CORRECTED) or "", written)
        except (ValueError, zlib.error, SegmentationError) as error:
            raise InputError(
                _("The record of edits in the segmentation {name} cannot be used.").format(name=node.GetName()),
                _("Choose a new segmentation as the output, so that no correction is lost."),
            ) from error
        return cls(written, corrected)

    @classmethod
    def usable(cls, node: slicer.vtkMRMLSegmentationNode) -> EditRecord:
        """The record, wherever the segments lie; an empty one where it is invalid, or they have become surfaces."""
        try:
            check_voxels(node)
            return cls._stored(node)
        except InputError:
            return cls()

    def write(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Store it with a segmentation."""
        node.SetAttribute(_WRITTEN, json.dumps([result.to_dict() for result in self.written]))
        node.SetAttribute(_CORRECTED, " ".join(map(str, self.corrected)))
        record_place(node)


def _read_written(node: slicer.vtkMRMLSegmentationNode) -> tuple[WrittenLabels, ...]:
    entries = parse_json((node.GetAttribute(_WRITTEN) or "[]").encode(), _LONGEST_WRITTEN)
    if not isinstance(entries, list) or len(entries) > _MAXIMUM_RESULTS:
        raise ValueError("results")
    left = _most_voxels(node.GetScene())
    results = []
    for entry in entries:
        results.append(WrittenLabels.from_dict(entry, left))
        left -= math.prod(results[-1].labels.GetSize())
    return tuple(results)


def _read_corrected(text: str, written: Sequence[WrittenLabels]) -> tuple[Slices, ...]:
    if len(text) > _LONGEST_CORRECTED:
        raise ValueError("corrected slices")
    slices = tuple(Slices.parse(entry) for entry in text.split())
    for result in written:
        counts = result.labels.GetSize()[::-1]
        if any(entry.numbers[-1] >= counts[AXES[entry.axis]] for entry in slices):
            raise ValueError("corrected slices outside")
    return slices if written else ()  # without a grid, slice numbers mean nothing


def _most_voxels(scene: slicer.vtkMRMLScene | None) -> int:
    """Most voxels to read: results belong to volumes like those in the scene."""
    nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode", scene) if scene is not None else []
    images = [image for image in (node.GetImageData() for node in nodes) if image is not None]
    return max([_VOXELS, *(_TIMES_LARGEST * image.GetNumberOfPoints() for image in images)])


def _decompress(text: str, size: int) -> bytes:
    """The decompressed bytes; ValueError unless there are ``size``. No more than that are ever decompressed."""
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(base64.b64decode(text, validate=True), size + 1)
    if len(content) != size or not unpacker.eof or unpacker.unused_data:
        raise ValueError("voxels")
    return content


def find_corrected_slices(node: slicer.vtkMRMLSegmentationNode) -> list[Slices]:
    """The slices that were corrected: those known from before, and those edited since."""
    record, segmentation = EditRecord.usable(node), segments_as_written(node)
    known = list(record.corrected)
    for result in record.written:
        known += edited_slices(_not_in(known, result.edited(segmentation)))
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
    slices = find_corrected_slices(node) if slices is None else slices
    if not slices:
        return None
    if not all(same_grid(result.labels, geometry) for result in EditRecord.usable(node).written):
        raise _other_volume(node)
    return slices_mask(slices, geometry.GetSize()[::-1])


def result_grid(node: slicer.vtkMRMLSegmentationNode, volume: slicer.vtkMRMLScalarVolumeNode) -> sitk.Image:
    """An image on the grid of the results in a segmentation: a model's, where slices are thick, or the volume's own.

    Args:
        node: the segmentation; where it was moved by a hardened transform, so is the grid.
        volume: its voxels are the grid of segmentations without a record, and of those that were sheared.
    """
    found = EditRecord.usable(node).written
    grid = grid_now(node, Geometry.of(found[-1].labels)) if found else None
    return image_from_volume_node(volume) if grid is None else grid.image(voxels_of(found[-1].labels))


def is_on_volume_grid(
    node: slicer.vtkMRMLSegmentationNode | None, volume: slicer.vtkMRMLScalarVolumeNode
) -> bool | None:
    """Whether the results in a segmentation lie on a volume's own grid; None where it holds no segment."""
    if node is None or not node.GetSegmentation().GetNumberOfSegments():
        return None
    return all(same_grid(result.labels, volume_geometry(volume)) for result in EditRecord.usable(node).written)


def check_output_grid(
    node: slicer.vtkMRMLSegmentationNode, volume: slicer.vtkMRMLScalarVolumeNode, spacing: Sequence[float]
) -> None:
    """Refuse to write results of a volume into a segmentation that holds corrected slices of another.

    Takes little time: voxels are compared only where the grids differ.

    Args:
        spacing: of the model, in mm; slices corrected on its grid over the volume are accepted too.

    Raises:
        InputError: it holds such slices; or the record of its edits is invalid.
    """
    geometry = volume_geometry(volume)
    for result in EditRecord.read(node).written:
        fits = same_grid(result.labels, geometry) or _covers(result.labels, geometry, spacing)
        if not fits and find_corrected_slices(node):
            raise _other_volume(node)


def check_result_grid(
    node: slicer.vtkMRMLSegmentationNode, volume: slicer.vtkMRMLScalarVolumeNode, spacing: Sequence[float]
) -> None:
    """Refuse a result whose volume has other voxels by now.

    Args:
        node: the segmentation.
        volume: that it refers to.
        spacing: of the model, in mm.

    Raises:
        InputError: the volume was cropped, resampled, moved or mirrored since; or the record of edits is invalid.
    """
    written, geometry = EditRecord.read(node).written, volume_geometry(volume)
    if not written or same_grid(written[-1].labels, geometry) or _covers(written[-1].labels, geometry, spacing):
        return
    raise InputError(
        _("{volume} was cropped, resampled, moved or mirrored since {node} was made of it.").format(
            volume=volume.GetName(), node=node.GetName()
        ),
        _("Put it back as it was, or load it again and segment it with {node} as the output.").format(
            node=node.GetName()
        ),
    )


def _covers(labels: sitk.Image, volume: Geometry, spacing: Sequence[float]) -> bool:
    """Whether a label map has voxels of this size and the volume's centre, and covers the volume."""
    indices, size = Geometry.of(labels).indices(volume.corners()), np.array(labels.GetSize())
    slack = size - np.ptp(indices, axis=0)
    centred = np.allclose((indices.min(0) + indices.max(0)) / 2, (size - 1) / 2, atol=0.01)
    return np.allclose(labels.GetSpacing(), spacing) and centred and bool((np.abs(slack) < 1.01).all())


def _other_volume(node: slicer.vtkMRMLSegmentationNode) -> InputError:
    return InputError(
        _("The segmentation {node} holds corrected slices of another volume.").format(node=node.GetName()),
        _("Choose a new segmentation as the output, so that no correction is lost."),
    )


def edited_voxels(node: slicer.vtkMRMLSegmentationNode, structures: Sequence[Label]) -> dict[int, int]:
    """By value of the structure, how many of its voxels were added or removed since they were written."""
    counts, segmentation = dict.fromkeys((label.value for label in structures), 0), segments_as_written(node)
    sought = {structure_key(label): label.value for label in structures}
    for result in EditRecord.usable(node).written:
        written = voxels_of(result.labels)
        for layer in find_layers(segmentation, result.structures, result.labels):
            differs = np.nonzero(layer.values != np.where(np.isin(written, list(layer.labels)), written, 0))
            changed = np.concatenate([layer.values[differs], written[differs]])
            for label in result.structures:
                value = sought.get(structure_key(label))  # another model's may be another one
                if value is not None and label.value in layer.labels:
                    counts[value] += int(np.count_nonzero(changed == label.value))
    return counts


def corrected_labels(
    node: slicer.vtkMRMLSegmentationNode, structures: Sequence[Label], geometry: sitk.Image
) -> sitk.Image:
    """The label map to learn from: a segmentation as it is now, but structures without a segment as they were written.

    A segment that was deleted is no correction: it would be learnt that its structure is not there.

    Args:
        node: the segmentation.
        structures: that are learnt.
        geometry: an image on the grid of the results.
    """
    labels = label_map(node, structures, geometry)
    values = sitk.GetArrayFromImage(labels)
    for result in EditRecord.usable(node).written:
        known = [label for label in result.structures if label in structures]
        deleted = [label.value for label in known if find_segment(node.GetSegmentation(), label) is None]
        if deleted and same_grid(result.labels, geometry):
            written = voxels_of(result.labels)
            np.copyto(values, written, where=(values == 0) & np.isin(written, deleted), casting="same_kind")
    return Geometry.of(labels).image(values)


def drawn_voxels(node: slicer.vtkMRMLSegmentationNode, geometry: sitk.Image) -> np.ndarray | None:
    """Where voxels (k, j, i) on the grid of the results were drawn or erased since they were written; None for nowhere.

    Args:
        node: the segmentation.
        geometry: an image on that grid; results on another one do not count.
    """
    results = [result for result in EditRecord.usable(node).written if same_grid(result.labels, geometry)]
    drawn = [result.edited(node.GetSegmentation()) for result in results]
    return np.any(drawn, axis=0) if any(voxels.any() for voxels in drawn) else None


def record_written_labels(
    node: slicer.vtkMRMLSegmentationNode,
    structures: Sequence[Label],
    geometry: sitk.Image,
    corrected: Sequence[Slices],
) -> None:
    """Record that a network has just written into a segmentation: what differs later is the clinician's edit.

    Args:
        node: the segmentation.
        structures: that were written.
        geometry: that of the result.
        corrected: the slices that had been corrected before, and were left as they were.
    """
    segmentation = node.GetSegmentation()
    written = [find_segment(segmentation, label) for label in structures]
    results = []
    for result in EditRecord.usable(node).written:  # other models' structures, still as they were
        others = tuple(label for label in result.structures if find_segment(segmentation, label) not in written)
        if others and same_grid(result.labels, geometry):
            results.append(WrittenLabels(result.labels, others))
    if structures:  # not where the clinician has deleted all of them
        results.append(WrittenLabels(label_map(node, structures, geometry), tuple(structures)))
    EditRecord(tuple(results), tuple(corrected)).write(node)


def _not_in(slices: Sequence[Slices], voxels: np.ndarray) -> np.ndarray:
    return voxels & ~slices_mask(slices, voxels.shape)
