"""Runs jobs, and keeps the engines of recently used models warm between them."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ModelError
from ..models import ModelPackage, find_model
from ..models.card import CARD_NAME
from ..progress import Progress
from ..refine.slices import Slices
from .jobs import AttentionJob, Job, RefineJob, SegmentJob, WarmUpJob, pack_image, pack_refinement, pack_result

if TYPE_CHECKING:
    from ..inference.engine import Engine

#: what a job gives: JSON and arrays
Value = tuple[dict[str, Any], list[np.ndarray]]


#: makes an engine of a model for a device ("auto", "cpu", "cuda", ...)
EngineFactory = Callable[[ModelPackage, str], "Engine"]


def load_engine(package: ModelPackage, device: str) -> Engine:
    """The real engine. Torch is imported here, and nowhere else.

    Raises:
        ImportError: torch, or one of the libraries that it needs, is not there.
    """
    try:
        from ..inference.engine import Engine
    except OSError as error:  # so torch reports libraries of the system that it does not find
        raise ImportError(f"torch: {error}") from error

    return Engine(package, device)


def load_adapted_engine(package: ModelPackage, device: str, adapted: bytes) -> Engine:
    """The real engine with parameters that were adapted to a patient.

    Raises:
        InputError: these are damaged, or belong to other weights.
    """
    from ..inference.engine import Engine
    from ..refine.adapted import AdaptedParameters

    return Engine(package, device, AdaptedParameters.from_bytes(adapted).networks(package))


class JobRunner:
    """Runs one job at a time.

    Args:
        engine_factory: makes the engines of models as they are.
        capacity: how many engines stay loaded.
    """

    def __init__(self, engine_factory: EngineFactory = load_engine, capacity: int = 2) -> None:
        self._make_engine = engine_factory
        self._capacity = capacity
        self._engines: OrderedDict[tuple, Engine] = OrderedDict()
        self._run_by_kind: dict[str, Callable[[Any, Progress], Value]] = {
            SegmentJob.kind: self._segment,
            RefineJob.kind: self._refine,
            AttentionJob.kind: self._attention,
            WarmUpJob.kind: self._warm_up,
        }

    def run(self, job: Job, progress: Progress) -> Value:
        """Run ``job``; what it gives as JSON and arrays.

        Raises:
            SegmentationError: of the engine, or from ``progress``.
            Exception: whatever else goes wrong, missing packages among it.
        """
        return self._run_by_kind[job.kind](job, progress)

    def _segment(self, job: SegmentJob, progress: Progress) -> Value:
        progress("load", 0.0, None)
        engine = self._engine(job.model, job.device, job.adapted)
        from ..quality.confidence import with_doubtful_slices  # needs torch, whose absence the engine tells better

        return pack_result(with_doubtful_slices(engine.segment(job.image, job.options, progress=progress)))

    def _refine(self, job: RefineJob, progress: Progress) -> Value:
        progress("load", 0.0, None)
        engine = self._engine(job.model, job.device)
        from ..geometry import Geometry
        from ..preprocess.grid import on_grid_of
        from ..quality.confidence import with_doubtful_slices
        from ..refine.recalibration import Settings
        from ..refine.refinement import refine

        refined = refine(
            engine,
            on_grid_of(Geometry.of(job.labels), job.image, engine.card),
            job.labels,
            [Slices.parse(text) for text in job.slices],
            options=replace(job.options, grid="input"),
            whole_slices=job.whole_slices,
            recalibration=Settings() if job.recalibrate else None,
            progress=progress,
        )
        return pack_refinement(replace(refined, result=with_doubtful_slices(refined.result)))

    def _attention(self, job: AttentionJob, progress: Progress) -> Value:
        progress("load", 0.0, None)
        engine = self._engine(job.model, job.device, job.adapted)
        from ..inference.attention import attention_map

        attention = attention_map(engine, job.image, job.options, progress)
        description, voxels = pack_image(attention)
        return {"attention": description}, [voxels]

    def _warm_up(self, job: WarmUpJob, progress: Progress) -> Value:
        progress("load", 0.0, None)
        self._engine(job.model, job.device)
        return {}, []

    def _engine(self, model: str | Path, device: str, adapted: bytes | None = None) -> Engine:
        """The engine of a model, as its files are now, with adapted parameters where these are given."""
        package = find_model(model)
        which = package.path.resolve(), device, hashlib.sha256(adapted).hexdigest() if adapted else ""
        key = (which, _stamp(package))
        if key not in self._engines:
            # another one of the same model is of files that have changed since
            for old in [old for old in self._engines if old[0] == which]:
                del self._engines[old]
            while len(self._engines) >= self._capacity:
                self._engines.popitem(last=False)
            self._engines[key] = (
                load_adapted_engine(package, device, adapted) if adapted else self._make_engine(package, device)
            )
        self._engines.move_to_end(key)
        return self._engines[key]


def _stamp(package: ModelPackage) -> tuple:
    """Tells whether the files of a package, and of the model that locates for it, are still the same."""
    stamp: list = [package.path.resolve()]
    for path in (package.path / CARD_NAME, package.weights_path):
        status = path.stat()
        stamp += [status.st_mtime_ns, status.st_size]
    if package.card.pipeline:
        from ..inference.cascade import find_locator

        with contextlib.suppress(ModelError):  # crops need none; the engine says so where one is needed
            stamp += _stamp(find_locator(package))
    return tuple(stamp)


def release_memory() -> None:
    """Give back to the system what a job has left behind."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # only the GNU library keeps freed memory and can be told
            ctypes.CDLL(None).malloc_trim(0)
