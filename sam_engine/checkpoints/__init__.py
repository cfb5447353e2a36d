"""Weights: from a name, path or URL to a verified file to tensors under our names."""
