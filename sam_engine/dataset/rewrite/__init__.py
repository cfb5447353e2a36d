"""Datasets made of datasets: filtered, merged, split, sampled, corrected. No model, no image is read."""
