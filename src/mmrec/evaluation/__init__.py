"""Metrics of probabilities, at thresholds, of lists and of slices, and how certain they are."""
