"""What the letters work on: a device, models that find masks, drawn images and drawn logits."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sam_engine.amg.found_mask import FoundMask
from sam_engine.amg.in_turn import Found, InTurn
from sam_engine.amg.mask_finder import MaskFinder
from sam_engine.amg.measure import LogitFrame
from sam_engine.build_sam import build_architecture, load_model
from sam_engine.catalogue import ARCHITECTURES, MODELS, Architecture
from sam_engine.config import AmgConfig, ModelConfig
from sam_engine.modeling.sam import Sam
from sam_engine.modeling.segmenter import Segmenter
from sam_engine.ops.points import build_point_grid
from sam_engine.ops.resize import ResizeLongestSide
from sam_engine.ops.rle import Runs, decode_runs

from ..calibration import calibrate
from ..meters import synchronise

Image = NDArray[np.uint8]

MOST_PIXELS = 10**6
"""Of an image, that masks are compared in."""

DRY_VIT = Architecture(
    image_size=256,
    embed_dim=48,
    depth=2,
    num_heads=3,
    global_attn_indexes=(1,),
    window_size=7,
    prompt_embed_dim=64,
    decoder_mlp_dim=96,
    iou_head_hidden_dim=40,
)
"""In place of vit_* in a dry run."""


@dataclass(kw_only=True)
class Subjects:
    """A device and what is tried on it; models are made once."""

    device: torch.device
    is_dry: bool
    """A CPU plays the device, and everything is small."""
    folder: Path
    """For files that a step needs."""
    _models: dict[str, Sam] = field(default_factory=dict)

    @property
    def is_cuda(self) -> bool:
        """Whether there is a real device."""
        return self.device.type == "cuda"

    @property
    def points_per_side(self) -> int:
        """Of the grid that datasets are made with."""
        return 4 if self.is_dry else 32

    def image(self, height: int, width: int, seed: int = 3) -> Image:
        """Return an image (H, W, 3): bright discs and rectangles of all sizes on coarse noise."""
        if self.is_dry:
            height, width = max(1, height // 10), max(1, width // 10)
        rng = np.random.default_rng(seed)
        noise = torch.from_numpy(rng.integers(40, 110, size=(9, 9, 3), dtype=np.uint8))
        maps = F.interpolate(noise.permute(2, 0, 1)[None].float(), (height, width), mode="bilinear")
        pixels = maps[0].permute(1, 2, 0).numpy().copy()
        y, x = np.mgrid[:height, :width]
        for number in range(40):
            centre, radius = (
                rng.random(2) * (height, width),
                (0.03 + 0.12 * rng.random()) * min(height, width),
            )
            far = np.hypot if number % 2 else np.maximum
            inside = far(np.abs(y - centre[0]), np.abs(x - centre[1])) < radius
            pixels[inside] = rng.integers(0, 256, 3) * 0.8 + pixels[inside] * 0.2
        return np.asarray(np.clip(pixels + rng.normal(0, 4, pixels.shape), 0, 255), np.uint8)

    def model(self, name: str, precision: str = "fp32") -> Sam:
        """Return a model on the device: tiny with its weights, the others random and calibrated there."""
        if name not in self._models:
            self._models[name] = self._make(name)
        sam = self._models[name]
        sam.precision = precision
        return sam

    def release(self, *names: str) -> None:
        """Let go of models."""
        for name in names:
            self._models.pop(name, None)

    def config(self, name: str, **changes: object) -> AmgConfig:
        """Return the settings of the mask generator that suit a model."""
        config = AmgConfig(**{"points_per_side": self.points_per_side, **changes})  # type: ignore[arg-type]
        return config.with_thresholds(MODELS[name].thresholds)

    def architecture(self, name: str) -> Architecture:
        """Return the sizes of a model; in a dry run those of vit_* are others."""
        is_small = MODELS[name].bundled is not None
        return DRY_VIT if self.is_dry and not is_small else ARCHITECTURES[name]

    def _make(self, name: str) -> Sam:
        """Build a model."""
        if MODELS[name].bundled is not None:
            return load_model(ModelConfig(name=name, device=str(self.device)))
        torch.manual_seed(0)
        with self.device:  # vit_h takes a CPU half a minute to fill with random numbers
            sam = build_architecture(self.architecture(name))
            for parameter_name, parameter in sam.named_parameters():
                if "rel_pos" in parameter_name or "pos_embed" in parameter_name:
                    torch.nn.init.normal_(parameter, std=0.02)
        sam = sam.to(self.device).requires_grad_(False)
        calibrate(sam, sam.encode([self.image(683, 1024)])[0], AmgConfig())
        return sam


def cpu_twin(sam: Sam) -> Sam:
    """Return a copy on the CPU, in float32."""
    twin = copy.deepcopy(sam).cpu()
    twin.precision = "fp32"
    return twin


def grid_prompts(sam: Sam, image: Image, side: int) -> dict[str, Tensor]:
    """Return a grid of clicks, as `Sam.decode` takes them."""
    size = (image.shape[0], image.shape[1])
    points = build_point_grid(side) * size[::-1]
    coords = torch.from_numpy(ResizeLongestSide(sam.image_size).apply_coords(points, size)).float()
    coords = coords.to(sam.device)
    labels = torch.ones(len(coords), 1, dtype=torch.int, device=sam.device)
    return {"point_coords": coords[:, None], "point_labels": labels}


def find(finder: MaskFinder, image: Image) -> list[FoundMask]:
    """Find masks in the way of a device, also where a CPU plays it."""
    with torch.no_grad():
        queued = finder.begin(image)
        queued.draw()
        return finder.finish(queued)


def find_in_pairs(finder: MaskFinder, images: Sequence[Image]) -> list[list[FoundMask]]:
    """Find the masks of images of which two are in hand at a time.

    Raises:
        ImageError: What became of an image instead.
    """
    in_turn, found = InTurn(finder), list[Found | None]()
    in_turn._overlaps = True  # also where a CPU plays the device
    with torch.no_grad():
        found += [in_turn.add(image) for image in images]
        found.append(in_turn.finish())
    masks = []
    for one in found[1:]:
        if isinstance(one, Exception):
            raise one
        assert one is not None
        masks.append(one)
    return masks


def plain_finder(model: Segmenter, config: AmgConfig) -> MaskFinder:
    """Return a finder of the CPU."""
    return MaskFinder(model, config)


def share_found(found: Sequence[FoundMask], wanted: Sequence[FoundMask], size: tuple[int, int]) -> float:
    """Return the share of wanted masks that one of those found has an IoU of 0.99 with; 1 if there are none.

    Of large images, only pixels of a regular grid are looked at.
    """
    if not wanted:
        return 1.0
    if not found:
        return 0.0
    ours, theirs = (_flat([mask.runs for mask in masks], size) for masks in (found, wanted))
    best = torch.zeros(len(wanted))
    for start in range(0, len(wanted), 16):
        some = theirs[start : start + 16]
        overlap = some @ ours.T
        union = some.sum(dim=1)[:, None] + ours.sum(dim=1)[None] - overlap
        best[start : start + 16] = (overlap / union.clamp(min=1)).amax(dim=1)
    return float((best >= 0.99).float().mean())


def _flat(runs: Sequence[Runs], size: tuple[int, int]) -> Tensor:
    """Return some pixels of masks as rows of float32."""
    step = math.ceil((size[0] * size[1] / MOST_PIXELS) ** 0.5)
    return torch.from_numpy(
        np.stack([decode_runs(one, size)[::step, ::step].ravel() for one in runs])
    ).float()


def same_masks(found: Sequence[FoundMask], wanted: Sequence[FoundMask]) -> bool:
    """Return whether masks are the same, in the same order, to the last pixel and bit of a score."""
    return len(found) == len(wanted) and all(
        np.array_equal(a.runs, b.runs) and a.predicted_iou == b.predicted_iou
        for a, b in zip(found, wanted, strict=True)
    )


def drawn_logits(num_masks: int, side: int) -> Tensor:
    """Return (N, side, side) logits on the CPU: smooth shapes of all sizes; the first is a fence."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(num_masks, 1, 7, 7, generator=generator)
    logits = 4 * F.interpolate(noise, (side, side), mode="bicubic")[:, 0]
    logits -= torch.linspace(-2, 6, num_masks)[:, None, None]
    logits[0] = torch.where(torch.arange(side) % 2 == 0, 3.0, -3.0)[:, None]
    return logits


def frame_of(size: tuple[int, int], image_size: int) -> LogitFrame:
    """Return where the logits of an image lie."""
    input_size = ResizeLongestSide(image_size).target_size(size)
    return LogitFrame(image_size=image_size, input_size=input_size, original_size=size)


@contextmanager
def no_waits(device: torch.device) -> Iterator[None]:
    """Let CUDA raise for whatever makes the program wait for it, but for events."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def timed_ms(device: torch.device, work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Return how long work takes the first time, and the best time of those that follow, in ms."""
    times = []
    for _ in range(1 + repeats):
        synchronise(device)
        start = time.perf_counter()
        work()
        synchronise(device)
        times.append(1000 * (time.perf_counter() - start))
    return times[0], min(times[1:])
