"""Shared by all tests: the fakes are importable, in Ray's workers too, and the CPU is left to others."""

import sys
from pathlib import Path

import torch

TESTS = Path(__file__).resolve().parent
for folder in (str(TESTS.parent), str(TESTS)):  # pipelines and tools are used from a checkout
    if folder not in sys.path:
        sys.path.append(folder)

torch.set_num_threads(1)
