"""The engine: a model, loaded and warm, that segments volumes.

All volumes take the same steps: check the volume, plan crops, predict, restore to the input's grid, clean up, measure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
import torch
from torch import nn

from ..geometry import Geometry
from ..io.reading import check_volume
from ..io.volume_image import voxels_of
from ..memory import memory_errors
from ..models import Label, ModelPackage, View
from ..models.sections import expected_dice
from ..networks.weights import load_networks
from ..progress import PhasedProgress, Progress, no_progress
from ..result import Confidence, IntracranialVolume, SegmentationResult, SegmentOptions
from .cascade import Cascade
from .cleanup import clean
from .confidence import confidence, voxel_doubt
from .crops import Crop, CropPlanner
from .device import device_for
from .input_checks import check_input
from .intracranial import intracranial_ml
from .model_grid import check_room_for_grid, is_thick, on_model_grid
from .output_checks import check_region, measure_structures
from .predictor import Predictor
from .roi import region_box
from .ventricle_wall import limit_to_fluid

#: called with a view and the fraction of its slices that are done
ReportShare = Callable[[View, float], None]
#: called with a crop as the networks see it, and their probabilities (C, k, j, i) for it
Observe = Callable[[Crop, torch.Tensor], None]


@dataclass(frozen=True)
class _Segmented:
    """The combined output of crops.

    Attributes:
        labels: label map on the input's grid, with the values of the result.
        confidences: by the result's values.
        doubt: (k, j, i) on the input's grid, if requested.
    """

    labels: sitk.Image
    confidences: dict[int, Confidence]
    doubt: np.ndarray | None


class Engine:
    """A model on a device, ready to segment one volume after another.

    Args:
        package: the model.
        device: "auto", "cpu", "cuda", "cuda:1", ..., "mps".
        networks: to use instead of the model's own, for example adapted ones; modified in place.

    Raises:
        ModelError: the weights are damaged or do not fit the card.
        DeviceError: no such device.

    Attributes:
        package: the model.
        card: its card.
        device: where its networks run.
        predictor: its networks over views.

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
        self.device, self._device_name = device_for(package.card, device), device
        with memory_errors():
            self.predictor = Predictor(self.card, networks or load_networks(package), self.device)
        self._locator: Engine | None = None

    def segment(
        self,
        image: sitk.Image,
        options: SegmentOptions = SegmentOptions(),
        *,
        located: sitk.Image | None = None,
        observe: Observe | None = None,
        progress: Progress = no_progress,
    ) -> SegmentationResult:
        """Segment a volume.

        Args:
            image: 3-D scalar volume of any orientation, spacing and obliquity.
            options: where to look, how, and what to return.
            located: the result of :meth:`locate` for this volume, if already known.
            observe: called for each crop with the input of the networks and their output before smoothing.
            progress: called with phase, fraction and seconds left after every batch; may raise to cancel.

        Returns:
            Labels on exactly the grid of ``image``, or on the model's, and the measurements of each structure.

        Raises:
            InputError: the volume cannot be segmented, or the region lies outside it.
            OutOfMemoryError: not enough main or device memory.
            CancelledError: from ``progress``.
        """
        with memory_errors():
            check_room_for_grid(image, self.card)
            given = image = self.checked(image)
            if options.grid == "model" or (options.grid == "auto" and is_thick(image, self.card)):
                image = on_model_grid(image, self.card)
            cascade = Cascade.for_volume(self.package, image, options.roi)
            findings = check_input(given, cascade.locator.card if cascade else self.card)
            views = self.views(options.fast)
            phases = PhasedProgress(progress, _phase_shares(cascade, views))
            if cascade and located is None:
                located = self.locate(image, low_memory=options.low_memory, progress=phases.part("locate"))
            phases.update("prepare", 0.0)
            crops = self._plan(image, options.roi, cascade, located)
            phases.update("prepare", 1.0)
            segmented = self._segment_crops(image, crops, cascade, options, observe, phases)
            phases.update("measure", 0.0)
            sought, pairs = self._sought(cascade)
            measured, implausible = measure_structures(segmented.labels, sought, pairs, segmented.confidences)
            if options.roi is not None:
                implausible += check_region(segmented.labels, sought, region_box(options.roi))
            phases.update("measure", 1.0)
            result = SegmentationResult(
                labels=segmented.labels,
                structures=measured,
                timings=phases.seconds(),
                findings=[*findings, *implausible],
                model=self.card,
                device=str(self.device),
                doubt=None if segmented.doubt is None else Geometry.of(image).image(segmented.doubt),
            )
            whole_head = options.roi is None and cascade is None and self.card.intracranial_error > 0
            return self._with_intracranial(result, given) if whole_head else result

    def crops(
        self,
        image: sitk.Image,
        options: SegmentOptions = SegmentOptions(),
        *,
        located: sitk.Image | None = None,
        progress: Progress = no_progress,
    ) -> list[Crop]:
        """The crops of ``image`` that :meth:`segment` segments; in a cascade one for each target that was found.

        Args and errors: as of :meth:`segment`; ``progress`` is that of locating.
        """
        with memory_errors():
            image = self.checked(image)
            cascade = Cascade.for_volume(self.package, image, options.roi)
            if cascade and located is None:
                located = self.locate(image, low_memory=options.low_memory, progress=progress)
            return [crop for crop in self._plan(image, options.roi, cascade, located) if crop is not None]

    def locate(
        self, image: sitk.Image, *, low_memory: bool = False, progress: Progress = no_progress
    ) -> sitk.Image | None:
        """The label map that the card's locator makes of ``image``; None if the model needs no locator for it.

        Args and errors: as of :meth:`segment`.
        """
        cascade = Cascade.for_volume(self.package, image)
        if cascade is None:
            return None
        if self._locator is None:
            self._locator = Engine(cascade.locator, self._device_name)
        options = SegmentOptions(fast=True, low_memory=low_memory)
        return self._locator.segment(image, options, progress=progress).labels

    def pairs(self, image: sitk.Image, roi: sitk.Image | None = None) -> list[tuple[int, int]]:
        """Values (left, right) of those structures that are each other's counterpart."""
        return self._sought(Cascade.for_volume(self.package, image, roi))[1]

    def views(self, fast: bool = False) -> list[View]:
        """The views that are used."""
        return [self.predictor.best_view()] if fast else self.predictor.views

    def checked(self, image: sitk.Image) -> sitk.Image:
        """``image`` as a 3-D scalar volume, see :func:`.check_volume`; InputError if it cannot be segmented."""
        return check_volume(image, single=self.card.takes_slices)

    def _sought(self, cascade: Cascade | None) -> tuple[list[Label], list[tuple[int, int]]]:
        """The structures that are looked for, and the values (left, right) of those that are counterparts."""
        if cascade is None:
            return list(self.card.labels), list(self.card.merged_pairs)
        return cascade.structures, cascade.pairs

    def _plan(
        self, image: sitk.Image, roi: sitk.Image | None, cascade: Cascade | None, located: sitk.Image | None
    ) -> Sequence[Crop | None]:
        """The crops of a volume; one for each target of a cascade, None where that was not found."""
        planner = CropPlanner(image, self.card)
        if roi is not None:
            return [planner.region(roi)]
        if cascade is None or located is None:
            return [planner.whole(self.predictor)]
        return planner.targets(cascade, located)

    def _segment_crops(
        self,
        image: sitk.Image,
        crops: Sequence[Crop | None],
        cascade: Cascade | None,
        options: SegmentOptions,
        observe: Observe | None,
        phases: PhasedProgress,
    ) -> _Segmented:
        """Segment the crops and combine their output."""
        views = self.views(options.fast)
        if cascade is None:
            (crop,) = crops
            assert crop is not None  # only targets can be missing
            segmented = self._segment_crop(image, crop, views, options, observe, _report_views(phases, views))
            phases.update("restore", 1.0)
            return segmented
        kind = np.min_scalar_type(max(label.value for label in cascade.structures))
        shape = Geometry.of(image).shape
        labels = np.zeros(shape, kind)
        confidences: dict[int, Confidence] = {}
        doubt = np.zeros(shape, np.float32) if options.doubt else None
        for target, crop in zip(cascade.targets, crops, strict=True):
            if crop is not None:
                found = self._segment_crop(
                    image, crop, views, options, observe, _report_target(phases, views, target.name)
                )
                own = voxels_of(found.labels)
                np.copyto(labels, own, where=own > 0)
                confidences |= found.confidences
                if doubt is not None and found.doubt is not None:
                    np.maximum(doubt, found.doubt, out=doubt)
            phases.update(target.name, 1.0)
        return _Segmented(Geometry.of(image).image(labels), confidences, doubt)

    def _segment_crop(
        self,
        image: sitk.Image,
        crop: Crop,
        views: Sequence[View],
        options: SegmentOptions,
        observe: Observe | None,
        report: ReportShare,
    ) -> _Segmented:
        """Predict a crop of ``image``, restore what is found to the input's grid, and clean it up."""
        observed = observe is not None
        predicted = self.predictor.predict(crop.volume, views, options.low_memory, report, keep_unsmoothed=observed)
        if observe and predicted.unsmoothed is not None:
            observe(crop, predicted.unsmoothed)
        if "fluid" in self.card.cleanup:
            limit_to_fluid(predicted.probabilities, crop.intensities(image), self.card)
        confident = confidence(predicted.probabilities, predicted.votes)[1:].tolist()
        labels = crop.labels_on_input(predicted.probabilities, self.card)
        doubt = crop.on_input(voxel_doubt(predicted.probabilities)) if options.doubt else None
        del predicted  # the largest part of all memory, which cleaning up needs too
        own_values = [label.value for label in self.card.labels]
        confidences = {
            crop.values[own]: Confidence(value, expected_dice(self.card.calibration, own, value, len(views)))
            for own, value in zip(own_values, confident, strict=True)
            if own in crop.values
        }
        labels = clean(labels, own_values, self.card.cleanup)
        same = crop.values == {own: own for own in own_values}
        return _Segmented(labels if same else _renumbered(labels, crop.values), confidences, doubt)

    def _with_intracranial(self, result: SegmentationResult, image: sitk.Image) -> SegmentationResult:
        """The result with the intracranial volume, where it can be measured."""
        ml = intracranial_ml(image, result.labels)
        if ml is None:
            return result
        return replace(result, intracranial=IntracranialVolume(ml, ml * self.card.intracranial_error))


def _renumbered(labels: sitk.Image, values: dict[int, int]) -> sitk.Image:
    """A label map with other values; values without a new one become background."""
    array = voxels_of(labels)
    table = np.zeros(int(max(array.max(), *values)) + 1, np.min_scalar_type(max(values.values())))
    table[list(values)] = list(values.values())
    return Geometry.of(labels).image(table[array])


def _phase_shares(cascade: Cascade | None, views: Sequence[View]) -> dict[str, float]:
    """The phases of a segmentation: of a cascade one for each target, else one for each view."""
    if cascade is None:
        return {"prepare": 2, **dict.fromkeys(_view_names(views), 8), "restore": 2, "measure": 1}
    return {"locate": 20, "prepare": 1, **dict.fromkeys([t.name for t in cascade.targets], 2), "measure": 1}


def _report_target(phases: PhasedProgress, views: Sequence[View], name: str) -> ReportShare:
    return lambda view, fraction: phases.update(name, (views.index(view) + fraction) / len(views))


def _report_views(phases: PhasedProgress, views: Sequence[View]) -> ReportShare:
    names = _view_names(views)

    def report(view: View, fraction: float) -> None:
        phases.update(names[views.index(view)], fraction)
        if view is views[-1] and fraction == 1:
            phases.update("restore", 0.0)

    return report


def _view_names(views: Sequence[View]) -> list[str]:
    """A name for each view: its plane, or "volume"; with a number where several have the same."""
    planes = ["volume" if view.volumetric else view.plane for view in views]
    return [
        plane if planes.count(plane) == 1 else f"{plane} {planes[: index + 1].count(plane)}"
        for index, plane in enumerate(planes)
    ]
