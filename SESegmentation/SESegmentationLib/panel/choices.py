"""What the user chooses, as the panel's parts see it. The module's parameter node is one, saved with the scene."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import slicer

DEVICES = ("auto", "cpu", "cuda", "mps")


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


def unusable_choices(node: slicer.vtkMRMLScriptedModuleNode) -> list[str]:
    """Names of the choices that a parameter node cannot mean: of another version, changed by hand, made to do harm.

    Slicer's wrapper checks what is written and not what is read: one such value would end every visit of the module.
    """
    wrong = [name for name, valid in _VALID.items() if node.HasParameter(name) and not valid(node.GetParameter(name))]
    referred = {name: node.GetNodeReference(name) for name in _CLASSES}
    return wrong + [name for name, kind in _CLASSES.items() if referred[name] and not referred[name].IsA(kind)]


def leave_out(node: slicer.vtkMRMLScriptedModuleNode, names: list[str]) -> None:
    """Forget some choices: their defaults hold."""
    with slicer.util.NodeModify(node):
        for name in names:
            node.UnsetParameter(name)
            node.RemoveNodeReferenceIDs(name)


def _is_share(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def _is_flag(text: str) -> bool:
    return text in ("True", "False")


_VALID: dict[str, Callable[[str], bool]] = {
    "model": lambda text: len(text) <= 256 and (not text or text.isprintable()),
    "device": lambda text: text in DEVICES,
    "opacity": _is_share,
    **dict.fromkeys(("everyFrame", "fast", "lowMemory", "recalibrate", "keepWarm"), _is_flag),
}
_CLASSES = {
    "inputVolume": "vtkMRMLScalarVolumeNode",
    "region": "vtkMRMLMarkupsROINode",
    **dict.fromkeys(("adaptedFrom", "outputSegmentation", "resultSegmentation"), "vtkMRMLSegmentationNode"),
}
