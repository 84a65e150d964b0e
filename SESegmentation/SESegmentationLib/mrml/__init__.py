"""Between a Slicer scene and images: volumes and regions out, named segments in. Needs slicer and vtk only."""

from .edits import (
    EDIT_ATTRIBUTES,
    EditRecord,
    check_output_grid,
    corrected_mask,
    edited_voxels,
    find_corrected_slices,
    is_on_volume_grid,
    record_written_labels,
    result_grid,
)
from .history import UndoHistory
from .layers import find_segment, label_map
from .overlay import ATTENTION, DOUBT, show_difference, value_range
from .references import (
    adapted_parameters,
    adapted_text_node,
    companion_node,
    place_beside,
    referenced_node,
    require_adapted_parameters,
    set_adapted_parameters,
    set_companion_node,
    source_volume,
)
from .region import region_image
from .segmentation import (
    ACCEPTED,
    CORRECTED,
    TO_CHECK,
    add_segmentation,
    completed_voxels,
    is_completed,
    mark_edited_semiautomatic,
    mark_semiautomatic,
    review_state,
    set_algorithm_tags,
    set_review_state,
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
    "EditRecord",
    "SegmentationSequence",
    "TO_CHECK",
    "UndoHistory",
    "VolumeSequence",
    "adapted_parameters",
    "adapted_text_node",
    "add_segmentation",
    "check_output_grid",
    "check_volume_node",
    "completed_voxels",
    "corrected_mask",
    "edited_voxels",
    "find_corrected_slices",
    "find_segment",
    "image_from_volume_node",
    "is_completed",
    "is_on_volume_grid",
    "set_adapted_parameters",
    "label_map",
    "companion_node",
    "set_algorithm_tags",
    "mark_semiautomatic",
    "mark_edited_semiautomatic",
    "place_beside",
    "set_companion_node",
    "referenced_node",
    "require_adapted_parameters",
    "region_image",
    "record_written_labels",
    "result_grid",
    "review_state",
    "set_review_state",
    "show_difference",
    "source_volume",
    "update_segmentation",
    "value_range",
]
