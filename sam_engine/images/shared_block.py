"""Memory that a process and its decoding child have in common: room for a file, then for pixels.

On Linux the block is sealed against shrinking, so that the parent can map it without fear: a child that cut
it off would turn the parent's next look into a bus error. Where there are no seals the parent reads with
system calls, which take longer.
"""

import mmap
import os
import tempfile
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sam_engine.config import DecodeConfig

try:
    import fcntl

    CAN_SEAL = hasattr(os, "memfd_create") and hasattr(fcntl, "F_ADD_SEALS")
except ImportError:  # a system that only reads datasets
    CAN_SEAL = False
KEPT_BYTES = 64 * 2**20
"""Larger files and pixels are given back to the system after each image."""


class SharedBlock:
    """One block. Only the parts of it that were touched take memory."""

    def __init__(self, descriptor: int, config: DecodeConfig, *, can_map: bool) -> None:
        """Take a file of the right size. Made by `create` and `attach`.

        Args:
            descriptor: Of the file; owned from now on.
            config: Its caps are the size of the block.
            can_map: The file cannot become shorter.
        """
        self.descriptor = descriptor
        self._pixels_start, self._num_bytes = _layout(config)
        self._map = mmap.mmap(descriptor, self._num_bytes) if can_map else None

    @classmethod
    def create(cls, config: DecodeConfig) -> Self:
        """Make a new block, without a name in any file system."""
        num_bytes = _layout(config)[1]
        if CAN_SEAL:
            descriptor = os.memfd_create("sam-engine-image", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(descriptor, num_bytes)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        else:
            with tempfile.TemporaryFile(buffering=0) as file:
                descriptor = os.dup(file.fileno())
            os.ftruncate(descriptor, num_bytes)
        return cls(descriptor, config, can_map=CAN_SEAL)

    @classmethod
    def attach(cls, descriptor: int, config: DecodeConfig) -> Self:
        """Open the child's side of a block."""
        return cls(descriptor, config, can_map=True)  # a parent plays no tricks on its child

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The room for pixels, flat. Only where the block is mapped."""
        assert self._map is not None
        return np.frombuffer(self._map, np.uint8, offset=self._pixels_start)

    def put_file(self, data: bytes) -> None:
        """Write a file of at most ``max_file_bytes``."""
        done = 0
        while done < len(data):
            done += os.pwrite(self.descriptor, memoryview(data)[done:], done)

    def take_file(self, num_bytes: int) -> bytes:
        """Return the file."""
        assert self._map is not None
        return self._map[:num_bytes]

    def put_pixels(self, pixels: NDArray[np.uint8]) -> None:
        """Write contiguous pixels, unless they were put into `pixels` in the first place."""
        room = self.pixels
        if not np.may_share_memory(pixels, room):
            room[: pixels.size] = pixels.reshape(-1)

    def take_pixels(self, height: int, width: int) -> NDArray[np.uint8]:
        """Return a copy of the pixels, (height, width, 3).

        Raises:
            EOFError: The block has become too short for them.
        """
        pixels = np.empty((height, width, 3), np.uint8)
        if self._map is not None:
            pixels.reshape(-1)[:] = self.pixels[: pixels.size]
            if pixels.nbytes > KEPT_BYTES:
                self._map.madvise(mmap.MADV_REMOVE)
            return pixels
        view, done = pixels.data.cast("B"), 0
        while done < len(view):
            count = os.preadv(self.descriptor, [view[done:]], self._pixels_start + done)
            if not count:
                raise EOFError
            done += count
        return pixels

    def close(self) -> None:
        """Free it, on this side."""
        if self._map is not None:
            self._map.close()
        os.close(self.descriptor)


def _layout(config: DecodeConfig) -> tuple[int, int]:
    """Return where pixels start, on a page of their own, and the size of the whole, in bytes."""
    start = -(-config.max_file_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
    return start, start + 3 * config.max_pixels
