"""The engine: a model, loaded and warm, that segments volumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import SimpleITK as sitk
import torch
from torch import nn

from ..errors import InputError, memory_errors
from ..geometry import Box, Geometry
from ..io.formats import pixel_size
from ..io.reading import check_volume
from ..io.volume_image import voxels_of
from ..models import Label, ModelPackage, View
from ..models.sections import expected_dice
from ..networks.weights import load_networks
from ..postprocess.cleanup import clean
from ..postprocess.dividing_plane import divide
from ..postprocess.intracranial import intracranial_ml
from ..predict.device import choose_device
from ..predict.predictor import Predictor
from ..predict.views import PLANE_AXIS
from ..preprocess.crops import box_of_pieces, foreground_box, inside, region_box
from ..preprocess.grid import ModelGrid, check_room, is_thick, on_model_grid, to_model_grid
from ..preprocess.intensity import normalise
from ..progress import PhasedProgress, Progress, no_progress
from ..quality import expected_input as expectation
from ..quality import input_checks as guard
from ..quality.confidence import confidence, voxel_doubt
from ..quality.output_checks import measure_structures
from ..result import Finding, IntracranialVolume, SegmentationResult, StructureResult
from . import cascade

__all__ = ["Engine", "Finding", "SegmentationResult", "StructureResult"]
#: volumes larger than this along any axis are no crops, where the card does not say how large those are, in mm
LARGEST_CROP_MM = 100.0
#: of a head's slices, one in so many is looked at to find the brain
FOCUS_STEP = 5

#: which grid a result lies on
Grid = Literal["auto", "input", "model"]
#: told the view and the fraction of its slices that are done
Report = Callable[[View, float], None]
#: puts into a label map what must stay
Keep = Callable[[sitk.Image], sitk.Image]
#: told what the networks see in a field, and the probabilities (C, k, j, i) that they give for it
Observe = Callable[["Field", torch.Tensor], None]


@dataclass(frozen=True)
class Field:
    """A box of a model's grid at which its networks look.

    Attributes:
        grid: the grid over the box.
        volume: (k, j, i) float32, normalised, as the networks see it.
        mirror: whether they see it mirrored from left to right.
        values: the result's value of each of the model's own values.
    """

    grid: ModelGrid
    volume: np.ndarray
    mirror: bool
    values: dict[int, int]


@dataclass(frozen=True)
class _Seen:
    """What a box gives.

    Attributes:
        labels: on the input's grid.
        trust: confidence and expected Dice by the model's own values.
        doubt: (k, j, i) on the input's grid, where asked for.
    """

    labels: sitk.Image
    trust: dict[int, tuple[float, float | None]]
    doubt: np.ndarray | None


class Engine:
    """A model on a device, ready to segment one volume after another.

    Args:
        package: the model.
        device: "auto", "cpu", "cuda", "cuda:1", ..., "mps".
        networks: to use instead of the model's own, for example adapted ones; they are changed.

    Raises:
        ModelError: the weights are damaged or do not fit the card.
        DeviceError: no such device.

    Example::

        engine = Engine(find_model("brain-mr"))
        result = engine.segment(read_volume("head.nii.gz"))
        sitk.WriteImage(result.labels, "head-labels.nii.gz")
    """

    def __init__(
        self, package: ModelPackage, device: str = "auto", networks: dict[str, nn.Module] | None = None
    ) -> None:
        self.package = package
        self.card = package.card
        self.device = choose_device(device)
        with memory_errors():
            self._predictor = Predictor(self.card, networks or load_networks(package), self.device)
        self._locator: Engine | None = None
        #: crops are normalised by themselves, as they were in training; whole volumes as a whole
        self._crops = self.card.input.get("kind") == "crop"

    @property
    def predictor(self) -> Predictor:
        """Its networks over views."""
        return self._predictor

    def segment(
        self,
        image: sitk.Image,
        *,
        roi: sitk.Image | None = None,
        fast: bool = False,
        low_memory: bool = False,
        doubt: bool = False,
        located: sitk.Image | None = None,
        keep: Keep | None = None,
        grid: Grid = "input",
        observe: Observe | None = None,
        progress: Progress = no_progress,
    ) -> SegmentationResult:
        """Segment a volume.

        Args:
            image: 3-D scalar volume of any orientation, spacing and obliquity.
            roi: look only inside the box round this image's voxels above 0, along its own axes; see :mod:`.roi`.
            fast: use only the view with the largest weight.
            low_memory: smaller batches; slower.
            doubt: give the map of doubt too.
            located: what :meth:`locate` gave for this volume, if it was asked before.
            keep: puts back into the label map what must stay as it was, before it is measured.
            grid: of the result: that of "input" or "model", or "auto" for the model's where slices are thick.
            observe: told what the networks see and say, field by field.
            progress: told phase, fraction and seconds left after every batch; may raise to cancel.

        Returns:
            Labels on exactly the grid of ``image``, or on the model's, and what they measure.

        Raises:
            InputError: the volume cannot be segmented, or the region lies outside it.
            OutOfMemoryError: not enough main or device memory.
            CancelledError: from ``progress``.
        """
        with memory_errors():
            check_room(image, self.card)
            image = check_volume(image, single=pixel_size(self.card.input, self.card.spacing) is not None)
            views = [self._predictor.best_view()] if fast else self._predictor.views
            given = image
            if grid == "model" or (grid == "auto" and is_thick(image, self.card)):
                image = on_model_grid(image, self.card)
            if roi is None and self._needs_locator(image):
                findings = guard.inspect(given, cascade.find_locator(self.package).card)
                return self._segment_targets(
                    image, findings, views, low_memory, doubt, located, keep, observe, progress
                )
            findings = guard.inspect(given, self.card)
            result = self._segment_one(image, findings, roi, views, low_memory, doubt, keep, observe, progress)
            whole = roi is None and self.card.intracranial_error > 0
            return self._with_intracranial(result, given) if whole else result

    def _with_intracranial(self, result: SegmentationResult, image: sitk.Image) -> SegmentationResult:
        """The result with the intracranial volume, where it can be told."""
        ml = intracranial_ml(image, result.labels)
        if ml is None:
            return result
        return replace(result, intracranial=IntracranialVolume(ml, ml * self.card.intracranial_error))

    def structures(self, image: sitk.Image, roi: sitk.Image | None = None) -> list[Label]:
        """The structures that :meth:`segment` finds in ``image``; ModelError where the locator cannot be used."""
        if roi is not None or not self._needs_locator(image):
            return list(self.card.labels)
        targets = cascade.plan_targets(self.card, cascade.find_locator(self.package).card)
        return [label for target in targets for label in target.labels.values()]

    def locate(
        self, image: sitk.Image, *, low_memory: bool = False, progress: Progress = no_progress
    ) -> sitk.Image | None:
        """What the card's locator finds in ``image``; None where this model needs none for it.

        Args and errors: as of :meth:`segment`.
        """
        if not self._needs_locator(image):
            return None
        if self._locator is None:
            self._locator = Engine(cascade.find_locator(self.package), str(self.device))
        return self._locator.segment(image, fast=True, low_memory=low_memory, progress=progress).labels

    def fields(
        self, image: sitk.Image, *, roi: sitk.Image | None = None, located: sitk.Image | None = None
    ) -> list[Field]:
        """Where in ``image`` the networks look, and what they see; one field, or one for each target of a cascade.

        Args and errors: as of :meth:`segment`; with neither ``roi`` nor ``located`` the volume is taken as a whole.
        """
        with memory_errors():
            grid, array = self._prepare(image)
            if roi is not None or located is None:
                box = self._box(grid, array, None if roi is None else region_box(roi))
                return [self._field(grid, array, box)]
            targets, boxes = self._targets(grid, located)
            return [
                self._field(grid, array, box, target)
                for target, box in zip(targets, boxes, strict=True)
                if box is not None
            ]

    def _field(self, grid: ModelGrid, array: np.ndarray, box: Box, target: cascade.Target | None = None) -> Field:
        """What the networks see in a box of the model's grid, for a target of a cascade or for itself."""
        mirror = target is not None and target.mirror
        labels = {label.value: label for label in self.card.labels} if target is None else target.labels
        values = {own: label.value for own, label in labels.items()}
        return Field(grid.cropped(box), self._part(array, box, mirror), mirror, values)

    def _targets(self, grid: ModelGrid, located: sitk.Image) -> tuple[list[cascade.Target], list[Box | None]]:
        """The targets of the cascade, and where on the grid they are."""
        targets = cascade.plan_targets(self.card, cascade.find_locator(self.package).card)
        margin_mm = float(self.card.pipeline.get("margin_mm", self.card.margin_mm))
        return targets, cascade.locate_targets(targets, located, grid, margin_mm)

    def _needs_locator(self, image: sitk.Image) -> bool:
        if self.card.pipeline is None:
            return False
        expected = expectation.expected_extent(self.card)
        largest = LARGEST_CROP_MM if expected is None else expected[:, 1]
        return bool((guard.extent_of(image) > largest).any())

    def _segment_one(
        self,
        image: sitk.Image,
        findings: Sequence[Finding],
        roi: sitk.Image | None,
        views: Sequence[View],
        low_memory: bool,
        doubt: bool,
        keep: Keep | None,
        observe: Observe | None,
        progress: Progress,
    ) -> SegmentationResult:
        """The whole volume, or a region of it."""
        names = _phase_names(views)
        phases = PhasedProgress(progress, {"prepare": 2, **dict.fromkeys(names, 8), "restore": 2, "measure": 1})
        phases.update("prepare", 0.0)
        grid, array = self._prepare(image)
        region = None if roi is None else region_box(roi)
        box = self._box(grid, array, region)
        phases.update("prepare", 1.0)

        def report(view: View, fraction: float) -> None:
            phases.update(names[views.index(view)], fraction)
            if view is views[-1] and fraction == 1:
                phases.update("restore", 0.0)

        field = self._field(grid, array, box)
        seen = self._segment_field(field, views, low_memory, report, doubt, region, observe)
        phases.update("restore", 1.0)
        labels = keep(seen.labels) if keep else seen.labels
        result = self._result(labels, self.card.labels, seen.trust, self.card.merged_pairs, findings, phases)
        return result if seen.doubt is None else replace(result, doubt=grid.input.image(seen.doubt))

    def _segment_targets(
        self,
        image: sitk.Image,
        findings: Sequence[Finding],
        views: Sequence[View],
        low_memory: bool,
        doubt: bool,
        located: sitk.Image | None,
        keep: Keep | None,
        observe: Observe | None,
        progress: Progress,
    ) -> SegmentationResult:
        """Crops of the volume, where the card's locator finds their targets."""
        locator = cascade.find_locator(self.package)
        targets = cascade.plan_targets(self.card, locator.card)
        names = [target.name for target in targets]
        phases = PhasedProgress(progress, {"locate": 20, "prepare": 1, **dict.fromkeys(names, 2), "measure": 1})

        def locating(phase: str, fraction: float, seconds_left: float | None) -> None:
            phases.update("locate", fraction)

        if located is None:
            located = self.locate(image, low_memory=low_memory, progress=locating)
        phases.update("prepare", 0.0)
        grid, array = self._prepare(image)
        targets, boxes = self._targets(grid, located)
        phases.update("prepare", 1.0)
        structures = [label for target in targets for label in target.labels.values()]
        combined = np.zeros(image.GetSize()[::-1], np.min_scalar_type(max(label.value for label in structures)))
        trust: dict[int, tuple[float, float | None]] = {}
        doubts = np.zeros(combined.shape, np.float32) if doubt else None
        for target, box in zip(targets, boxes, strict=True):

            def report(view: View, fraction: float, name: str = target.name) -> None:
                phases.update(name, (views.index(view) + fraction) / len(views))

            if box is not None:
                field = self._field(grid, array, box, target)
                seen = self._segment_field(field, views, low_memory, report, doubt, None, observe)
                own = voxels_of(seen.labels)
                for value, label in target.labels.items():
                    combined[own == value] = label.value
                    trust[label.value] = seen.trust[value]
                if doubts is not None:
                    np.maximum(doubts, seen.doubt, out=doubts)
            phases.update(target.name, 1.0)
        labels = sitk.GetImageFromArray(combined)
        labels.CopyInformation(image)
        labels = keep(labels) if keep else labels
        result = self._result(labels, structures, trust, cascade.sided_pairs(targets), findings, phases)
        return result if doubts is None else replace(result, doubt=grid.input.image(doubts))

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
        box = foreground_box(array, grid.geometry.spacing, self.card.margin_mm)
        return self._focus(grid, array, box) if self.card.input.get("kind") == "head" else box

    def _focus(self, grid: ModelGrid, array: np.ndarray, box: Box) -> Box:
        """The part of ``box`` round what a quick look at a few slices finds: about what training slices show.

        That is not only faster: cSE blocks squeeze the whole slice, so what lies round the brain tells on it.
        """
        view = self._predictor.best_view()
        steps = [FOCUS_STEP if axis == PLANE_AXIS[view.plane] else 1 for axis in range(3)]
        margin = [round(self.card.margin_mm / length) for length in reversed(grid.geometry.spacing)]
        part = array[box]
        found = box_of_pieces(self._predictor.find(part, FOCUS_STEP), steps, margin, part.shape)
        if found is None:
            return box
        return tuple(slice(a.start + b.start, a.start + b.stop) for a, b in zip(box, found, strict=True))

    def _segment_field(
        self,
        field: Field,
        views: Sequence[View],
        low_memory: bool,
        report: Report,
        doubt: bool,
        region: Geometry | None,
        observe: Observe | None,
    ) -> _Seen:
        """What a box of the model's grid gives on the input's."""
        predicted = self._predictor.predict(field.volume, views, low_memory, report)
        if observe:
            observe(field, predicted.probabilities)
        trust = confidence(predicted.probabilities, predicted.votes)
        probabilities = predicted.probabilities.flip(-1) if field.mirror else predicted.probabilities
        there = field.grid
        labels = there.from_model_grid(divide(probabilities, self.card))
        doubts = there.to_input(voxel_doubt(probabilities)) if doubt else None
        if region is not None:
            outside = ~inside(region, there.input)
            kept = sitk.GetArrayFromImage(labels)
            kept[outside] = 0
            labels = there.input.image(kept)
            if doubts is not None:
                doubts[outside] = 0
        values = [label.value for label in self.card.labels]
        trusted = {
            value: (confident, expected_dice(self.card.calibration, value, confident, len(views)))
            for value, confident in zip(values, trust[1:].tolist(), strict=True)
        }
        return _Seen(clean(labels, values, self.card.cleanup), trusted, doubts)

    def _part(self, array: np.ndarray, box: Box, mirror: bool = False) -> np.ndarray:
        """The intensities in a box as the networks see them."""
        part = normalise(array[box], self.card.intensity) if self._crops else array[box]
        return part[..., ::-1] if mirror else part

    def _result(
        self,
        labels: sitk.Image,
        structures: Sequence[Label],
        trust: Mapping[int, tuple[float, float | None]],
        pairs: Sequence[tuple[int, int]],
        findings: Sequence[Finding],
        phases: PhasedProgress,
    ) -> SegmentationResult:
        """Measure a label map."""
        phases.update("measure", 0.0)
        measured, doubts = measure_structures(labels, structures, trust, pairs)
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
    """A name for each view: its plane, or "volume"; with a number where several have the same."""
    planes = ["volume" if view.volumetric else view.plane for view in views]
    return [
        plane if planes.count(plane) == 1 else f"{plane} {planes[: index + 1].count(plane)}"
        for index, plane in enumerate(planes)
    ]
