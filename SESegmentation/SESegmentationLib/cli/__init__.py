"""The ``sesegment`` command. What it can do stands in :mod:`.app`, what it says on failure in :mod:`.entry`."""

from .entry import main

__all__ = ["main"]
