"""Draws Resources/brain-mr-3d.png: ``python Testing/harness/brain_picture.py HEAD.nii.gz``.

The module's logic segments the head by brain-mr; Slicer's core makes the surfaces.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "Testing"), str(ROOT / "SESegmentation")]

from harness import application  # noqa: E402

SIZE = (640, 640)
HIDDEN = ("cerebrospinal fluid", "cerebral cortex", "cerebral white matter")
#: of the second picture, where the cortex is glass
OPACITY = 0.15
DIRECTIONS = ((-1.0, 0.25, 0.2), (-0.8, 0.8, 0.35))  # where the camera stands: right, anterior, superior


def main() -> int:
    """Draw the brain from outside, and with a cortex of glass."""
    import slicer

    application.start()
    application.load_module(ROOT / "SESegmentation" / "SESegmentation.py")
    application.open_module("SESegmentation")
    volume = slicer.util.loadVolume(sys.argv[1])
    node = sys.modules["SESegmentation"].SESegmentationLogic().segment(volume, "brain-mr")
    node.CreateClosedSurfaceRepresentation()
    display, segmentation = node.GetDisplayNode(), node.GetSegmentation()
    view = slicer.app.layoutManager().threeDWidget(0)._view
    view.size = SIZE
    pictures = []
    for glass, direction in zip((False, True), DIRECTIONS, strict=True):
        for number in range(segmentation.GetNumberOfSegments()):
            identifier = segmentation.GetNthSegmentID(number)
            name = segmentation.GetSegment(identifier).GetName()
            outer = any(word in name for word in HIDDEN)
            display.SetSegmentVisibility3D(identifier, "fluid" not in name and not (glass and "white" in name))
            display.SetSegmentOpacity3D(identifier, OPACITY if glass and outer else 1.0)
        view.look_from(*direction)
        pictures.append(view.picture())
    Image.fromarray(np.hstack(pictures)).quantize(255, dither=Image.Dither.NONE).save(
        ROOT / "Resources" / "brain-mr-3d.png", optimize=True
    )
    view.close()
    application.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
