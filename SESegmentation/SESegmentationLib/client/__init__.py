"""Segmenting from a program that must stay responsive, such as Slicer: jobs go to another process, events come back.

Needs neither torch nor Qt. Nothing here blocks the thread that calls it.
"""

from ..worker.jobs import Job, SegmentJob, WarmUpJob
from .events import AcceptedEvent, Event, FailureEvent, ProgressEvent, ResultEvent
from .local import Limits, LocalSegmenter
from .segmenter import JobHandle, Segmenter

__all__ = [
    "AcceptedEvent",
    "Event",
    "FailureEvent",
    "Job",
    "JobHandle",
    "Limits",
    "LocalSegmenter",
    "ProgressEvent",
    "ResultEvent",
    "SegmentJob",
    "Segmenter",
    "WarmUpJob",
]
