"""Training batches: random crops of packed images, a few masks of each, and a first prompt for every mask.

Every image of a step has a number, its slot; what is drawn for it is a function of seed, step and slot alone.
A resumed run sees what an undisturbed one would, and a step has the same images however its slots are divided
among processes and batches.
B images, K prompts on each, P = B * K prompts in order of their images, S the training size in pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sam_engine.compute.device import upload
from sam_engine.errors import InputError
from sam_engine.training.config import TrainConfig
from sam_engine.training.data.copy_paste import paste
from sam_engine.training.data.prompts import draw_click, noisy_box

LOGIT_STRIDE = 4
"""Pixels of the input per pixel of the low-resolution logits, along each axis."""
MIN_TARGET_AREA = 1.5
"""Masks that cover less of a crop, in low-resolution pixels, are not asked for."""
MAX_TARGET_FRACTION = 0.9
"""Nor are masks that cover more than this of the visible image."""
MAX_DRAWS = 1000
"""Images drawn in vain before the data are taken to be unusable."""


class TrainingImages(Protocol):
    """What is drawn from: a packed file, or sources read as they are drawn."""

    @property
    def sources(self) -> Sequence[str]:
        """Names of what it is made of."""
        ...

    def __len__(self) -> int: ...

    def draw(self, rng: np.random.Generator) -> int:
        """Return the number of the next image, by the weights of the sources."""
        ...

    def image(self, index: int) -> Image.Image:
        """Return an image, RGB."""
        ...

    def num_masks(self, index: int) -> int:
        """Return how many masks an image has."""
        ...

    def mask(self, index: int, number: int) -> NDArray[np.bool_]:
        """Return mask ``number`` of an image, (H, W)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's images, masks and first prompts."""

    images: Tensor
    """(B, 3, S, S) float32 in [0, 255]; padding has the value ``pixel_mean``."""
    targets: Tensor
    """(P, S / 4, S / 4) float32: covered fraction of each low-resolution pixel."""
    points: Tensor
    """(P, 2) float32 as (x, y) in pixels of the crop, inside the mask."""
    boxes: Tensor
    """(P, 4) float32 XYXY in pixels of the crop, noisy."""
    is_box: Tensor
    """(P,) bool: start from the box instead of the point."""
    seeds: Tensor
    """(B,) int64, on the CPU: of what is drawn for each image later."""

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on ``device``, without waiting for it; the seeds, which the host reads, stay."""
        on_device = {name: upload(value, device) for name, value in vars(self).items() if name != "seeds"}
        return Batch(**on_device, seeds=self.seeds)


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A window of an image and its size in the training frame."""

    left: int
    top: int
    right: int
    bottom: int
    """In pixels of the packed image; right and bottom exclusive."""
    size: tuple[int, int]
    """(H, W) in the training frame, at most (S, S)."""

    @property
    def scale(self) -> tuple[float, float]:
        """Return training pixels per packed pixel, (x, y)."""
        return self.size[1] / (self.right - self.left), self.size[0] / (self.bottom - self.top)


@dataclass(frozen=True)
class StepBatches:
    """The batches of one of the processes that train, by number: ``config.accumulate`` for each step."""

    dataset: TrainingImages
    config: TrainConfig
    rank: int = 0
    """Of the process, in [0, ``config.num_workers``)."""

    def __getitem__(self, number: int) -> Batch:
        """Return batch ``number % accumulate`` of step ``number // accumulate``."""
        config = self.config
        step, part = divmod(number, config.accumulate)
        size = config.images_per_step // (config.accumulate * config.num_workers)
        start = (self.rank * config.accumulate + part) * size
        return sample_batch(self.dataset, config, step, range(start, start + size))

    def __len__(self) -> int:
        return self.config.total_steps * self.config.accumulate

    def fixed(self, num_images: int) -> Batch:
        """Return a batch that is the same at every step."""
        return sample_batch(self.dataset, self.config, 0, range(num_images))

    def from_step(self, step: int) -> Iterator[Batch]:
        """Yield all batches from a step on, prepared ahead by other processes if the settings say so."""
        numbers = range(step * self.config.accumulate, len(self))
        if not self.config.data.loaders:
            return (self[number] for number in numbers)
        return iter(
            torch.utils.data.DataLoader(
                self,  # type: ignore[arg-type]  # it wants its own base class, but needs these two methods
                batch_size=None,
                sampler=numbers,
                num_workers=self.config.data.loaders,
                multiprocessing_context="spawn",  # forks inherit locks of threads that they do not have
            )
        )


def sample_batch(
    dataset: TrainingImages,
    config: TrainConfig,
    step: int,
    slots: Sequence[int],
    pad_value: float = 127.5,
) -> Batch:
    """Draw some of the images of a step, with their masks and prompts.

    Args:
        dataset: What to draw from.
        config: Of the training.
        step: Its number.
        slots: Which images of the step.
        pad_value: Of the pixels round images that are not square.
    """
    size, stride = config.side, LOGIT_STRIDE
    images = np.full((len(slots), size, size, 3), pad_value, np.float32)
    targets, points, boxes, is_box, seeds = [], [], [], [], []
    for place, slot in enumerate(slots):
        rng = np.random.default_rng([config.seed, step, slot])
        image, masks = _draw_scene(dataset, config, rng)
        picks = [masks[i % len(masks)] for i in range(config.prompts_per_image)]
        for mask, crop in picks:
            targets.append(_low_res_target(mask, crop, size // stride))
            points.append(draw_click(mask, rng, crop.scale))
            boxes.append(noisy_box(mask, rng, crop.scale, size))
        images[place, : image.shape[0], : image.shape[1]] = image
        if rng.random() < 0.5:
            _flip(images[place], targets, points, boxes, config.prompts_per_image, picks[0][1].size[1])
        is_box.append(rng.random(config.prompts_per_image) < config.box_fraction)
        seeds.append(int(rng.integers(2**62)))
    return Batch(
        images=torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        targets=torch.from_numpy(np.stack(targets)),
        points=torch.from_numpy(np.array(points, np.float32)),
        boxes=torch.from_numpy(np.array(boxes, np.float32)),
        is_box=torch.from_numpy(np.concatenate(is_box)),
        seeds=torch.tensor(seeds),
    )


def _draw_scene(
    dataset: TrainingImages, config: TrainConfig, rng: np.random.Generator
) -> tuple[NDArray[np.float32], list[tuple[NDArray[np.bool_], Crop]]]:
    """Draw an image, or one with things of another pasted on; return what `_sample_image` does."""
    image, masks = _draw_image(dataset, config, rng)
    fraction = config.data.copy_paste_fraction
    if fraction == 0 or rng.random() >= fraction:
        return image, masks
    other, other_masks = _draw_image(dataset, config, rng)
    pasted = paste(image, _in_frame(masks), other, _in_frame(other_masks), rng)
    height, width = image.shape[:2]
    frame = Crop(left=0, top=0, right=width, bottom=height, size=(height, width))
    visible = [pasted[i] for i in rng.permutation(len(pasted))]
    visible = [mask for mask in visible if mask.sum() >= MIN_TARGET_AREA * LOGIT_STRIDE**2]
    return image, [(mask, frame) for mask in visible] or masks


def _in_frame(masks: list[tuple[NDArray[np.bool_], Crop]]) -> list[NDArray[np.bool_]]:
    """Return masks at the size of their crop in the training frame."""
    return [
        np.asarray(Image.fromarray(mask).resize(crop.size[::-1], Image.Resampling.NEAREST)).astype(bool)
        for mask, crop in masks
    ]


def _draw_image(
    dataset: TrainingImages, config: TrainConfig, rng: np.random.Generator
) -> tuple[NDArray[np.float32], list[tuple[NDArray[np.bool_], Crop]]]:
    """Draw images until a crop shows a mask; return what `_sample_image` does.

    Raises:
        InputError: None does.
    """
    for _ in range(MAX_DRAWS):
        sample = _sample_image(dataset, dataset.draw(rng), config, rng)
        if sample is not None:
            return sample
    raise InputError(
        f"of {MAX_DRAWS} images drawn from {', '.join(dataset.sources)}, none has a mask to train on"
    )


def _sample_image(
    dataset: TrainingImages, index: int, config: TrainConfig, rng: np.random.Generator
) -> tuple[NDArray[np.float32], list[tuple[NDArray[np.bool_], Crop]]] | None:
    """Return a coloured crop (h, w, 3) with its masks, cut to the crop; None if the crop shows none."""
    order = rng.permutation(dataset.num_masks(index))
    anchor = dataset.mask(index, int(order[0])) if len(order) else None
    if anchor is None or not anchor.any():
        return None
    image = dataset.image(index)
    crop = _draw_crop(anchor, config, rng)
    masks = []
    for number in order[: 3 * config.prompts_per_image]:
        mask = dataset.mask(index, int(number))[crop.top : crop.bottom, crop.left : crop.right]
        scale_x, scale_y = crop.scale
        area = mask.sum() * scale_x * scale_y / LOGIT_STRIDE**2
        if area >= MIN_TARGET_AREA and mask.mean() <= MAX_TARGET_FRACTION:
            masks.append((mask, crop))
        if len(masks) == config.prompts_per_image:
            break
    if not masks:
        return None
    box = (crop.left, crop.top, crop.right, crop.bottom)
    pixels = image.resize(crop.size[::-1], Image.Resampling.BILINEAR, box=box)
    return _jitter_colours(np.asarray(pixels, np.float32), rng), masks


def _draw_crop(anchor: NDArray[np.bool_], config: TrainConfig, rng: np.random.Generator) -> Crop:
    """Return a crop: the whole image, or a zoomed window that holds the centre of the ``anchor`` mask."""
    height, width = anchor.shape
    side = config.side
    scale = side / max(height, width)
    if rng.random() >= config.data.whole_image_fraction:
        low, high = config.data.min_zoom, config.data.max_zoom
        scale *= low * (high / low) ** rng.random()
    window_w, window_h = min(width, round(side / scale)), min(height, round(side / scale))
    rows, columns = np.flatnonzero(anchor.any(axis=1)), np.flatnonzero(anchor.any(axis=0))
    left = _draw_origin(int(columns[0] + columns[-1]) // 2, window_w, width, rng)
    top = _draw_origin(int(rows[0] + rows[-1]) // 2, window_h, height, rng)
    size = (min(side, max(1, round(window_h * scale))), min(side, max(1, round(window_w * scale))))
    return Crop(left=left, top=top, right=left + window_w, bottom=top + window_h, size=size)


def _draw_origin(centre: int, window: int, length: int, rng: np.random.Generator) -> int:
    """Return where a window along one axis starts, such that it lies in the image and holds ``centre``."""
    low = max(0, centre - window + 1)
    high = min(centre, length - window)
    return int(rng.integers(low, high + 1)) if high > low else max(0, min(low, length - window))


def _low_res_target(mask: NDArray[np.bool_], crop: Crop, side: int) -> NDArray[np.float32]:
    """Return the covered fraction of each low-resolution pixel, (side, side); padding is empty."""
    size = (
        (crop.size[0] + LOGIT_STRIDE - 1) // LOGIT_STRIDE,
        (crop.size[1] + LOGIT_STRIDE - 1) // LOGIT_STRIDE,
    )
    grey = Image.fromarray(mask.astype(np.uint8) * 255).resize(size[::-1], Image.Resampling.BOX)
    target = np.zeros((side, side), np.float32)
    target[: size[0], : size[1]] = np.asarray(grey, np.float32) / 255
    return target


def _jitter_colours(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Change saturation, contrast, tint and brightness of an (h, w, 3) image in [0, 255]."""
    saturation, contrast = rng.uniform(0.6, 1.4), rng.uniform(0.7, 1.3)
    if rng.random() < 0.05:
        saturation = 0.0
    grey = image.mean(axis=2, keepdims=True)
    image = grey + (image - grey) * saturation
    mean = image.mean()
    shift = rng.uniform(-20, 20) + rng.uniform(-8, 8, 3)
    changed: NDArray[np.float32] = np.clip((image - mean) * contrast + mean + shift, 0, 255).astype(
        np.float32
    )
    return changed


def _flip(
    image: NDArray[np.float32],
    targets: list[NDArray[np.float32]],
    points: list[NDArray[np.float32]],
    boxes: list[NDArray[np.float32]],
    last: int,
    width: int,
) -> None:
    """Mirror an image and its ``last`` prompts within its visible ``width``, in place."""
    image[:, :width] = image[:, :width][:, ::-1].copy()
    low_width = (width + LOGIT_STRIDE - 1) // LOGIT_STRIDE
    for i in range(len(points) - last, len(points)):
        targets[i][:, :low_width] = targets[i][:, :low_width][:, ::-1].copy()
        points[i] = np.array([width - 1 - points[i][0], points[i][1]], np.float32)
        x0, y0, x1, y1 = boxes[i]
        boxes[i] = np.array([width - 1 - x1, y0, width - 1 - x0, y1], np.float32)
