"""What a scene keeps of this module and cannot be used: told once, when the scene was read, and left out."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _

from ..errors import InputError
from ..mrml import EditNotes, adapted_parameters, adapted_text
from .messages import WARNING, Message
from .result_record import ResultRecord

#: names that are told of each kind
_TOLD = 5


def unusable_notes(choices: list[str]) -> list[Message]:
    """Messages on the segmentations of the scene whose notes cannot be used, and on ``choices`` that were left out."""
    nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    records = [node.GetName() for node in nodes if ResultRecord.is_kept(node) and ResultRecord.read(node) is None]
    edits = [node.GetName() for node in nodes if not _edits_are_usable(node)]
    networks = [node.GetName() for node in nodes if adapted_text(node) is not None and adapted_parameters(node) is None]
    found = (
        (
            records,
            _("What the scene says of these results cannot be used: {names}."),
            _("Segment again to review them."),
        ),
        (
            edits,
            _("What the scene says of edits in these segmentations cannot be used: {names}."),
            _("They are not written into, so that no correction is lost: choose a new segmentation as the output."),
        ),
        (
            networks,
            _("The networks that were recalibrated with these segmentations cannot be used: {names}."),
            _("Recalibrate again."),
        ),
        (choices, _("These choices of the scene cannot be used: {names}."), _("They are as in a new scene.")),
    )
    return [Message(WARNING, text.format(names=_listed(names)), remedy) for names, text, remedy in found if names]


def _edits_are_usable(node: slicer.vtkMRMLSegmentationNode) -> bool:
    try:
        EditNotes.read(node)
    except InputError:
        return False
    return True


def _listed(names: list[str]) -> str:
    told = ", ".join(name[:64] for name in names[:_TOLD])
    return told if len(names) <= _TOLD else _("{names} and {count} more").format(names=told, count=len(names) - _TOLD)
