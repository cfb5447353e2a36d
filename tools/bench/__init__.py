"""Measurements: ``python -m tools.bench`` of the mask generator, ``tools.bench.decoder`` of a part."""
