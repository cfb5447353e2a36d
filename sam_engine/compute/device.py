"""Between host and device, without waiting where that can be helped.

On an accelerator operations are queued, and the program runs ahead of them until it reads a result. Reading
is what costs: the device has nothing to do from then until the next operation arrives. `Download` is the one
place where the mask generator reads.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

OUT_OF_MEMORY_TEXTS = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "_STATUS_ALLOC_FAILED",
    "_ALLOCATION_FAILED",  # cuDNN 9: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED, or HOST
    "CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate",
    "CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasLtCreate",
    "CUDNN_STATUS_NOT_INITIALIZED",
)
"""Where torch has no type for it: its CPU and MPS allocators, the CUDA driver, cuBLAS and cuDNN. The latter
two say that they are not initialised where there is no memory for their own handles."""


def is_queued(device: torch.device) -> bool:
    """Return whether operations are queued, so that to look at a result is to wait for all of them."""
    return device.type != "cpu"


def upload(array: NDArray[np.generic] | Tensor, device: torch.device) -> Tensor:
    """Return what is on the host, and stays as it is, on a device; on a CPU they share their memory."""
    tensor = torch.from_numpy(array) if isinstance(array, np.ndarray) else array
    if _is_cuda(device):
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Return whether an allocation failed, on the device or on the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(text in str(error) for text in OUT_OF_MEMORY_TEXTS)


class Download:
    """A tensor on its way to the host."""

    def __init__(self, tensor: Tensor) -> None:
        """Queue the copy; what is queued later does not delay it."""
        self._tensor = tensor
        self._copied: torch.cuda.Event | None = None
        if _is_cuda(tensor.device):
            self._tensor = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True, device="cpu")
            self._tensor.copy_(tensor, non_blocking=True)
            self._copied = torch.cuda.Event(blocking=True)  # sleeps: decoding threads want the core
            self._copied.record(torch.cuda.current_stream(tensor.device))

    def wait(self) -> Tensor:
        """Return it on the CPU, once it is there."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._tensor.cpu()


def _is_cuda(device: torch.device) -> bool:
    """Return whether there are pinned memory and events: a CUDA device, and not torch's imitation of one."""
    return device.type == "cuda" and torch.cuda.is_available()
