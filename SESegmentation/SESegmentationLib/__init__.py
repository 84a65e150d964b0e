"""Segmentation of medical volumes by networks with squeeze & excitation blocks (Roy et al., IEEE TMI 2019)."""

__version__ = "0.1.0"
