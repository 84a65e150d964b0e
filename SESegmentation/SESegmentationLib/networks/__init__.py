"""Fully convolutional networks whose feature maps are recalibrated by squeeze & excitation blocks."""

from .factory import build_network

__all__ = ["build_network"]
