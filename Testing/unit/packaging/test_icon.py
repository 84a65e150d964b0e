"""The icon is what its script draws, in the size that Slicer's Extensions Manager shows."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

SCRIPT = Path(__file__).resolve().parents[3] / "Resources" / "draw_icon.py"


def test_icons_are_as_drawn():
    spec = importlib.util.spec_from_file_location("draw_icon", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    drawn = np.asarray(script.draw(), int)
    assert drawn.shape == (128, 128, 4)
    assert drawn[0, 0, 3] == 0 and drawn[64, 6, 3] == 255  # round corners
    for path in script.PATHS:
        with Image.open(path) as image:
            assert image.format == "PNG"
            difference = np.abs(np.asarray(image.convert("RGBA"), int) - drawn)
        assert difference.mean() < 1  # another Pillow may round edges otherwise
