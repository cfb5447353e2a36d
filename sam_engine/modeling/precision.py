"""What ``model.precision`` stands for."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sam_engine.compute.device import is_queued

HALF_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
"""Of the image encoder; other precisions have none."""


def image_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return what the decoder keeps images in; None: the model's own.

    With either half precision that is fp16: what a decoder keeps is normalised and needs no wider range, and
    bf16 moves outlines. Not on a CPU, where products in fp16 take many times as long as in float32.
    """
    return torch.float16 if precision in HALF_DTYPES and is_queued(device) else None


@contextmanager
def cuda_tf32(device: torch.device, allowed: bool) -> Iterator[None]:
    """Let float32 products on CUDA be rounded to TF32, or not; elsewhere this does nothing.

    The flags are the process's, and torch's defaults differ: convolutions are rounded, matrix products not.
    """
    if device.type != "cuda":
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
