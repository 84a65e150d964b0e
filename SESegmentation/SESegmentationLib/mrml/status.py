"""How far the review of a structure is, kept as Slicer's own status of its segment.

What a network wrote is "not started", in scenes and in the files of the command: nobody has worked on it. Slicer's
Segment Editor makes that "in progress" with the first stroke; "completed" is what the clinician accepts, and nothing is
written into it any more. "Flagged" is for the clinician's own use, and still to be checked.
"""

from __future__ import annotations

import slicer

_LOGIC = slicer.vtkSlicerSegmentationsModuleLogic
TO_CHECK, CORRECTED, ACCEPTED = "to check", "corrected", "accepted"
_STATUS = {TO_CHECK: _LOGIC.NotStarted, CORRECTED: _LOGIC.InProgress, ACCEPTED: _LOGIC.Completed}


def review_state(segment: slicer.vtkSegment) -> str:
    """One of ``TO_CHECK``, ``CORRECTED`` and ``ACCEPTED``."""
    status = _LOGIC.GetSegmentStatus(segment)
    return next((state for state, known in _STATUS.items() if known == status), TO_CHECK)


def set_review_state(segment: slicer.vtkSegment, state: str) -> None:
    """Mark a segment; see :func:`review_state`."""
    _LOGIC.SetSegmentStatus(segment, _STATUS[state])
