"""Segmentation of medical volumes by networks with squeeze & excitation blocks (Roy et al., IEEE TMI 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import save, segment

__version__ = "0.1.0"
__all__ = ["__version__", "save", "segment"]


def __getattr__(name: str) -> Any:
    """Load the functions of :mod:`.api` when they are asked for: not all that imports this package reads images."""
    if name in ("save", "segment"):
        from . import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
