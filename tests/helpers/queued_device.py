"""A device that is none: it computes on the CPU, and takes note of everything that would wait for a real one.

Tensors on it say that their device is ``meta``, so that code takes the way of an accelerator. Within `watch`,
operations on them are carried out; what needs their values on the host is counted as a wait, and what mixes
them with tensors of the CPU is refused, as CUDA would. The bytes of all tensors on it are counted, with the
copies that CUDA's sums make of their argument.
"""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map

from sam_engine.compute import device as transfers
from sam_engine.modeling.segmenter import ImageEmbedding, Segmenter

DEVICE = torch.device("meta")

_WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "_unique2", "unique_dim")


class _Memory:
    """The bytes of the device's tensors, each storage once."""

    def __init__(self) -> None:
        self.live = 0
        self.peak = 0
        self._users: dict[int, int] = {}

    def hold(self, tensor: "QueuedTensor") -> None:
        """Count a tensor's storage for as long as the tensor lives."""
        storage = tensor.inner.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._users:
            self._users[key] = 0
            self.live += size
            self.peak = max(self.peak, self.live)
        self._users[key] += 1
        weakref.finalize(tensor, self._let_go, key, size)

    def pass_through(self, size: int) -> None:
        """Count memory that an operation needs and gives back."""
        self.peak = max(self.peak, self.live + size)

    def _let_go(self, key: int, size: int) -> None:
        self._users[key] -= 1
        if self._users[key] == 0:
            del self._users[key]
            self.live -= size


_memory = _Memory()


class QueuedTensor(Tensor):
    """A tensor of the device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "QueuedTensor":
        tensor = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        tensor.inner = inner
        _memory.hold(tensor)
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} on the device outside of watch()")


class _Watch(TorchDispatchMode):
    """What happens on the device."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[tuple[int, ...]] = []
        """Shapes that were copied to the host."""
        self.waits: list[str] = []
        """Everything else for which the host would wait."""
        self.scans: list[tuple[int, ...]] = []
        """Shapes of running sums. One block of CUDA's works on each row; only of one row, all do."""
        self._bytes_before = _memory.live
        _memory.peak = _memory.live

    @property
    def peak_bytes(self) -> int:
        """Return the most memory that the device needed at once, besides what was there before."""
        return _memory.peak - self._bytes_before

    @property
    def live_bytes(self) -> int:
        """Return the memory that its tensors take now, besides what was there before."""
        return _memory.live - self._bytes_before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        ours = [x for x in given if isinstance(x, QueuedTensor)]
        target = kwargs.get("device")
        if not ours and target != DEVICE:
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        copies = name in ("_to_copy", "copy_", "lift_fresh", "_pin_memory")
        leaves = name == "_to_copy" and bool(ours) and target is not None and target != DEVICE
        if copies:
            self._note_copy(name, args, ours, leaves)
        else:
            assert all(x.dim() == 0 for x in given if not isinstance(x, QueuedTensor)), f"{func}: two devices"
            by_flags = name in ("index", "index_put_", "index_put", "_index_put_impl_") and any(
                x is not None and x.dtype == torch.bool for x in args[1]
            )
            if name in _WAITS or by_flags:
                self.waits.append(name)
            if name.startswith("index_put") and args[2].dim() == 0:
                self.waits.append(f"{name} of a scalar")  # `x[index] = True`: made on the host, on CUDA
            if name == "cumsum":
                self.scans.append(tuple(args[0].shape))
            if name == "sum":
                _memory.pass_through(_converted_bytes(args[0].inner, kwargs.get("dtype")))
        if target is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        inner_args, inner_kwargs = tree_map(_unwrapped, (args, kwargs))
        result = func(*inner_args, **inner_kwargs)
        if leaves:
            return result.clone()
        known = {id(x.inner): x for x in ours}  # of operations in place

        def wrapped(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            return known[id(x)] if id(x) in known else QueuedTensor(x)

        return tree_map(wrapped, result)

    def _note_copy(self, name: str, args: Any, ours: Sequence[QueuedTensor], leaves: bool) -> None:
        """Take note of a copy between host and device; `transfers.upload` alone need not wait for its own."""
        if leaves or (name == "copy_" and not isinstance(args[0], QueuedTensor)):
            self.reads.append(tuple(ours[0].shape))
        elif name != "lift_fresh" and not isinstance(args[-1 if name == "copy_" else 0], QueuedTensor):
            self.waits += [] if _is_within(transfers.upload) else [f"{name} from the host"]


def _converted_bytes(tensor: Tensor, dtype: torch.dtype | None) -> int:
    """Return the size of the copy that CUDA makes of what it adds up, if its sum is of another type."""
    if dtype is None:
        dtype = tensor.dtype if tensor.is_floating_point() else torch.int64
    return 0 if dtype == tensor.dtype else tensor.numel() * dtype.itemsize


def _is_within(function: Any) -> bool:
    """Return whether a function is being called."""
    import sys

    frame = sys._getframe()
    while frame is not None:
        if frame.f_code is function.__code__:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _unwrapped(x: Any) -> Any:
    return x.inner if isinstance(x, QueuedTensor) else x


@contextmanager
def watch() -> Iterator[_Watch]:
    """Let the device work, and take note."""
    with _Watch() as mode:
        yield mode


def on_device(module: nn.Module) -> nn.Module:
    """Replace a module's parameters and buffers by those on the device."""
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                with watch():
                    part._parameters[name] = nn.Parameter(QueuedTensor(parameter.data), requires_grad=False)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = QueuedTensor(buffer)
    return module


class QueuedSegmenter:
    """A `Segmenter` of the CPU whose logits and scores are on the device."""

    def __init__(self, model: Segmenter) -> None:
        self.model = model
        self.mask_threshold = model.mask_threshold
        self.image_size = model.image_size
        self.device = DEVICE

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[ImageEmbedding]:
        with _disable_current_modes():
            return self.model.encode(images)

    def decode(self, embedding: ImageEmbedding, **prompts: Any) -> tuple[Tensor, Tensor]:
        with _disable_current_modes():
            logits, scores = self.model.decode(embedding, **tree_map(_unwrapped, prompts))
            return QueuedTensor(logits), QueuedTensor(scores.contiguous())
