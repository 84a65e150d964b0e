"""Segments: which structure each is, by name and code, and the tags that Slicer keeps with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError
from .labels import Code, Label, same_name

#: how far the review of a segment is, in Slicer's words; nobody has begun with what a network wrote
STATUS_TAG, NOT_STARTED = "Segmentation.Status", "notstarted"
#: DICOM (0062,0008) and (0062,0009): Slicer's export of DICOM SEG says MANUAL where one of them is missing
ALGORITHM_TYPE_TAG, ALGORITHM_NAME_TAG = "DICOM.SegmentAlgorithmType", "DICOM.SegmentAlgorithmName"
AUTOMATIC, SEMIAUTOMATIC = "AUTOMATIC", "SEMIAUTOMATIC"
_LONGEST = 64  # characters of DICOM's value representation LO


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


def segment_tags(label: Label) -> dict[str, str]:
    """What a segment is, and that nobody has reviewed it."""
    return {
        LABEL_TAG: str(label.value),
        STATUS_TAG: NOT_STARTED,
        "TerminologyEntry": label.terminology_entry(),
    }


#: tag of a segment: the value of the label that it was made for, however the user calls it
LABEL_TAG = "SESegmentation.Label"
#: types that say nothing: Slicer gives "Tissue" to segments of which nothing is known
_UNTOLD = {"", "85756007"}
_REMEDY = "Rename the segments in Slicer, or correct their terminology, and save the segmentation again."


@dataclass(frozen=True)
class Segment:
    """What a segment says of itself.

    Attributes:
        name: as the user reads it.
        terminology: category, type and modifier of its terminology, where it has one.
        made_for: value of the label that it was made for, where that is known.
    """

    name: str
    terminology: tuple[Code, ...] = ()
    made_for: int | None = None

    @classmethod
    def from_tags(cls, name: str, tags: str) -> Segment:
        """Read the tags as Slicer writes them: "NAME:VALUE|NAME:VALUE|"."""
        entries = dict(entry.split(":", 1) for entry in tags.split("|") if ":" in entry)
        made_for = entries.get(LABEL_TAG, "").strip()
        number = int(made_for) if made_for.isdecimal() and len(made_for) < 6 else None
        return cls(name, _codes(entries.get("TerminologyEntry", "")), number)

    @property
    def codes(self) -> tuple[tuple[str, str], ...]:
        """Scheme and value of type and modifier; contexts and meanings depend on language and version."""
        return tuple((code.scheme, code.value) for code in self.terminology[1:3])

    def to_label(self, value: int) -> Label:
        """A label for it, of this value, where no model gives one."""
        category, kind, modifier = (*self.terminology, *[Code("", "", "")] * 3)[:3]
        return Label(value, self.name, category, kind, modifier if modifier.value else None, (128, 128, 128))


def identify(segments: Sequence[Segment], structures: Sequence[Label], where: str) -> list[Label | None]:
    """The structure that each of ``segments`` is, None for none of ``structures``.

    A name decides; of a segment called otherwise the label that it was made for, if the codes agree, or the codes
    alone, if no other segment and no other structure has them.

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
    spelt = [label for label in structures if same_name(label.name, segment.name)]
    return next(iter(exact or spelt), None)


def _tells(segment: Segment) -> bool:
    """Whether its code says what it is."""
    return bool(segment.codes) and segment.codes[0][1] not in _UNTOLD


def _agree(first: tuple[tuple[str, str], ...], second: tuple[tuple[str, str], ...]) -> bool:
    """Whether type and side are the same; a side that is not told agrees with any."""
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
