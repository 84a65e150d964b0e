"""Before the networks: the model's grid, intensities, and which part of a volume is segmented."""
