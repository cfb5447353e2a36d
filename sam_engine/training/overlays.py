"""Pictures of training crops: what was asked, what would be right, and what the model answers."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch.nn import functional as F

from sam_engine.training.data.batches import Batch

TRUTH, ANSWER, PROMPT = (60, 220, 90), (255, 140, 0), (255, 40, 40)
"""Colours: RGB."""
OPACITY = 0.5
NUM_PROMPTS = 3
"""Prompts shown of each image."""


def overlay(batch: Batch, logits: torch.Tensor) -> Image.Image:
    """Return a picture of a row for each image: of each of a few prompts the truth, then the answer.

    Args:
        batch: B images of S pixels with K prompts each.
        logits: (B * K, h, w), cut at 0.

    Returns:
        RGB, of B * S rows and 2 * min(K, `NUM_PROMPTS`) * S columns.
    """
    size, num_images = batch.images.shape[-1], len(batch.images)
    num_prompts = len(batch.points) // num_images
    shown = min(num_prompts, NUM_PROMPTS)
    picture = Image.new("RGB", (2 * shown * size, num_images * size))
    for row in range(num_images):
        pixels = batch.images[row].permute(1, 2, 0).cpu().numpy()
        for column in range(shown):
            prompt = row * num_prompts + column
            truth = _upscale(batch.targets[prompt] - 0.5, size)
            answer = _upscale(logits[prompt], size)
            for half, (mask, colour) in enumerate(((truth, TRUTH), (answer, ANSWER))):
                tile = _tinted(pixels, mask, colour)
                _draw_prompt(tile, batch, prompt)
                picture.paste(tile, ((2 * column + half) * size, row * size))
    return picture


def _upscale(values: torch.Tensor, size: int) -> NDArray[np.bool_]:
    """Return where (h, w) values are positive, at (size, size)."""
    large = F.interpolate(values[None, None].float(), (size, size), mode="bilinear", align_corners=False)
    return np.asarray((large[0, 0] > 0).cpu().numpy())


def _tinted(
    pixels: NDArray[np.float32], mask: NDArray[np.bool_], colour: tuple[int, int, int]
) -> Image.Image:
    """Return an image (S, S, 3) in [0, 255] with a mask over it."""
    tinted = pixels.copy()
    tinted[mask] += OPACITY * (np.asarray(colour, np.float32) - tinted[mask])
    return Image.fromarray(tinted.round().clip(0, 255).astype(np.uint8))


def _draw_prompt(tile: Image.Image, batch: Batch, prompt: int) -> None:
    """Draw the click as a cross, or the box."""
    canvas = ImageDraw.Draw(tile)
    if batch.is_box[prompt]:
        canvas.rectangle(batch.boxes[prompt].tolist(), outline=PROMPT, width=2)
        return
    x, y = batch.points[prompt].tolist()
    arm = max(3, tile.width // 40)
    canvas.line([(x - arm, y), (x + arm, y)], fill=PROMPT, width=2)
    canvas.line([(x, y - arm), (x, y + arm)], fill=PROMPT, width=2)
