"""The main memory that uploads need: what was promised to those that are still arriving counts, until it is taken."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from SESegmentationLib.memory import available_gigabytes

from .refusals import full

#: memory for an upload, as a multiple of its size: it is held as it was sent, and then as images
_COPIES = 3


class UploadMemory:
    """Reserves main memory for uploads; the system counts memory as taken only once something is written to it.

    From then on it does not count as promised as well.

    Args:
        spare_gigabytes: that must remain free, in GB (10^9 bytes).
    """

    def __init__(self, spare_gigabytes: float) -> None:
        self._spare = spare_gigabytes
        self._promised = 0  # bytes for uploads that are arriving which are not taken yet

    def check(self, size: int) -> None:
        """Raise RefusalError if memory lacks for an upload of ``size`` bytes besides those that are arriving."""
        available = available_gigabytes()
        if available is not None and available < (self._promised + _COPIES * size) / 1e9 + self._spare:
            raise full("The server has no memory for this volume at the moment.", 30, 507)

    @contextlib.contextmanager
    def reserved(self, size: int) -> Iterator[Callable[[int], None]]:
        """Inside the block, keep memory for an upload of ``size`` bytes; RefusalError as of :meth:`check`.

        Yields:
            A function to be called with each number of bytes that were written to main memory, after they were.
        """
        self.check(size)
        left = _COPIES * size
        self._promised += left

        def taken(count: int) -> None:
            nonlocal left
            left -= count
            self._promised -= count

        try:
            yield taken
        finally:
            self._promised -= left
