"""Checks of inputs and outputs, and confidence in results."""
