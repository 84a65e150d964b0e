"""Fully convolutional networks whose feature maps are recalibrated by squeeze & excitation blocks."""

from .describe import NetworkCost, describe
from .factory import build_network

__all__ = ["NetworkCost", "build_network", "describe"]
