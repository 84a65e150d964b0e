"""What is kept with a segmentation node: what networks wrote, which slices were corrected, adapted parameters.

Scenes come from anywhere: what is kept is read as a whole, with bounds on all of it, or not at all.
"""

from __future__ import annotations

import base64
import binascii
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
from ..io.volume_image import voxels_of
from ..models import Label
from ..refine.adapted_file import AdaptedNotes
from ..refine.slices import AXES, Slices
from .layers import find_layers
from .segmentation import made_node, place_beside, refer_to_made

_OWN, _CORRECTED = "SESegmentation.Own", "SESegmentation.Corrected"
#: attributes that belong together, for whoever saves and restores them
EDIT_ATTRIBUTES = (_OWN, _CORRECTED)
_LONGEST_OWN, _LONGEST_CORRECTED = 2**26, 2**16  # bytes, characters
_MAXIMUM_RESULTS, _MAXIMUM_STRUCTURES, _MAXIMUM_SIZE = 32, 1024, 8192
#: voxels of all results together: so many, or so many times those of the largest volume in the scene
_VOXELS, _TIMES_LARGEST = 2**25, 8
_FARTHEST_MM, _LARGEST_SPACING_MM = 1e6, 1e3


@dataclass(frozen=True)
class OwnResult:
    """What a model wrote.

    Attributes:
        labels: label map on the grid of the result.
        structures: what its values mean.
    """

    labels: sitk.Image
    structures: tuple[Label, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON; the voxels compressed, some 10 kB for a crop and 300 kB for a whole brain."""
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
    def from_dict(cls, entry: Any, most_voxels: int) -> OwnResult:
        """Read what :meth:`to_dict` gave; ModelError or ValueError where it is something else, or larger."""
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
        voxels = _decompress(fields.text("values", longest=_LONGEST_OWN), math.prod(size) * kind.itemsize)
        labels = sitk.GetImageFromArray(np.frombuffer(voxels, kind).reshape(size[::-1]))
        labels.SetSpacing(fields.numbers("spacing", 3, low=1e-6, high=_LARGEST_SPACING_MM))
        labels.SetOrigin(fields.numbers("origin", 3, low=-_FARTHEST_MM, high=_FARTHEST_MM))
        labels.SetDirection(directions.ravel().tolist())
        return cls(labels, structures)

    def edited(self, segmentation: slicer.vtkSegmentation) -> np.ndarray:
        """Voxels (k, j, i) in which a segment is no longer as it was written; segments that are gone do not count."""
        written = voxels_of(self.labels)
        edited = np.zeros(written.shape, bool)
        for layer in find_layers(segmentation, self.structures, self.labels):
            own = np.zeros(int(max(written.max(), *layer.labels)) + 1, layer.values.dtype)
            own[list(layer.labels)] = list(layer.labels)
            edited |= layer.values != own[written]
        return edited


@dataclass(frozen=True)
class EditNotes:
    """What is kept with a segmentation.

    Attributes:
        own: what each model wrote last.
        corrected: slices that were found to be corrected before it was written.
    """

    own: tuple[OwnResult, ...] = ()
    corrected: tuple[Slices, ...] = ()

    @classmethod
    def read(cls, node: slicer.vtkMRMLSegmentationNode) -> EditNotes:
        """All of it.

        Raises:
            InputError: a part of it is wrong: of another version of this module, damaged, or made to do harm.
        """
        try:
            own = _read_own(node)
            corrected = _read_corrected(node.GetAttribute(_CORRECTED) or "", own)
        except (ValueError, zlib.error, SegmentationError) as error:
            raise InputError(
                _("The notes on what was edited in the segmentation {name} cannot be used.").format(
                    name=node.GetName()
                ),
                _("Choose a new segmentation as the output, so that no correction is lost."),
            ) from error
        return cls(own, corrected)

    @classmethod
    def usable(cls, node: slicer.vtkMRMLSegmentationNode) -> EditNotes:
        """All of it, or nothing where a part is wrong."""
        try:
            return cls.read(node)
        except InputError:
            return cls()

    def write(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Keep it with a segmentation."""
        node.SetAttribute(_OWN, json.dumps([own.to_dict() for own in self.own]))
        node.SetAttribute(_CORRECTED, " ".join(map(str, self.corrected)))


def _read_own(node: slicer.vtkMRMLSegmentationNode) -> tuple[OwnResult, ...]:
    entries = parse_json((node.GetAttribute(_OWN) or "[]").encode(), _LONGEST_OWN)
    if not isinstance(entries, list) or len(entries) > _MAXIMUM_RESULTS:
        raise ValueError("results")
    left = _most_voxels(node.GetScene())
    results = []
    for entry in entries:
        results.append(OwnResult.from_dict(entry, left))
        left -= math.prod(results[-1].labels.GetSize())
    return tuple(results)


def _read_corrected(text: str, own: Sequence[OwnResult]) -> tuple[Slices, ...]:
    if len(text) > _LONGEST_CORRECTED:
        raise ValueError("corrected slices")
    slices = tuple(Slices.parse(entry) for entry in text.split())
    for result in own:
        counts = result.labels.GetSize()[::-1]
        if any(entry.numbers[-1] >= counts[AXES[entry.axis]] for entry in slices):
            raise ValueError("corrected slices outside")
    return slices if own else ()  # of slices of an unknown grid nothing is known


def _most_voxels(scene: slicer.vtkMRMLScene | None) -> int:
    """How many voxels are read: what is kept belongs to volumes such as are in the scene."""
    nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode", scene) if scene is not None else []
    images = [image for image in (node.GetImageData() for node in nodes) if image is not None]
    return max([_VOXELS, *(_TIMES_LARGEST * image.GetNumberOfPoints() for image in images)])


def _decompress(text: str, size: int) -> bytes:
    """The bytes, if they are ``size``; never more of them than that are made."""
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(base64.b64decode(text, validate=True), size + 1)
    if len(content) != size or not unpacker.eof or unpacker.unused_data:
        raise ValueError("voxels")
    return content


_ROLE = "SESegmentation.Adapted"
#: characters; squeeze & excitation blocks have some hundred thousand numbers, of 4 bytes, at most
_LONGEST = 2**25


def adapted_text(node: slicer.vtkMRMLSegmentationNode) -> slicer.vtkMRMLTextNode | None:
    """The node that keeps the file of adapted parameters of a segmentation; None where there is none."""
    return made_node(node, _ROLE, "vtkMRMLTextNode")


def adapted_parameters(node: slicer.vtkMRMLSegmentationNode) -> bytes | None:
    """The file of adapted parameters that belongs to a segmentation; None where there is none that can be used."""
    text = adapted_text(node)
    written = text.GetText() if text is not None else None
    if not written or len(written) > _LONGEST:
        return None
    try:
        content = base64.b64decode(written, validate=True)
    except (binascii.Error, ValueError):  # changed by hand
        return None
    return content if AdaptedNotes.read(content) is not None else None


def keep_adapted_parameters(node: slicer.vtkMRMLSegmentationNode, content: bytes | None) -> None:
    """Keep a file of adapted parameters with a segmentation, in place of the one before; None: keep none."""
    scene, text = node.GetScene(), adapted_text(node)
    if content is None:
        if text is not None:
            scene.RemoveNode(text)
        return
    if text is None:
        name = scene.GenerateUniqueName(f"{node.GetName()} adapted parameters")
        text = scene.AddNewNodeByClass("vtkMRMLTextNode", name)
        refer_to_made(node, _ROLE, text)
        place_beside(text, node)
    text.SetText(base64.b64encode(content).decode())
