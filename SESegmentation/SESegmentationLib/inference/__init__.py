"""Inference: volumes in, label maps out. Knows nothing of Slicer, of windows or of training."""
