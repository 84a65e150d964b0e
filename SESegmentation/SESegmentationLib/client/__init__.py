"""Segmenting from a program that must stay responsive, such as Slicer: jobs go to another process, events come back.

Needs neither torch nor Qt. Nothing here blocks the thread that calls it.
"""

from ..worker.jobs import AttentionJob, Job, RefinedResult, RefineJob, SegmentJob, WarmUpJob
from .local import Limits, LocalSegmenter
from .segmenter import AcceptedEvent, Event, FailureEvent, JobHandle, ProgressEvent, ResultEvent, Segmenter

__all__ = [
    "AcceptedEvent",
    "AttentionJob",
    "Event",
    "FailureEvent",
    "Job",
    "JobHandle",
    "Limits",
    "LocalSegmenter",
    "ProgressEvent",
    "RefineJob",
    "RefinedResult",
    "ResultEvent",
    "SegmentJob",
    "Segmenter",
    "WarmUpJob",
]
