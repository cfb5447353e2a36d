"""Shared by all tests: fakes that Ray's workers can import, a CPU left to others, no clock on examples."""

import sys
from pathlib import Path

import torch
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).resolve().parent
for folder in (str(TESTS.parent), str(TESTS)):  # pipelines and tools are used from a checkout
    if folder not in sys.path:
        sys.path.append(folder)

torch.set_num_threads(1)
# A busy machine is slow, not wrong.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
