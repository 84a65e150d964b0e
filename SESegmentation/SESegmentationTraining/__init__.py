"""Training of segmentation networks: data or synthesis, augmentation, losses, fit, evaluation, model packages."""
