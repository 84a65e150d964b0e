"""Experiments: networks compared on data, by plans that list their variants."""
