"""Refinement: the clinician's corrections are propagated to other slices, and can adapt the networks."""
