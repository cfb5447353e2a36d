"""Images one after another: on a device, the next one's work is queued before the last one's is read.

While the device searches an image, the host makes masks of what it drew of the one before.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sam_engine.amg.found_mask import FoundMask
from sam_engine.amg.mask_batch import Image, Prompts
from sam_engine.amg.mask_finder import MaskFinder
from sam_engine.amg.queued_image import QueuedImage
from sam_engine.compute.device import is_out_of_memory, is_queued
from sam_engine.errors import ImageError
from sam_engine.structures import ImageStatus

Found = list[FoundMask] | ImageError
"""What became of an image."""


@dataclass(slots=True)
class _Work:
    """An image that is being worked on."""

    image: Image
    prompts: Prompts | None = None
    queued: QueuedImage | None = None
    """Its work on the device; None if there is none, or none any more."""


class InTurn:
    """Finds the masks of images that are given one by one, up to two of which are in hand.

    Whatever befalls one of them is not held against the other: an image that could not be begun beside
    another is done alone, and so is one for which memory ran out beside another.
    """

    def __init__(self, finder: MaskFinder, *, overlaps: bool = True) -> None:
        """Take the finder; without ``overlaps``, each image is done before the next is begun."""
        self._finder = finder
        self._overlaps = overlaps and is_queued(finder.model.device)
        self._last: _Work | None = None

    @property
    def is_busy(self) -> bool:
        """Whether work of the image added last is on the device; else it waits for `finish`."""
        return self._last is not None and self._last.queued is not None

    def add(
        self, image: Image | None, queued: QueuedImage | None = None, *, prompts: Prompts | None = None
    ) -> Found | None:
        """Begin an image, and return what became of the one before it, unless `finish` told.

        Args:
            image: (H, W, 3) uint8 RGB, or None: only the one before is finished.
            queued: Its work, if it is begun.
            prompts: As of `MaskFinder.find`.

        Raises:
            RuntimeError: The device is broken, or the model raised for the one before.
        """
        older, self._last = self._last, None
        newer = None if image is None else _Work(image, prompts, queued if self._overlaps else None)
        del queued  # where memory runs out, `newer` has to be all that holds it
        if newer is not None and self._overlaps:
            with suppress(Exception):  # what is wrong with it shows when it is done alone
                self._begin(newer, search=older is None)
        found = None if older is None else self._finish(older, newer)
        self._last = newer
        return found

    def finish(self) -> Found:
        """Return what became of the image added last."""
        last, self._last = self._last, None
        assert last is not None, "add() comes before"
        return self._alone(last) if last.queued is None else self._finish(last, None)

    def _finish(self, older: _Work, newer: _Work | None) -> Found:
        """Return what became of an image, and queue the work of the one after it."""
        if older.queued is None:
            return self._alone(older)
        try:
            older.queued.draw()
            if newer is not None and newer.queued is not None:
                with suppress(Exception):
                    self._begin(newer, search=True)
            return self._finder.finish(older.queued)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        except ImageError as error:
            return error.with_traceback(None)  # its frames hold what is on the device
        older.queued = None
        if newer is not None:
            newer.queued = None
        return self._alone(older)

    def _begin(self, work: _Work, *, search: bool) -> None:
        """Queue an image's encoding, if that was not done, and its search; if that fails, it is not begun."""
        queued, work.queued = work.queued, None
        queued = queued or self._finder.begin(work.image, work.prompts)
        if search:
            queued.search()
        work.queued = queued

    def _alone(self, work: _Work) -> Found:
        """Return what becomes of an image while no other is in hand."""
        try:
            return self._finder.find(work.image, work.prompts)
        except ImageError as error:
            return error.with_traceback(None)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        height, width = work.image.shape[:2]
        return ImageError(ImageStatus.OOM, f"no memory to draw its masks at {width} x {height} pixels")


def find_in_turn(finder: MaskFinder, images: Sequence[Image]) -> Iterator[list[FoundMask]]:
    """Yield the masks of each image, encoding images and crops together.

    Raises:
        ValueError: An image is of another type or shape.
        ImageError: As `MaskFinder.find`, for the first image that it befalls.
    """
    groups = itertools.groupby(finder.encode(images), key=lambda pair: pair[0])
    if not is_queued(finder.model.device):
        for _, group in groups:
            yield finder.find_encoded(crop for _, crop in group)
        return
    in_turn = InTurn(finder)
    for number, group in groups:
        found = in_turn.add(images[number], finder.queue(crop for _, crop in group))
        if found is not None:
            yield _or_raise(found)
    if images:
        yield _or_raise(in_turn.finish())


def _or_raise(found: Found) -> list[FoundMask]:
    """Return masks, or raise what kept them away."""
    if isinstance(found, ImageError):
        raise found
    return found
