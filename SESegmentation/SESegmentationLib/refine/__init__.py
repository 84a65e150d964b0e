"""Recalibration: a few corrected slices teach a network this patient, by its squeeze & excitation blocks."""
