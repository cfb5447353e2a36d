"""Fakes that we own, for tests that need a model but not its weights."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sam_engine.config import (
    AmgConfig,
    AutoAnnotateConfig,
    DecodeConfig,
    ExecutorConfig,
    LogConfig,
    ModelConfig,
    PrivacyConfig,
    VideoConfig,
)
from sam_engine.modeling.segmenter import ImageEmbedding
from sam_engine.ops.resize import ResizeLongestSide
from tests.helpers.reference_models import make_reduced_tiny as make_reduced_tiny


class DiscSegmenter:
    """A `Segmenter` that answers every point with three discs round it: logits are 4 * (radius - distance).

    Predicted IoU is 0.9, 0.95 and 1.0 from the smallest disc to the largest, and the two cuts of the
    stability score are half a pixel apart, so that each disc survives the default thresholds.
    """

    mask_threshold = 0.0

    def __init__(self, radii: Sequence[float] = (30.0, 40.0, 50.0), image_size: int = 256) -> None:
        """Take radii in pixels of the square input, whose side is ``image_size``."""
        self.radii = torch.tensor(radii)
        self.image_size = image_size
        self.device = torch.device("cpu")

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[ImageEmbedding]:
        """Note the sizes; pixels do not matter."""
        embeddings = []
        for image in images:
            height, width = image.shape[:2]
            embeddings.append(
                ImageEmbedding(
                    features=torch.zeros(1, 1, self.image_size // 16, self.image_size // 16),
                    input_size=ResizeLongestSide.get_preprocess_shape(height, width, self.image_size),
                    original_size=(height, width),
                )
            )
        return embeddings

    def decode(
        self,
        embedding: ImageEmbedding,
        *,
        point_coords: Tensor | None = None,
        point_labels: Tensor | None = None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
        iou_thresh: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw discs round the first point of every prompt."""
        assert point_coords is not None
        side = self.image_size // 4
        centres = (torch.arange(side) + 0.5) * 4
        x = centres[None, None, :] - point_coords[:, 0, 0, None, None].float()
        y = centres[None, :, None] - point_coords[:, 0, 1, None, None].float()
        distance = torch.sqrt(x * x + y * y)[:, None]  # (P, 1, 4h, 4w)
        logits = 4 * (self.radii[None, :, None, None] - distance)
        scores = torch.tensor([[0.9, 0.95, 1.0]]).expand(len(point_coords), 3)
        if multimask_output:
            return logits, scores
        return logits[:, :1], scores[:, :1]


def make_disc_segmenter() -> DiscSegmenter:
    """Return one; picklable as a factory."""
    return DiscSegmenter()


DEADLY = (255, 0, 0)
RAISING = (0, 255, 0)
HANGING = (0, 0, 255)
HUNGRY = (255, 255, 0)
GREEDY = (255, 0, 255)
NON_FINITE = (0, 255, 255)


class TroubledSegmenter(DiscSegmenter):
    """A `DiscSegmenter` to which the first pixel of an image may be fatal.

    ``DEADLY`` ends the process, ``RAISING`` raises, ``HANGING`` sleeps; ``HUNGRY`` runs out of memory unless
    few prompts are decoded at once, ``GREEDY`` always; ``NON_FINITE`` gives NaN.
    """

    def __init__(
        self,
        delay_s: float = 0.0,
        radii: Sequence[float] = (30.0, 40.0, 50.0),
        image_size: int = 256,
    ) -> None:
        """Take the time that every image costs."""
        super().__init__(radii, image_size)
        self.delay_s = delay_s
        self.trouble: tuple[int, ...] = ()

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[ImageEmbedding]:
        """Look at the first pixel of the first image."""
        time.sleep(self.delay_s)
        self.trouble = tuple(images[0][0, 0].tolist())
        if self.trouble == DEADLY:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.trouble == RAISING:
            raise IndexError("no such thing")
        if self.trouble == HANGING:
            time.sleep(3600)
        return super().encode(images)

    def decode(self, embedding: ImageEmbedding, **prompts: Any) -> tuple[Tensor, Tensor]:
        """Run out of memory or numbers, if the image asks for it."""
        if self.trouble == GREEDY or (self.trouble == HUNGRY and len(prompts["point_coords"]) > 8):
            raise torch.OutOfMemoryError("CUDA out of memory")
        logits, scores = super().decode(embedding, **prompts)
        if self.trouble == NON_FINITE:
            return logits * torch.nan, scores * torch.nan
        return logits, scores


def make_troubled_segmenter(delay_s: float = 0.0) -> TroubledSegmenter:
    """Return one; picklable as a factory. Raise on a machine whose environment has ``SICK``."""
    if "SICK" in os.environ:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    return TroubledSegmenter(delay_s)


def write_image(
    path: Path, colour: tuple[int, int, int] = (90, 120, 60), size: tuple[int, int] = (40, 60)
) -> Path:
    """Write a PNG of one colour and (H, W); return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size[1], size[0]), colour).save(path)
    return path


def write_images(folder: Path, count: int) -> Path:
    """Write images of several sizes named 000.png, 001.png, ...; return the folder."""
    for number in range(count):
        write_image(folder / f"{number:03d}.png", size=(40 + number % 7, 60 + number % 5))
    return folder


def run_settings(**overrides: Any) -> AutoAnnotateConfig:
    """Return the settings of a small inline run; keys of sections as ``amg__points_per_side``."""
    settings = {
        "model__checkpoint": "random",
        "executor__name": "inline",
        "amg__points_per_side": 2,
        "amg__points_per_batch": 16,
        "previews": 0,
        **overrides,
    }
    sections: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        section, _, name = key.rpartition("__")
        sections.setdefault(section, {})[name] = value
    top = sections.pop("", {})
    classes = {
        "model": ModelConfig,
        "amg": AmgConfig,
        "decode": DecodeConfig,
        "executor": ExecutorConfig,
        "video": VideoConfig,
        "privacy": PrivacyConfig,
        "log": LogConfig,
    }
    return AutoAnnotateConfig(**top, **{name: classes[name](**values) for name, values in sections.items()})


def shard_bytes(output: Path) -> dict[str, bytes]:
    """Return the published shards by file name."""
    return {path.name: path.read_bytes() for path in sorted((output / "annotations").glob("*.parquet"))}
