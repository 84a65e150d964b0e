"""Networks at work: weights, devices, views, class probabilities."""
