"""What is known of a device: whether it ran out of memory, or is broken."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from sam_engine.compute import device as transfers
from sam_engine.compute.device import Download, is_out_of_memory


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"), True),
        (MemoryError(), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSgemm(handle)`"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_memory_that_ran_out_is_told_from_a_broken_device(
    error: RuntimeError | MemoryError, expected: bool
) -> None:
    """The one is the image's row; after the other nothing works, and the worker has to go."""
    assert is_out_of_memory(error) is expected


class _NoPinning(TorchFunctionMode):
    """Where there is no CUDA: memory that was to be pinned is not, and where it is to be is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.pinned: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.pop("pin_memory", False):
            self.pinned.append(torch.device(kwargs.get("device") or "cpu"))
        return func(*args, **kwargs)


def test_downloads_go_to_the_host_whatever_the_default_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``torch.set_default_device``, pinned memory would be asked of the device, which has none."""
    event = SimpleNamespace(record=lambda stream: None, synchronize=lambda: None)
    monkeypatch.setattr(transfers, "_is_cuda", lambda device: True)
    monkeypatch.setattr(torch.cuda, "Event", lambda blocking: event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    values = torch.arange(5)
    with _NoPinning() as mode, torch.device("meta"):
        found = Download(values).wait()

    assert mode.pinned == [torch.device("cpu")]
    assert found.tolist() == [0, 1, 2, 3, 4]
