"""Between a Slicer scene and images: volumes and regions out, named segments in. Needs slicer and vtk only."""

from .edits import (
    check_grid,
    corrected_mask,
    edited_voxels,
    find_corrections,
    is_on_grid,
    remember_written,
    result_grid,
)
from .history import UndoHistory
from .layers import find_segment, label_map
from .notes import EDIT_ATTRIBUTES, EditNotes, adapted_parameters, adapted_text, keep_adapted_parameters
from .overlay import ATTENTION, DOUBT, show_difference, value_range
from .region import region_image
from .segmentation import (
    ACCEPTED,
    CORRECTED,
    TO_CHECK,
    add_segmentation,
    completed_voxels,
    is_completed,
    made_node,
    note_algorithm,
    note_correction,
    note_corrections,
    place_beside,
    refer_to_made,
    referenced_node,
    review_state,
    set_review_state,
    set_surfaces_visible,
    source_volume,
    update_segmentation,
)
from .sequence import SegmentationSequence, VolumeSequence
from .volume import check_volume_node, image_from_volume_node

__all__ = [
    "ACCEPTED",
    "ATTENTION",
    "CORRECTED",
    "DOUBT",
    "EDIT_ATTRIBUTES",
    "EditNotes",
    "SegmentationSequence",
    "TO_CHECK",
    "UndoHistory",
    "VolumeSequence",
    "adapted_parameters",
    "adapted_text",
    "add_segmentation",
    "check_grid",
    "check_volume_node",
    "completed_voxels",
    "corrected_mask",
    "edited_voxels",
    "find_corrections",
    "find_segment",
    "image_from_volume_node",
    "is_completed",
    "is_on_grid",
    "keep_adapted_parameters",
    "label_map",
    "made_node",
    "note_algorithm",
    "note_correction",
    "note_corrections",
    "place_beside",
    "refer_to_made",
    "referenced_node",
    "region_image",
    "remember_written",
    "result_grid",
    "review_state",
    "set_review_state",
    "set_surfaces_visible",
    "show_difference",
    "source_volume",
    "update_segmentation",
    "value_range",
]
