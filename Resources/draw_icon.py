"""Draws the icon of the extension and of its module: ``python Resources/draw_icon.py``.

A brain in a coronal view, dimmed; the two hippocampi are excited.
"""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageDraw

SIZE = 128
_SCALE = 8  # drawn larger and reduced, for smooth edges
_RESOURCES = Path(__file__).resolve().parent
PATHS = (
    _RESOURCES / "SESegmentation.png",
    _RESOURCES.parent / "SESegmentation" / "Resources" / "Icons" / "SESegmentation.png",
)

_TILE, _BRAIN, _INSIDE = (16, 42, 67, 255), (176, 192, 212, 255), (226, 233, 242, 255)
_EXCITED = ((255, 183, 3, 255), (20, 170, 150, 255))
_CENTRE = (64, 60)


def draw() -> Image.Image:
    """The icon, SIZE x SIZE pixels, RGBA, transparent round the tile's corners."""
    image = Image.new("RGBA", (SIZE * _SCALE,) * 2)
    pen = ImageDraw.Draw(image)
    pen.rounded_rectangle(_scaled(2, 2, 126, 126), radius=26 * _SCALE, fill=_TILE)
    _disc(pen, 64, 94, 14, 18, _BRAIN)  # brain stem
    for step in range(18):  # the folds of the cortex
        angle = math.radians(step * 20 + 10)
        _disc(pen, _CENTRE[0] + 41 * math.cos(angle), _CENTRE[1] + 34 * math.sin(angle), 10, 10, _BRAIN)
    _disc(pen, *_CENTRE, 44, 37, _BRAIN)
    _disc(pen, *_CENTRE, 39, 32, _INSIDE)
    pen.line(_scaled(64, 14, 64, 58), fill=_TILE, width=3 * _SCALE)  # between the hemispheres
    for side, color in zip((-1, 1), _EXCITED, strict=True):
        _draw_hippocampus(pen, side, color)
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def _draw_hippocampus(pen: ImageDraw.ImageDraw, side: int, color: tuple[int, ...]) -> None:
    """A curl with round ends, thick below and thin above."""
    for step in range(200):
        turn = step / 199
        angle = math.radians(100 - 230 * turn)
        x = _CENTRE[0] + side * (21 + 11 * math.cos(angle))
        radius = 7 - 2.5 * turn
        _disc(pen, x, 67 + 12 * math.sin(angle), radius, radius, color)


def _disc(pen: ImageDraw.ImageDraw, x: float, y: float, width: float, height: float, color: tuple[int, ...]) -> None:
    """An ellipse by its centre and half axes."""
    pen.ellipse(_scaled(x - width, y - height, x + width, y + height), fill=color)


def _scaled(*numbers: float) -> tuple[int, ...]:
    return tuple(round(number * _SCALE) for number in numbers)


if __name__ == "__main__":
    for path in PATHS:
        path.parent.mkdir(parents=True, exist_ok=True)
        draw().save(path, optimize=True)
