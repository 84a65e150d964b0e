"""Segmenting a cohort: thousands of scans, on all devices of a computer, on a Ray cluster or in job arrays.

Not part of the extension for Slicer. Only spreading over a cluster needs Ray (extra ``serve``).
"""
