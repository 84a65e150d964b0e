"""What the user chooses, as the panel's parts see it. The module's parameter node is one, saved with the scene."""

from __future__ import annotations

from typing import Protocol

import slicer


class Choices(Protocol):
    """The choices of one scene.

    Attributes:
        inputVolume: the volume to segment.
        everyFrame: of the sequence that shows its frames in the volume; otherwise the one that is selected.
        model: name of the model; empty: the first one.
        adaptedFrom: use the parameters adapted to this patient that come with this segmentation; None: the model as it
            is. Counts for its own volume and model only.
        region: look only inside this box; None: the whole volume.
        outputSegmentation: written into; None: a new segmentation each time.
        resultSegmentation: the result on show.
        device: "auto", "cpu", "cuda" or "mps".
        fast: fewer views.
        lowMemory: smaller batches.
        recalibrate: adapt the networks to the patient too when corrections are carried to other slices.
        keepWarm: leave the worker running between two segmentations.
        opacity: of the result in all views, 0 to 1.
    """

    inputVolume: slicer.vtkMRMLScalarVolumeNode | None
    everyFrame: bool
    model: str
    adaptedFrom: slicer.vtkMRMLSegmentationNode | None
    region: slicer.vtkMRMLMarkupsROINode | None
    outputSegmentation: slicer.vtkMRMLSegmentationNode | None
    resultSegmentation: slicer.vtkMRMLSegmentationNode | None
    device: str
    fast: bool
    lowMemory: bool
    recalibrate: bool
    keepWarm: bool
    opacity: float
