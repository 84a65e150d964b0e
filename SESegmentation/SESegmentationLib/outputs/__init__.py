"""What is written for the user: segmentations, reports, pictures."""
