"""A server that segments for many users: Ray Serve carries it, and the worker's frames are its messages.

Not part of the extension for Slicer, which has the client (:mod:`SESegmentationLib.client`). Extra ``serve``.
"""
