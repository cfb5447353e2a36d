"""Where each pixel lies relative to its prompt: distances to clicks, coordinates within a box.

SAM has to learn from millions of masks that two corner tokens mean the pixels between them. A decoder that is
given maps of it starts with a disc round its click and with its box.
Source of distance maps as input: Xu et al. 2016, "Deep Interactive Object Selection".
P prompts of N points, an (h, w) map. Lengths are in sides of the model's square input.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sam_engine.compute.device import is_queued
from sam_engine.modeling.onnx_export import is_in_onnx_export

NUM_MAPS = 16
"""Channels of `prompt_maps`."""
MIN_DISTANCE = 0.004
"""Added to distances before their logarithm, and the least half side of a box: 2 pixels of 512."""
NEGATIVE_RADIUS = 0.02
"""Deviation of the bump at a background click."""
NEAR = 0.25
"""Offsets from a click are linear up to twice this, then constant."""
BOX_REACH = 3.0
"""Coordinates within a box, whose sides are at -1 and 1, are linear up to this, then constant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptPlaces:
    """Clicks and boxes of P prompts, as far as maps are made of them."""

    coords: Tensor
    """(P, N, 2) as (x, y) in [0, 1] over the square input."""
    labels: Tensor
    """(P, N): 1 foreground, 0 background, 2 and 3 the corners of a box, -1 not a point."""

    def __len__(self) -> int:
        return len(self.coords)

    def __getitem__(self, chosen: slice | Tensor) -> "PromptPlaces":
        """Return some of the prompts."""
        return PromptPlaces(coords=self.coords[chosen], labels=self.labels[chosen])


def pixel_centres(length: int, like: Tensor) -> Tensor:
    """Return the centres (length,) of pixels along one side of a map of the whole input."""
    return (torch.arange(length, device=like.device, dtype=like.dtype) + 0.5) / length


def prompt_maps(places: PromptPlaces, x: Tensor, y: Tensor) -> Tensor:
    """Return maps (P, 16, h, w) at the columns ``x`` (w,) and rows ``y`` (h,), in the dtype of the places.

    Channels: 1; of the nearest foreground click the logarithm of the distance, the distance, the offset in x
    and y and its absolute values; of the nearest background click the logarithm of the distance and a bump;
    of the box the logarithms of the largest and of the Euclidean coordinate, both coordinates and their
    absolute values, and a soft inside. Zero for prompts without such a thing.
    """
    coords, labels = places.coords, places.labels
    if is_in_onnx_export():  # a graph is for all prompts, and has no memory to write into
        constant = torch.ones_like(coords[:, :1, :1] + y[:, None] + x)  # (P, h, w)
        channels = [channel for _, _, make in KINDS for channel in make(coords, labels, x, y)]
        return torch.stack([constant, *(channel.expand_as(constant) for channel in channels)], dim=1)
    maps = coords.new_zeros(len(coords), NUM_MAPS, len(y), len(x))
    maps[:, 0] = 1
    for first_map, label, make in KINDS:
        if _may_be(labels == label):
            for i, channel in enumerate(make(coords, labels, x, y), start=first_map):
                maps[:, i] = channel
    return maps


def _may_be(flags: Tensor) -> bool:
    """Return whether some are set. On a device, to look is to wait: there, always."""
    return flags.numel() > 0 and (is_queued(flags.device) or bool(flags.any()))


def _nearest(coords: Tensor, chosen: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return for the nearest of the chosen points (P, N): whether there is one, its distance and offsets.

    (P, 1, 1) and three times what broadcasts to (P, h, w), zero where there is none.
    """
    dx, dy = x - coords[..., :1, None], y[:, None] - coords[..., 1:, None]  # (P, N, 1, w), (P, N, h, 1)
    if is_in_onnx_export():
        return _nearest_at_once(dx, dy, chosen)
    offset_x, offset_y = dx[:, 0], dy[:, 0]
    best = torch.where(chosen[:, 0, None, None], offset_x.square() + offset_y.square(), torch.inf)
    for i in range(1, coords.shape[1]):
        if _may_be(chosen[:, i]):
            squared = dx[:, i].square() + dy[:, i].square()
            nearer = (squared < best) & chosen[:, i, None, None]
            best = torch.where(nearer, squared, best)
            offset_x, offset_y = (
                torch.where(nearer, dx[:, i], offset_x),
                torch.where(nearer, dy[:, i], offset_y),
            )
    found = chosen.any(dim=1)[:, None, None]
    best, offset_x, offset_y = (torch.where(found, values, 0) for values in (best, offset_x, offset_y))
    return found.to(best.dtype), best.sqrt(), offset_x, offset_y


def _nearest_at_once(dx: Tensor, dy: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what `_nearest` does, without a loop over the N points and in N times the memory.

    ``dx`` (P, N, 1, w) and ``dy`` (P, N, h, 1) are the offsets of pixels from points.
    """
    squared = torch.where(chosen[..., None, None], dx.square() + dy.square(), torch.inf)  # (P, N, h, w)
    nearest = squared.argmin(dim=1, keepdim=True)
    best, offset_x, offset_y = (
        values.expand_as(squared).gather(1, nearest)[:, 0] for values in (squared, dx, dy)
    )
    found = chosen.any(dim=1)[:, None, None]
    best, offset_x, offset_y = (torch.where(found, values, 0) for values in (best, offset_x, offset_y))
    return found.to(best.dtype), best.sqrt(), offset_x, offset_y


def _foreground_maps(coords: Tensor, labels: Tensor, x: Tensor, y: Tensor) -> list[Tensor]:
    """Return the six maps of the nearest foreground click, of what broadcasts to (P, h, w)."""
    found, distance, offset_x, offset_y = _nearest(coords, labels == 1, x, y)
    across, down = (offset_x / NEAR).clamp(-2, 2), (offset_y / NEAR).clamp(-2, 2)
    logarithm = found * ((distance + MIN_DISTANCE).log() + 2)
    return [logarithm, distance / NEAR, across, down, across.abs(), down.abs()]


def _background_maps(coords: Tensor, labels: Tensor, x: Tensor, y: Tensor) -> list[Tensor]:
    """Return the two maps of the nearest background click, (P, h, w)."""
    found, distance, _, _ = _nearest(coords, labels == 0, x, y)
    bump = found * (-0.5 * (distance / NEGATIVE_RADIUS).square()).exp()
    return [found * ((distance + MIN_DISTANCE).log() + 2), bump]


def _box_maps(coords: Tensor, labels: Tensor, x: Tensor, y: Tensor) -> list[Tensor]:
    """Return the seven maps of the box, of what broadcasts to (P, h, w)."""
    first, second = (labels == 2).to(coords.dtype)[..., None], (labels == 3).to(coords.dtype)[..., None]
    low, high = (coords * first).sum(dim=1), (coords * second).sum(dim=1)  # (P, 2)
    centre, half = (low + high) / 2, ((high - low) / 2).clamp(min=MIN_DISTANCE)
    across = ((x - centre[:, :1]) / half[:, :1]).clamp(-BOX_REACH, BOX_REACH)[:, None]  # (P, 1, w)
    down = ((y - centre[:, 1:]) / half[:, 1:]).clamp(-BOX_REACH, BOX_REACH)[:, :, None]  # (P, h, 1)
    edge = (torch.maximum(across.abs(), down.abs()) + 0.1).log()
    found = first.any(dim=1)[..., None]  # (P, 1, 1)
    euclidean = found * ((across.square() + down.square()).sqrt() + 0.1).log()
    across_box, down_box = found * across, found * down
    inside = found * (-8 * edge).sigmoid()
    return [found * edge, euclidean, across_box, down_box, across_box.abs(), down_box.abs(), inside]


KINDS = ((1, 1, _foreground_maps), (7, 0, _background_maps), (9, 2, _box_maps))
"""First channel, label of the points that it needs, and the function that makes the channels."""
