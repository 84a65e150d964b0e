"""Fully convolutional networks whose feature maps are recalibrated by squeeze & excitation blocks."""

from .architectures import build_network
from .describe import NetworkCost, describe

__all__ = ["NetworkCost", "build_network", "describe"]
