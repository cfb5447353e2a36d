"""Which of torch's kernels may compute attention with a bias on CUDA."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch.backends import cuda

SWITCHES: Mapping[str, tuple[Callable[[], bool], Callable[[bool], None]]] = {
    "flash": (cuda.flash_sdp_enabled, cuda.enable_flash_sdp),
    "efficient": (cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp),
    "math": (cuda.math_sdp_enabled, cuda.enable_math_sdp),
    "cudnn": (cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp),
}
"""Of each kernel, for the whole process: whether torch may choose it, and what changes that."""

KERNELS = {
    "any": None,
    "cudnn": ("cudnn",),
    "efficient": ("efficient", "math"),
    "math": ("math",),
}
"""By name: those that torch may choose from. None: those that the caller allows."""

FOR_BIASED = "efficient"
"""A key of `KERNELS`. On Hopper torch may take cuDNN's first, which raise for shapes that they do not support
instead of leaving them to the next; `tools.bench.gpu_proof` times all of them."""


@contextmanager
def biased_attention(device: torch.device) -> Iterator[None]:
    """Let attention with a bias be computed on a device; afterwards the caller's choice is as it was.

    What `torch.nn.attention.sdpa_kernel` does, in a third of its time: an image has up to 40 of these.
    """
    allowed = KERNELS[FOR_BIASED] if device.type == "cuda" else None
    if allowed is None:
        yield
        return
    before = [(switch, is_on()) for is_on, switch in SWITCHES.values()]
    for name, (_, switch) in SWITCHES.items():
        switch(name in allowed)
    try:
        yield
    finally:
        for switch, was_on in before:
            switch(was_on)
