"""Checks of inputs and outputs, and how far to trust a result."""
