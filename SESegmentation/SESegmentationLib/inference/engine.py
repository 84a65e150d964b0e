"""The engine: a model, loaded and warm, that segments volumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..models import Label, ModelPackage, View
from ..progress import PhasedProgress, Progress, no_progress
from . import cascade, guard, plausibility
from .cleanup import clean
from .device import choose_device
from .foreground import foreground_box
from .geometry import Box, Geometry, ModelGrid, to_model_grid
from .intensity import normalise
from .memory import memory_errors
from .predictor import Predictor
from .reading import check_volume
from .result import Finding, SegmentationResult, StructureResult
from .roi import inside, region_box
from .structures import find_extents
from .uncertainty import confidence
from .weights import load_networks

__all__ = ["Engine", "Finding", "SegmentationResult", "StructureResult"]
#: volumes larger than this along any axis are no crops, where the card does not say how large those are, in mm
LARGEST_CROP_MM = 100.0

#: told the view and the fraction of its slices that are done
Report = Callable[[View, float], None]


class Engine:
    """A model on a device, ready to segment one volume after another.

    Args:
        package: the model.
        device: "auto", "cpu", "cuda", "cuda:1", ..., "mps".

    Raises:
        ModelError: the weights are damaged or do not fit the card.
        DeviceError: no such device.

    Example::

        engine = Engine(find_model("brain-t1"))
        result = engine.segment(read_volume("head.nii.gz"))
        sitk.WriteImage(result.labels, "head-labels.nii.gz")
    """

    def __init__(self, package: ModelPackage, device: str = "auto") -> None:
        self.package = package
        self.card = package.card
        self.device = choose_device(device)
        with memory_errors():
            self._predictor = Predictor(self.card, load_networks(package), self.device)
        self._locator: Engine | None = None
        #: crops are normalised by themselves, as they were in training; whole volumes as a whole
        self._crops = self.card.input.get("kind") == "crop"

    def segment(
        self,
        image: sitk.Image,
        *,
        roi: sitk.Image | None = None,
        fast: bool = False,
        low_memory: bool = False,
        progress: Progress = no_progress,
    ) -> SegmentationResult:
        """Segment a volume.

        Args:
            image: 3-D scalar volume of any orientation, spacing and obliquity.
            roi: look only inside the box round this image's voxels above 0, along its own axes; see :mod:`.roi`.
            fast: use only the view with the largest weight.
            low_memory: smaller batches; slower.
            progress: told phase, fraction and seconds left after every batch; may raise to cancel.

        Returns:
            Labels on exactly the grid of ``image``, and what they measure.

        Raises:
            InputError: the volume cannot be segmented, or the region lies outside it.
            OutOfMemoryError: not enough main or device memory.
            CancelledError: from ``progress``.
        """
        with memory_errors():
            image = check_volume(image)
            views = [self._predictor.best_view()] if fast else self._predictor.views
            if roi is None and self._needs_locator(image):
                return self._segment_targets(image, views, low_memory, progress)
            return self._segment_one(image, roi, views, low_memory, progress)

    def _needs_locator(self, image: sitk.Image) -> bool:
        if self.card.pipeline is None:
            return False
        expected = guard.expected_extent(self.card)
        largest = LARGEST_CROP_MM if expected is None else expected[:, 1]
        return bool((guard.extent_of(image) > largest).any())

    def _segment_one(
        self, image: sitk.Image, roi: sitk.Image | None, views: Sequence[View], low_memory: bool, progress: Progress
    ) -> SegmentationResult:
        """The whole volume, or a region of it."""
        names = _phase_names(views)
        phases = PhasedProgress(progress, {"prepare": 2, **dict.fromkeys(names, 8), "restore": 2, "measure": 1})
        phases.update("prepare", 0.0)
        findings = guard.inspect(image, self.card)
        grid, array = self._prepare(image)
        region = None if roi is None else region_box(roi)
        box = self._box(grid, array, region)
        phases.update("prepare", 1.0)

        def report(view: View, fraction: float) -> None:
            phases.update(names[views.index(view)], fraction)
            if view is views[-1] and fraction == 1:
                phases.update("restore", 0.0)

        labels, trust = self._segment_box(grid, array, box, views, low_memory, report, region)
        phases.update("restore", 1.0)
        return self._result(labels, self.card.labels, trust, self.card.merged_pairs, findings, phases)

    def _segment_targets(
        self, image: sitk.Image, views: Sequence[View], low_memory: bool, progress: Progress
    ) -> SegmentationResult:
        """Crops of the volume, where the card's locator finds their targets."""
        if self._locator is None:
            self._locator = Engine(cascade.find_locator(self.package), str(self.device))
        targets = cascade.plan_targets(self.card, self._locator.card)
        names = [target.name for target in targets]
        phases = PhasedProgress(progress, {"locate": 20, "prepare": 1, **dict.fromkeys(names, 2), "measure": 1})

        def locating(phase: str, fraction: float, seconds_left: float | None) -> None:
            phases.update("locate", fraction)

        located = self._locator.segment(image, fast=True, low_memory=low_memory, progress=locating)
        phases.update("prepare", 0.0)
        grid, array = self._prepare(image)
        margin_mm = float(self.card.pipeline.get("margin_mm", self.card.margin_mm))
        boxes = cascade.locate_targets(targets, located.labels, grid, margin_mm)
        phases.update("prepare", 1.0)
        findings = guard.inspect(image, self._locator.card)
        structures = [label for target in targets for label in target.labels.values()]
        combined = np.zeros(image.GetSize()[::-1], np.min_scalar_type(max(label.value for label in structures)))
        trust: dict[int, float] = {}
        for target, box in zip(targets, boxes, strict=True):

            def report(view: View, fraction: float, name: str = target.name) -> None:
                phases.update(name, (views.index(view) + fraction) / len(views))

            if box is not None:
                labels, own_trust = self._segment_box(grid, array, box, views, low_memory, report, mirror=target.mirror)
                own = sitk.GetArrayViewFromImage(labels)
                for value, label in target.labels.items():
                    combined[own == value] = label.value
                    trust[label.value] = own_trust[value]
            phases.update(target.name, 1.0)
        labels = sitk.GetImageFromArray(combined)
        labels.CopyInformation(image)
        return self._result(labels, structures, trust, cascade.sided_pairs(targets), findings, phases)

    def _prepare(self, image: sitk.Image) -> tuple[ModelGrid, np.ndarray]:
        """The model's grid and the intensities (k, j, i) on it, normalised unless crops of them will be."""
        on_grid, grid = to_model_grid(image, self.card)
        array = sitk.GetArrayFromImage(on_grid)
        return grid, array if self._crops else normalise(array, self.card.intensity)

    def _box(self, grid: ModelGrid, array: np.ndarray, region: Geometry | None) -> Box:
        """Where on the grid to look."""
        if region is not None:
            box = grid.geometry.box_of(region.corners(), self.card.margin_mm)
            if not inside(region, grid.input).any() or not array[box].size:
                raise InputError(
                    "The region of interest lies outside the volume.", "Draw it on this volume, without a transform."
                )
            return box
        if self._crops:
            return tuple(slice(0, n) for n in array.shape)
        return foreground_box(array, grid.geometry.spacing, self.card.margin_mm)

    def _segment_box(
        self,
        grid: ModelGrid,
        array: np.ndarray,
        box: Box,
        views: Sequence[View],
        low_memory: bool,
        report: Report,
        region: Geometry | None = None,
        mirror: bool = False,
    ) -> tuple[sitk.Image, dict[int, float]]:
        """Labels on the input's grid from a box of the model's, and the confidence of each value."""
        part = normalise(array[box], self.card.intensity) if self._crops else array[box]
        predicted = self._predictor.predict(part[..., ::-1] if mirror else part, views, low_memory, report)
        trust = confidence(predicted.probabilities, predicted.votes)
        probabilities = predicted.probabilities.flip(-1) if mirror else predicted.probabilities
        labels = grid.cropped(box).from_model_grid(probabilities)
        if region is not None:
            outside = ~inside(region, grid.input)
            kept = sitk.GetArrayFromImage(labels)
            kept[outside] = 0
            labels = grid.input.image(kept)
        values = [label.value for label in self.card.labels]
        return clean(labels, values, self.card.cleanup), dict(zip(values, trust[1:].tolist(), strict=True))

    def _result(
        self,
        labels: sitk.Image,
        structures: Sequence[Label],
        trust: Mapping[int, float],
        pairs: Sequence[tuple[int, int]],
        findings: Sequence[Finding],
        phases: PhasedProgress,
    ) -> SegmentationResult:
        """Measure a label map."""
        phases.update("measure", 0.0)
        geometry = Geometry.of(labels)
        voxel_ml = float(np.prod(geometry.spacing)) / 1000
        extents = find_extents(sitk.GetArrayViewFromImage(labels), [label.value for label in structures])
        measured = [
            StructureResult(
                label=label,
                voxels=extent.voxels,
                volume_ml=extent.voxels * voxel_ml,
                confidence=trust.get(label.value, 0.0) if extent.voxels else 0.0,
                centre_lps=tuple(geometry.points(np.array([extent.centre[::-1]]))[0].tolist()),
            )
            for label, extent in zip(structures, extents.values(), strict=True)
        ]
        doubts = plausibility.examine(labels, measured, extents, pairs)
        phases.update("measure", 1.0)
        return SegmentationResult(
            labels=labels,
            structures=measured,
            timings=phases.seconds(),
            findings=[*findings, *doubts],
            model=self.card,
            device=str(self.device),
        )


def _phase_names(views: Sequence[View]) -> list[str]:
    """A name for each view: its plane, with a number where several look at the same plane."""
    planes = [view.plane for view in views]
    return [
        plane if planes.count(plane) == 1 else f"{plane} {planes[: index + 1].count(plane)}"
        for index, plane in enumerate(planes)
    ]
