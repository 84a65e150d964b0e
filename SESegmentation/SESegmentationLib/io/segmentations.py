"""Segmentations as label maps and as segments with names, codes and tags, as ``.seg.nrrd`` and Slicer keep them.

In a ``.seg.nrrd`` a structure is found by its name and code: Slicer renumbers its values whenever it saves. It also
crops the file to what is segmented, and saves overlapping segments in several layers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..geometry import Geometry, same_grid, triple
from ..memory import require_memory
from ..models.labels import Code, Label, same_structure
from .reading import read_label_layers
from .volume_image import voxels_of

#: Slicer's tag for the review status of a segment, and its value for what a network wrote: not started
STATUS_TAG, NOT_STARTED = "Segmentation.Status", "notstarted"
#: DICOM (0062,0008) and (0062,0009): Slicer's export of DICOM SEG says MANUAL where one of them is missing
ALGORITHM_TYPE_TAG, ALGORITHM_NAME_TAG = "DICOM.SegmentAlgorithmType", "DICOM.SegmentAlgorithmName"
AUTOMATIC, SEMIAUTOMATIC = "AUTOMATIC", "SEMIAUTOMATIC"
_LONGEST = 64  # characters of DICOM's value representation LO
#: tag of a segment: the value of the label that it was made for, however the user calls it
LABEL_TAG = "SESegmentation.Label"
#: tag of a segment: the structure that it was made for, whatever name and terminology the user gives it
STRUCTURE_TAG = "SESegmentation.Structure"
#: types that say nothing: none, and "Tissue", which Slicer gives to segments without a known type
_UNTOLD = {"", "85756007"}
_REMEDY = "Rename the segments in Slicer, or correct their terminology, and save the segmentation again."
_FIELD = re.compile(r"Segment(\d{1,6})_(ID|Name|LabelValue|Layer|Tags)")


def algorithm_name(model: str, version: str) -> str:
    """What DICOM calls the algorithm: this program with a model, in a form that DICOM and Slicer's files can hold."""
    name = f"SESegmentation {model} {version}"
    allowed = (c if c.isascii() and c.isprintable() and c not in "\\|" else " " for c in name)
    return "".join(allowed)[:_LONGEST].strip()


def algorithm_tags(name: str, corrected: bool = False) -> dict[str, str]:
    """Who drew a segment: networks alone, or with a person who corrected it.

    Args:
        name: see :func:`algorithm_name`.
        corrected: a person has changed voxels of it, or the networks have learnt from what a person changed.
    """
    return {ALGORITHM_TYPE_TAG: SEMIAUTOMATIC if corrected else AUTOMATIC, ALGORITHM_NAME_TAG: name}


def structure_key(label: Label) -> str:
    """What tells a structure from all others, also those of other models: its name, and its codes as it was made."""
    codes = (f"{code.scheme}^{code.value}" for code in _terminology(label))
    return "~".join([label.name, *codes]).replace("|", " ")  # Slicer's files separate tags by it


def origin_tags(label: Label) -> dict[str, str]:
    """For which label a segment was made: the user does not see this, and does not change it."""
    return {LABEL_TAG: str(label.value), STRUCTURE_TAG: structure_key(label)}


def segment_tags(label: Label) -> dict[str, str]:
    """What a segment is, and that nobody has reviewed it."""
    return {
        **origin_tags(label),
        STATUS_TAG: NOT_STARTED,
        "TerminologyEntry": label.terminology_entry(),
    }


@dataclass(frozen=True)
class Segment:
    """What the name and tags of a segment say.

    Attributes:
        name: as the user reads it.
        terminology: category, type and modifier of its terminology, where it has one.
        made_for: value of the label that it was made for, where that is known.
        key: see :func:`structure_key`; empty where it is not known.
    """

    name: str
    terminology: tuple[Code, ...] = ()
    made_for: int | None = None
    key: str = ""

    @classmethod
    def from_tags(cls, name: str, tags: str) -> Segment:
        """Read the tags as Slicer writes them: "NAME:VALUE|NAME:VALUE|"."""
        entries = dict(entry.split(":", 1) for entry in tags.split("|") if ":" in entry)
        made_for = entries.get(LABEL_TAG, "").strip()
        number = int(made_for) if made_for.isdecimal() and len(made_for) < 6 else None
        return cls(name, _codes(entries.get("TerminologyEntry", "")), number, entries.get(STRUCTURE_TAG, ""))

    @property
    def codes(self) -> tuple[tuple[str, str], ...]:
        """Scheme and value of type and modifier; contexts and meanings depend on language and version."""
        return tuple((code.scheme, code.value) for code in self.terminology[1:3])

    def to_label(self, value: int) -> Label:
        """A label for it, of this value, where no model gives one."""
        category, kind, modifier = (*self.terminology, *[Code("", "", "")] * 3)[:3]
        return Label(value, self.name, category, kind, modifier if modifier.value else None, (128, 128, 128))


def identify(segments: Sequence[Segment], structures: Sequence[Label], where: str) -> list[Label | None]:
    """The structure that each of ``segments`` is; None if it is none of ``structures``.

    The name decides. For any other name it is the structure that the segment was made for; in files of earlier
    versions, the label of that value, if the codes agree; or else the codes alone, if no other segment and no other
    structure has them.

    Args:
        where: names the file in messages.

    Raises:
        InputError: two segments are one structure, or a segment has the name of one and the code of another.
    """
    known = {label.value: Segment(label.name, _terminology(label)).codes for label in structures}
    found: list[Label | None] = [_named(segment, structures) for segment in segments]
    for segment, label in zip(segments, found, strict=True):
        if label is None or not _tells(segment) or _agree(segment.codes, known[label.value]):
            continue
        other = next((s for s in structures if _agree(segment.codes, known[s.value])), None)
        if other is not None:
            raise InputError(
                f"{where}: the segment {segment.name!r} has the name of one structure and the code of another, "
                f"{other.name!r}.",
                _REMEDY,
            )
    for index, segment in enumerate(segments):
        if found[index] is None and segment.key:
            found[index] = next((label for label in structures if structure_key(label) == segment.key), None)
        if found[index] is None and _tells(segment):
            coded = [s for s in structures if known[s.value] == segment.codes]
            made = [s for s in coded if s.value == segment.made_for]
            alone = sum(other.codes == segment.codes for other in segments) == 1
            found[index] = made[0] if made else coded[0] if len(coded) == 1 and alone else None
    values = [label.value for label in found if label]
    for label in found:
        if label and values.count(label.value) > 1:
            names = [s.name for s, f in zip(segments, found, strict=True) if f == label]
            raise InputError(f"{where}: the segments {', '.join(map(repr, names))} are one structure.", _REMEDY)
    return found


def _named(segment: Segment, structures: Sequence[Label]) -> Label | None:
    exact = [label for label in structures if label.name == segment.name]
    spelt = [label for label in structures if same_structure(label.name, segment.name)]
    return next(iter(exact or spelt), None)


def _tells(segment: Segment) -> bool:
    """Whether its code says what it is."""
    return bool(segment.codes) and segment.codes[0][1] not in _UNTOLD


def _agree(first: tuple[tuple[str, str], ...], second: tuple[tuple[str, str], ...]) -> bool:
    """Whether type and side are the same; a side that is not given agrees with any."""
    sides = {codes[1] for codes in (first, second) if len(codes) > 1 and codes[1][1]}
    return first[:1] == second[:1] and len(sides) < 2


def _terminology(label: Label) -> tuple[Code, ...]:
    return (label.category, label.type, label.modifier or Code("", "", ""))


def _codes(entry: str) -> tuple[Code, ...]:
    """Category, type and modifier of Slicer's "context~category~type~modifier~..."."""
    codes = []
    for code in entry.split("~")[1:4]:
        scheme, value, meaning = (*code.split("^"), "", "", "")[:3]
        codes.append(Code(value.strip(), scheme.strip(), meaning.strip()))
    return tuple(codes)


@dataclass(frozen=True)
class _Place:
    """Where a segment's voxels are: the layer, and their value in it."""

    layer: int
    value: int


@dataclass(frozen=True)
class Segmentation:
    """What a file of labels holds.

    Attributes:
        name: of the file, for messages.
        layers: label maps on one grid, the values as they are in the file.
        segments: by where they are; none in a plain label map.
    """

    name: str
    layers: list[sitk.Image]
    segments: dict[_Place, Segment]

    @property
    def named(self) -> bool:
        """Whether its structures have names; else its numbers say what they are."""
        return bool(self.segments)

    @property
    def geometry(self) -> Geometry:
        """The grid of the file; of one that Slicer saved only the part with segments."""
        return Geometry.of(self.layers[0])

    @property
    def present(self) -> dict[_Place, Segment]:
        """The segments that have voxels; InputError where there are voxels of none."""
        places = {_Place(n, int(v)) for n, a in enumerate(self.layers) for v in np.unique(voxels_of(a)) if v}
        if strange := sorted(place.value for place in places - set(self.segments)):
            raise InputError(
                f"{self.name} holds the value {strange[0]}, which belongs to no segment.",
                "Load it in Slicer, and save it again.",
            )
        return {place: segment for place, segment in self.segments.items() if place in places}

    def foreground(self) -> sitk.Image:
        """Where anything is segmented, 1 there."""
        anywhere = np.any([voxels_of(layer) > 0 for layer in self.layers], axis=0)
        return self.geometry.image(anywhere.astype(np.uint8))

    def valued(self, structures: Sequence[Label] = ()) -> list[sitk.Image]:
        """The layers with the values of the structures that the segments are; a plain label map as it is.

        Args:
            structures: what is known; without any, segments count as the labels that they were made for.

        Raises:
            InputError: a segment with voxels is none of them, or they cannot be distinguished.
        """
        if not self.named:
            return self.layers
        present = self.present
        if structures:
            found = identify(list(present.values()), structures, self.name)
            values = [label.value if label else None for label in found]
        else:
            values = [segment.made_for for segment in present.values()]
        unknown = [segment.name for segment, value in zip(present.values(), values, strict=True) if not value]
        known = [value for value in values if value]
        if unknown:
            raise InputError(*self._unknown(unknown, structures))
        valued = []
        for number, layer in enumerate(self.layers):
            array = voxels_of(layer)
            table = np.zeros(int(array.max()) + 1, np.min_scalar_type(max([0, *known])))
            for place, value in zip(present, known, strict=True):
                if place.layer == number:
                    table[place.value] = value
            valued.append(self.geometry.image(table[array]))
        return valued

    def _unknown(self, names: Sequence[str], structures: Sequence[Label]) -> tuple[str, str]:
        """Cause and remedy where segments are none of ``structures``."""
        listed = ", ".join(map(repr, names[:8]))
        if not structures:
            return (
                f"{self.name} names its structures ({listed}), where numbers are needed.",
                "Name the model whose structures they are, or export it as a label map.",
            )
        known = ", ".join(label.name for label in structures[:8]) + (", ..." if len(structures) > 8 else "")
        return (
            f"{self.name} holds segments that are none of the structures known here: {listed}.",
            f"Name them as one of these, or remove them: {known}.",
        )

    def label_map(self, structures: Sequence[Label] = (), like: sitk.Image | None = None) -> sitk.Image:
        """All of it as one label map.

        Args:
            structures: see :meth:`valued`.
            like: a volume; a segmentation that Slicer cropped is put back in its place on the grid of this volume.

        Raises:
            InputError: as :meth:`valued`, or structures overlap, or lie outside of ``like``.
        """
        first, *others = (voxels_of(layer) for layer in self.valued(structures))
        merged = first.astype(np.result_type(first, *others)) if others else first
        for layer in others:
            both = (merged > 0) & (layer > 0) & (merged != layer)
            if both.any():
                raise InputError(
                    f"{self.name} holds structures that overlap in {int(both.sum())} voxels.",
                    "In Slicer, give each voxel to one structure: Segment Editor, masking, allow no overlap.",
                )
            merged = np.where(layer > 0, layer, merged)
        labels = self.geometry.image(np.ascontiguousarray(merged))
        return placed_in_grid(labels, Geometry.of(like), self.name) if self.named and like is not None else labels


def read_segmentation(path: str | Path, pixel_mm: Sequence[float] | None = None) -> Segmentation:
    """Read a file of labels, of whatever kind.

    Args:
        path: a label map (see :func:`.reading.read_label_volume`), or a ``.seg.nrrd``.
        pixel_mm: see :func:`.reading.read_label_volume`.

    Raises:
        InputError: it cannot be read, holds no labels, or the header's fields of the segments are damaged.
    """
    layers = read_label_layers(path, pixel_mm)
    fields: dict[int, dict[str, str]] = {}
    for key in layers[0].GetMetaDataKeys():
        if match := _FIELD.fullmatch(key):
            fields.setdefault(int(match[1]), {})[match[2]] = layers[0].GetMetaData(key)
    segments: dict[_Place, Segment] = {}
    for number, field in sorted(fields.items()):
        # before Slicer 4.11 every segment had a layer of its own, in which it was 1
        layer = _number(path, number, "Layer", field.get("Layer", str(number)), len(layers) - 1)
        value = _number(path, number, "LabelValue", field.get("LabelValue", "1"), (1 << 32) - 1)
        if _Place(layer, value) in segments or not value:
            raise InputError(
                f"{path}: Segment{number}_LabelValue is {value}, as another segment's or the background's.",
                "Load it in Slicer, and save it again.",
            )
        segments[_Place(layer, value)] = Segment.from_tags(
            field.get("Name", field.get("ID", "")), field.get("Tags", "")
        )
    return Segmentation(str(path), layers, segments)


def placed_in_grid(labels: sitk.Image, grid: Geometry, name: str) -> sitk.Image:
    """A label map in its place in a larger grid of the same voxels; unchanged if its voxels are not those of the grid.

    Raises:
        InputError: it holds something outside of the grid.
    """
    own = Geometry.of(labels)
    shift = grid.shift_of(own)
    if shift is None or own == grid:
        return labels
    array = voxels_of(labels)
    require_memory(math.prod(grid.size) * array.itemsize / 1e9)
    whole = np.zeros(grid.shape, array.dtype)
    there, here = [], []
    for first, size, room in zip(shift[::-1], array.shape, grid.shape, strict=True):
        low, high = max(first, 0), max(min(first + size, room), max(first, 0))
        there.append(slice(low, high))
        here.append(slice(low - first, high - first))
    whole[tuple(there)] = array[tuple(here)]
    if np.count_nonzero(whole) < np.count_nonzero(array):
        raise InputError(
            f"{name} lies partly or wholly outside of the volume.", "Give the segmentation of this very volume."
        )
    return grid.image(whole)


def common_grid(first: Segmentation, second: Segmentation) -> Geometry | None:
    """The grid on which two segmentations can be compared voxel by voxel, None if their voxels do not coincide.

    A plain label map shows the whole volume; of two cropped ones it is the smallest grid that holds both.
    """
    shift = first.geometry.shift_of(second.geometry)
    if shift is None:
        return None
    if not first.named or not second.named:
        whole, other = (second, first) if first.named else (first, second)
        cropped = other.named or same_grid(first.layers[0], second.layers[0])
        return whole.geometry if cropped else None
    low = [min(start, 0) for start in shift]
    high = [max(a, n + b) for a, b, n in zip(first.geometry.size, shift, second.geometry.size, strict=True)]
    origin = first.geometry.points(np.array([low]))[0]
    size = triple(stop - start for start, stop in zip(low, high, strict=True))
    return Geometry(size, first.geometry.spacing, triple(map(float, origin)), first.geometry.direction)


def _number(path: str | Path, segment: int, field: str, text: str, most: int) -> int:
    """A whole number from 0 to ``most`` in a segment's header field."""
    text = text.strip()
    if not text.isdecimal() or len(text) > 10 or int(text) > most:
        raise InputError(f"{path}: Segment{segment}_{field} is {text[:40]!r}.", "Load it in Slicer, and save it again.")
    return int(text)
