"""E: how much memory an image takes, and what happens where there is less."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sam_engine.amg.found_mask import FoundMask
from sam_engine.amg.mask_finder import MaskFinder
from sam_engine.errors import ImageError
from sam_engine.modeling.sam import Sam
from sam_engine.structures import ImageStatus

from .ledger import Finding, Step
from .subjects import Image, Subjects, find, find_in_pairs, same_masks, share_found

MODEL = "vit_h"
MOST_BYTES = 8 * 10**9
"""Of one resident model at 1500 x 2250."""
LIMITS = (0.7, 0.5, 0.35, 0.2, 0.1)
"""Shares of what an image takes beside the model."""


class Limited:
    """A model whose memory ends: CUDA's allocator sees to that, or in a dry run the number of prompts."""

    def __init__(self, sam: Sam, subjects: Subjects) -> None:
        self._sam, self._subjects = sam, subjects
        self._most_prompts: int | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sam, name)

    def decode(self, embedding: Any, **prompts: Any) -> tuple[Tensor, Tensor]:
        """Decode, or run out of memory."""
        if self._most_prompts is not None and len(prompts["point_coords"]) > self._most_prompts:
            raise torch.OutOfMemoryError("CUDA out of memory, as the dry run has it")
        return self._sam.decode(embedding, **prompts)

    @contextmanager
    def limit(self, num_bytes: int, num_prompts: int) -> Iterator[None]:
        """Let no more bytes be used than these; in a dry run, no more prompts be decoded together."""
        if not self._subjects.is_cuda:
            self._most_prompts = num_prompts
            yield
            self._most_prompts = None
            return
        torch.cuda.empty_cache()
        number = self._subjects.device.index or 0  # torch wants one here
        total = torch.cuda.get_device_properties(number).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, num_bytes / total), number)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, number)


def steps(subjects: Subjects) -> list[Step]:
    """Return the steps of the letter."""
    works = {"peak": peak, "half as many prompts": halve, "no memory at all, and then again": recover}
    return [Step(letter="E", name=name, work=partial(work, subjects)) for name, work in works.items()]


def peak(subjects: Subjects, found: Finding) -> None:
    """The most bytes in use with one image in hand, and with two."""
    subjects.release("tiny", "vit_b")
    finder, images = _finder(subjects), [subjects.image(1500, 2250, seed=i) for i in range(3)]
    for name, work in (
        ("one image", partial(find, finder, images[0])),
        ("two in hand", partial(find_in_pairs, finder, images)),
    ):
        _reset_peak(subjects)
        work()
        used = _peak(subjects)
        found.facts[f"{name}, GB"] = used / 1e9
        found.hold(f"{name}: at most {MOST_BYTES / 1e9:.0f} GB", used <= MOST_BYTES)
    found.facts["model, GB"] = _resident(subjects) / 1e9


def halve(subjects: Subjects, found: Finding) -> None:
    """With less and less memory, fewer prompts are decoded at once, and the masks are the same."""
    image = subjects.image(1500, 2250)
    expected, used = _measured(subjects, image)
    for share in LIMITS:
        finder = _finder(subjects)
        at_first = finder.points_per_batch
        assert isinstance(finder.model, Limited)
        limit = _resident(subjects) + int(share * used)
        try:
            with finder.model.limit(limit, max(1, int(at_first * share))):
                masks = find(finder, image)
        except ImageError as error:
            found.facts[f"{share:.0%}"] = str(error.status)
            found.hold("memory that lacks is the image's row, as oom", error.status is ImageStatus.OOM)
            break
        alike = share_found(masks, expected, image.shape[:2])
        found.facts[f"{share:.0%}"] = f"{finder.points_per_batch} at once, {alike:.2%} alike"
        found.hold(f"with {share:.0%} the masks are the same", alike >= 0.99)
        if finder.points_per_batch < at_first:
            found.facts["halved"] = True
    found.hold("some limit made it halve", bool(found.facts.get("halved")))


def recover(subjects: Subjects, found: Finding) -> None:
    """An image for which there is no memory is told apart; the next one is found as if nothing had been."""
    image = subjects.image(1500, 2250)
    expected, _ = _measured(subjects, image)
    finder = _finder(subjects)
    assert isinstance(finder.model, Limited)
    status = None
    with finder.model.limit(_resident(subjects) + 2**24, 0):
        try:
            find(finder, image)
        except ImageError as error:
            status = error.status
    found.facts["status"] = str(status)
    found.hold("it is oom", status is ImageStatus.OOM)
    left = _resident(subjects)
    again = find(_finder(subjects), image)
    found.hold("afterwards the masks are the same", same_masks(again, expected))
    found.facts["held after the error, GB"] = left / 1e9


def _finder(subjects: Subjects) -> MaskFinder:
    """Return a finder of a model that can be limited."""
    model = Limited(subjects.model(MODEL, "fp16" if subjects.is_cuda else "fp32"), subjects)
    config = subjects.config(MODEL)
    if subjects.is_dry:
        config = subjects.config(MODEL, points_per_batch=4)
    return MaskFinder(model, config)  # type: ignore[arg-type]


def _measured(subjects: Subjects, image: Image) -> tuple[list[FoundMask], int]:
    """Return an image's masks, and the bytes that it took beside the model."""
    _reset_peak(subjects)
    masks = find(_finder(subjects), image)
    return masks, _peak(subjects) - _resident(subjects)


def _resident(subjects: Subjects) -> int:
    """Return the bytes in use now."""
    return torch.cuda.memory_allocated(subjects.device) if subjects.is_cuda else 0


def _reset_peak(subjects: Subjects) -> None:
    """Begin to look for the most bytes in use."""
    gc.collect()
    if subjects.is_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(subjects.device)


def _peak(subjects: Subjects) -> int:
    """Return the most bytes in use since."""
    return torch.cuda.max_memory_allocated(subjects.device) if subjects.is_cuda else 0
