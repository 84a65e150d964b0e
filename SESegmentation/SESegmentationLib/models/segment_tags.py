"""The tags that Slicer keeps with a segment that networks have found, the same in scenes and in files."""

from __future__ import annotations

from .labels import Label
from .segments import LABEL_TAG

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
