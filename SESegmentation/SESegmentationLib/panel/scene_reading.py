"""After a scene was read: data of earlier versions are brought up to date, and unusable data are reported."""

from __future__ import annotations

from dataclasses import replace

import slicer
from slicer.i18n import tr as _

from ..errors import InputError
from ..mrml import (
    EditRecord,
    VolumeRegion,
    adapted_parameters,
    adapted_text_node,
    movement,
    referenced_node,
    source_volume,
)
from .messages import WARNING, Message
from .result_record import ResultRecord
from .voxel_order import follow_voxel_order

#: nodes that are named in one message
_MAX_NAMES = 5
#: role of the box to which the search was limited, in scenes of versions whose records did not say it
_EARLIER_REGION_ROLE = "SESegmentation.Region"


def use_scene_data(choices: list[str]) -> list[Message]:
    """Bring the results in a scene that was read up to date.

    Returns:
        Messages about its data that cannot be used, and about ``choices`` that were reset.
    """
    nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    records = [node.GetName() for node in nodes if ResultRecord.exists(node) and ResultRecord.read(node) is None]
    edits = [node.GetName() for node in nodes if not EditRecord.is_valid(node)]
    moved = [node.GetName() for node in nodes if movement(node) is not None]
    _recover_regions(nodes)
    _follow_voxel_orders(nodes)
    with_network = [node for node in nodes if adapted_text_node(node) is not None]
    networks = [node.GetName() for node in with_network if adapted_parameters(node) is None]
    kinds = (
        (
            records,
            _("The scene's records of these results cannot be used: {names}."),
            _("Segment again to review them."),
        ),
        (
            edits,
            _("The scene's records of edits in these segmentations cannot be used: {names}."),
            _("They are not written into, so that no correction is lost: choose a new segmentation as the output."),
        ),
        (
            moved,
            _(
                "These segmentations were moved by hardened transforms, or given another geometry, since their results "
                "were written: {names}."
            ),
            _(
                "To learn from their corrections, move them back (harden the inverse transforms) or specify their old "
                "geometry. Or segment again."
            ),
        ),
        (
            networks,
            _("The networks that were recalibrated with these segmentations cannot be used: {names}."),
            _("Recalibrate again."),
        ),
        (choices, _("These choices of the scene cannot be used: {names}."), _("They were reset to their defaults.")),
    )
    return [Message(WARNING, text.format(names=_listed(names)), remedy) for names, text, remedy in kinds if names]


def _recover_regions(nodes: list[slicer.vtkMRMLSegmentationNode]) -> None:
    """Store the regions of results of earlier versions in their records.

    Those versions referred to the box: its place in the scene that was read is the best that is known. Where there is
    none, nothing tells a box that was removed from a search in the whole volume; results count as of the latter, so
    that a proposal may reach farther, which is shown before it is accepted.
    """
    for node in nodes:
        record = ResultRecord.read(node)
        if record is None or ResultRecord.has_region_entry(node):
            continue
        box = referenced_node(node, _EARLIER_REGION_ROLE, "vtkMRMLMarkupsROINode")
        try:
            region = VolumeRegion.of(box, source_volume(node)) if box is not None else None
        except InputError:
            region = None
        replace(record, region=region).write(node)
        node.RemoveNodeReferenceIDs(_EARLIER_REGION_ROLE)


def _follow_voxel_orders(nodes: list[slicer.vtkMRMLSegmentationNode]) -> None:
    """Count slices from the end from which those of the volumes, which were read again, are counted now."""
    for node in nodes:
        try:
            volume = source_volume(node)
        except InputError:
            continue
        if volume.GetImageData() is not None:
            follow_voxel_order(node, volume)


def _listed(names: list[str]) -> str:
    listed, more = ", ".join(name[:64] for name in names[:_MAX_NAMES]), len(names) - _MAX_NAMES
    return listed if more <= 0 else _("{names} and {count} more").format(names=listed, count=more)
