"""Fully convolutional networks whose feature maps are recalibrated by squeeze & excitation blocks."""

from .architectures import NetworkCost, build_network, describe

__all__ = ["NetworkCost", "build_network", "describe"]
