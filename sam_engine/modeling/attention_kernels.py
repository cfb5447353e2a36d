"""Which of torch's kernels may compute attention with a bias on CUDA."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

KERNELS = {
    "any": None,
    "cudnn": [SDPBackend.CUDNN_ATTENTION],
    "efficient": [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
    "math": [SDPBackend.MATH],
}
"""By name: those that torch may choose from. None: those that the caller allows."""

FOR_BIASED = "efficient"
"""A key of `KERNELS`. On Hopper torch may take cuDNN's first, which raise for shapes that they do not support
instead of leaving them to the next; `tools.bench.gpu_proof` times all of them."""


def biased_attention(device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which attention with a bias is computed on a device."""
    kernels = KERNELS[FOR_BIASED] if device.type == "cuda" else None
    return nullcontext() if kernels is None else sdpa_kernel(kernels)
