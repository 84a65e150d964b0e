"""Between a Slicer scene and images: volumes and regions out, named segments in. Needs slicer and vtk only."""

from .history import UndoHistory
from .region import region_image
from .segmentation import (
    add_segmentation,
    is_completed,
    place_beside,
    set_surfaces_visible,
    update_segmentation,
)
from .sequence import SegmentationSequence, VolumeSequence
from .volume import check_volume_node, image_from_volume_node

__all__ = [
    "SegmentationSequence",
    "UndoHistory",
    "VolumeSequence",
    "add_segmentation",
    "check_volume_node",
    "image_from_volume_node",
    "is_completed",
    "place_beside",
    "region_image",
    "set_surfaces_visible",
    "update_segmentation",
]
