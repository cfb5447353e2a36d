"""Two images in hand on a device: what one of them holds does not stand in the other's way."""

import numpy as np
import pytest
import torch

from sam_engine.amg.found_mask import FoundMask
from sam_engine.amg.in_turn import InTurn
from sam_engine.amg.mask_batch import Image, Prompts
from sam_engine.amg.mask_finder import MaskFinder
from sam_engine.amg.queued_image import QueuedImage
from sam_engine.config import AmgConfig
from sam_engine.errors import ImageError
from tests.helpers import queued_device
from tests.helpers.fakes import NON_FINITE, DiscSegmenter, TroubledSegmenter
from tests.helpers.queued_device import QueuedSegmenter


class ShortOfMemory(MaskFinder):
    """Lacks memory for an image beside another, and notes what is on the device when it does it alone."""

    def __init__(self, events: queued_device._Watch) -> None:
        super().__init__(QueuedSegmenter(DiscSegmenter()), AmgConfig(points_per_side=4))
        self.events = events
        self.live_bytes: list[int] = []

    def finish(self, queued: QueuedImage) -> list[FoundMask]:
        if not self.live_bytes:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().finish(queued)

    def find(self, image: Image, prompts: Prompts | None = None) -> list[FoundMask]:
        self.live_bytes.append(self.events.live_bytes)
        return super().find(image, prompts)


@pytest.mark.parametrize("is_begun", [False, True])
def test_an_image_that_is_done_again_has_the_device_to_itself(is_begun: bool) -> None:
    """Neither its own first try nor the image after it still holds memory there."""
    images = [np.zeros((60, 80, 3), np.uint8), np.zeros((50, 70, 3), np.uint8)]
    with queued_device.watch() as events:
        finder = ShortOfMemory(events)
        in_turn = InTurn(finder)
        in_turn.add(images[0], finder.begin(images[0]) if is_begun else None)
        in_turn.add(images[1], finder.begin(images[1]) if is_begun else None)

    assert finder.live_bytes == [0]


def test_what_is_said_of_an_image_holds_nothing_on_the_device() -> None:
    """The error that becomes its row knows no frames, and these no tensors."""
    with queued_device.watch() as events:
        in_turn = InTurn(MaskFinder(QueuedSegmenter(TroubledSegmenter()), AmgConfig(points_per_side=4)))
        in_turn.add(np.full((60, 80, 3), NON_FINITE, np.uint8))
        found = in_turn.finish()
        live_bytes = events.live_bytes

    assert isinstance(found, ImageError)
    assert live_bytes == 0
