"""Several pieces of work at once, each on cores of its own.

A network keeps more cores busy with a batch each than with one batch that all of them share: what lies between the
convolutions is then in the core's own cache.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

#: more at once would need too much memory
MOST = 8


@contextlib.contextmanager
def compute_pool(workers: int, cores: int = 1) -> Iterator[ThreadPoolExecutor]:
    """Threads in each of which PyTorch computes on ``cores``; what was not begun is dropped at the end.

    PyTorch's modes, as inference mode, do not reach into these threads.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(cores,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # part of what a thread sets counts for all


@contextlib.contextmanager
def map_on_cores(workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """A ``map`` that does ``workers`` things at once, which share the cores; one after the other where that is 1."""
    if workers == 1:
        yield map
        return
    with compute_pool(workers, max(1, torch.get_num_threads() // workers)) as pool:
        yield pool.map
