"""Machines: starting or joining a cluster. Knows nothing of images."""
