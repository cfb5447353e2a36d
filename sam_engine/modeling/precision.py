"""What ``model.precision`` stands for."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from sam_engine.compute.device import is_queued
from sam_engine.errors import ConfigError

HALF_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
"""Of the image encoder; other precisions have none."""


_AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")


def image_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return what the decoder keeps images in; None: the model's own.

    With either half precision that is fp16: what a decoder keeps is normalised and needs no wider range, and
    bf16 moves outlines. Not on a CPU, where products in fp16 take many times as long as in float32.
    """
    return torch.float16 if precision in HALF_DTYPES and is_queued(device) else None


def refuse_half(dtype: torch.dtype | None) -> None:
    """Raise `ConfigError` if a whole model is to be made of half precision: its scores would be, too."""
    names = {half: name for name, half in HALF_DTYPES.items()}
    if dtype in names:
        raise ConfigError(
            f"a Sam of {dtype} would round predicted IoU to a few values: set sam.precision = "
            f"{names[dtype]!r}, which computes the image in it, and masks and scores in float32"
        )


_one_at_a_time = threading.RLock()


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute in the model's own dtype: neither rounded to TF32 nor under the caller's autocast."""
    is_autocast = device.type in _AUTOCAST_DEVICES and torch.is_autocast_enabled(device.type)
    autocast_off = torch.autocast(device.type, enabled=False) if is_autocast else nullcontext()
    with cuda_tf32(device, False), autocast_off:
        yield


@contextmanager
def cuda_tf32(device: torch.device, allowed: bool) -> Iterator[None]:
    """Let float32 products on CUDA be rounded to TF32, or not; elsewhere this does nothing.

    The settings are the process's, and torch's defaults differ: convolutions are rounded, products not.
    Afterwards they are the caller's again, whichever of torch's two interfaces set them. Threads wait for
    each other, so that none computes, or restores, what another has set.
    """
    if device.type != "cuda":
        yield
        return
    set_all = _set_precisions if hasattr(torch.backends, "fp32_precision") else _set_legacy_flags
    with _one_at_a_time:
        restore = set_all(allowed)
        try:
            yield
        finally:
            restore()


def _set_precisions(tf32: bool) -> Callable[[], None]:
    """Set what CUDA rounds by torch's newer interface; return what undoes it.

    The legacy flags are neither read nor written: torch refuses to read them where the caller has used the
    newer interface, and to write them loses the caller's ``set_float32_matmul_precision("medium")``.
    """
    backends: Any = torch.backends
    wanted, all_of_cuda = "tf32" if tf32 else "ieee", backends.cudnn.fp32_precision
    # An unset value is read as the parent's: left unset, so that the parent still decides for the caller.
    before = "none" if all_of_cuda == backends.fp32_precision else all_of_cuda
    backends.cudnn.fp32_precision = wanted
    parts = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    own = [(part, part.fp32_precision) for part in parts if part.fp32_precision != wanted]
    for part, _ in own:
        part.fp32_precision = wanted

    def restore() -> None:
        for part, value in own:
            part.fp32_precision = value
        backends.cudnn.fp32_precision = before

    return restore


def _set_legacy_flags(tf32: bool) -> Callable[[], None]:
    """Do the same where torch has no newer interface."""
    matmul, cudnn, precision = (
        torch.backends.cuda.matmul,
        torch.backends.cudnn,
        torch.get_float32_matmul_precision(),
    )
    convolutions = cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = tf32

    def restore() -> None:
        torch.set_float32_matmul_precision(precision)
        cudnn.allow_tf32 = convolutions

    return restore
