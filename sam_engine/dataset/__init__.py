"""Datasets on disk: manifest, shards, readers and exporters."""
