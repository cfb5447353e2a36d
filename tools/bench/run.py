"""What `tools.bench` measures in one process: the mask generator on images in memory, and the reference's.

Imports torch, and nothing that a machine without Ray, Hydra, pycocotools and pyarrow lacks.
"""

import functools
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image

from sam_engine.automatic_mask_generator import SamAutomaticMaskGenerator
from sam_engine.catalogue import Architecture
from sam_engine.config import AmgConfig
from sam_engine.modeling.precision import cuda_tf32
from sam_engine.modeling.sam import Sam

from ..reference import Pixels, PredictorOverSegmenter, drive_reference
from .calibration import measure_survival
from .flops import floor_gflops
from .meters import count_syncs, stopwatch, synchronise, work_clock
from .table import Comparison, Timing

log = logging.getLogger(__name__)

OUTPUT_MODE = "uncompressed_rle"  # the reference's other modes need pycocotools, or decode the masks again

Records = list[dict[str, Any]]
Masks = Counter[tuple[tuple[int, ...], tuple[int, ...]]]
"""Sizes and runs of an image's masks."""
Watched = Sequence[tuple[Any, Mapping[str, str]]]
"""Objects, and the methods of each by the stage that their time belongs to."""

_STAGES = {
    "encode": "encode",
    "prepare": "decode",
    "decode": "decode",
    "decode_prompts": "decode",
    "upscale_masks": "decode",
}


class Lap:
    """One generator, ours or the reference's, and what its passes add up to."""

    def __init__(self, generator: Any, watched: Watched, device: torch.device) -> None:
        self.generator = generator
        self.watched = watched
        self.device = device
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        self.num_masks: list[int] = []
        self.stages: list[Mapping[str, float]] = []
        self.masks: list[Masks] = []

    def run(self, image: Pixels) -> Records:
        """Find the masks of an image; where memory runs out, with half as many points at once from now on.

        Our generator sees to that itself; this is for the reference.
        """
        while True:
            try:
                with cuda_tf32(self.device, False):
                    records: Records = self.generator.generate(image)
                synchronise(self.device)
            except torch.OutOfMemoryError:
                if self.generator.points_per_batch == 1:
                    raise
            else:
                return records
            torch.cuda.empty_cache()
            self.generator.points_per_batch //= 2
            log.warning("memory ran out: points_per_batch is %d from now on", self.generator.points_per_batch)

    def timed_pass(self, image: Pixels) -> None:
        """Time one image. The stages too on a CPU, where that costs nothing."""
        stages: dict[str, float] = defaultdict(float)
        with ExitStack() as stack:
            if self.device.type == "cpu":
                stack.enter_context(stopwatch(self.watched, stages, self.device))
                self.stages.append(stages)
            synchronise(self.device)
            start, cpu_start = time.perf_counter(), time.process_time()
            records = self.run(image)
            seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        stages["all"] = cpu_seconds if work_clock(self.device) is time.process_time else seconds
        self.seconds.append(seconds)
        self.cpu_seconds.append(cpu_seconds)
        self.num_masks.append(len(records))
        self.masks.append(masks_of(records))

    def staged_pass(self, image: Pixels) -> None:
        """Time an image's stages on an accelerator, waiting for it after each; then count other waits."""
        stages: dict[str, float] = defaultdict(float)
        with stopwatch(self.watched, stages, self.device):
            synchronise(self.device)
            start = time.perf_counter()
            self.run(image)
            stages["all"] = time.perf_counter() - start
        if self.device.type == "cuda":
            stages["syncs"] = count_syncs(functools.partial(self.generator.generate, image))
        self.stages.append(stages)

    def timing(self) -> Timing:
        """Return what the passes add up to."""
        mean = {
            name: float(np.mean([stages.get(name, 0.0) for stages in self.stages]))
            for name in ("all", "encode", "decode", "syncs")
        }
        return Timing(
            seconds=tuple(self.seconds),
            cpu_seconds=tuple(self.cpu_seconds),
            num_masks=tuple(self.num_masks),
            encode_s=mean["encode"],
            decode_s=mean["decode"],
            post_s=mean["all"] - mean["encode"] - mean["decode"],
            points_per_batch=self.generator.points_per_batch,
            syncs=mean["syncs"] if self.device.type == "cuda" else None,
        )


def our_lap(sam: Sam, config: AmgConfig) -> Lap:
    """Return our generator."""
    generator = SamAutomaticMaskGenerator.from_config(sam, config, OUTPUT_MODE)
    return Lap(generator, [(sam, _STAGES)], sam.device)


def reference_lap(package: ModuleType, sam: Sam, architecture: Architecture, config: AmgConfig) -> Lap:
    """Return the reference's generator with our weights."""
    generator = drive_reference(package, sam, architecture, config, OUTPUT_MODE)
    predictor = generator.predictor
    watched: list[tuple[Any, Mapping[str, str]]]
    if isinstance(predictor, PredictorOverSegmenter):
        watched = [(predictor.model, {"encode": "encode", "decode": "decode"})]
    else:
        watched = [(predictor, {"set_image": "encode"})]
        decoder = (predictor.model.prompt_encoder, predictor.model.mask_decoder)
        watched += [(part, {"forward": "decode"}) for part in decoder]
    return Lap(generator, watched, sam.device)


def measure(
    sam: Sam,
    architecture: Architecture,
    images: Sequence[Pixels],
    config: AmgConfig,
    *,
    repeats: int,
    rates: tuple[float, float],
    package: ModuleType | None = None,
) -> Comparison:
    """Time the generator on each of the images, ``repeats`` times after a warm-up.

    Args:
        sam: The model.
        architecture: Its sizes.
        images: (H, W, 3) uint8 RGB.
        config: Settings of the generator.
        repeats: Passes over all images that count.
        rates: GFLOP/s of matrix products for the encoder and for the decoder, as measured on this machine.
        package: The reference, which is then run in turn with ours: image by image, so that both see the
            same machine.
    """
    laps = [our_lap(sam, config)]
    if package is not None:
        laps.append(reference_lap(package, sam, architecture, config))
    for lap in laps:
        warm_up(lap, images[0])
    for _ in range(repeats):
        for image in images:
            for lap in laps:
                lap.timed_pass(image)
    if sam.device.type != "cpu":
        for image in images:
            for lap in laps:
                lap.staged_pass(image)
    survival = measure_survival(sam, sam.encode(images[:1])[0], config)
    encoder_gflop, decoder_gflop = _mean_floor_gflops(images, architecture, config)
    return Comparison(
        ours=laps[0].timing(),
        reference=laps[1].timing() if package is not None else None,
        identical=share_identical(laps[0].masks, laps[1].masks) if package is not None else None,
        survival_iou=survival.iou,
        survival_both=survival.both,
        encoder_gflop=encoder_gflop,
        decoder_gflop=decoder_gflop,
        encoder_rate=rates[0],
        decoder_rate=rates[1],
    )


def warm_up(lap: Lap, image: Pixels) -> None:
    """Run once before the clock does: in full on an accelerator, with a batch of points on a CPU."""
    generator = lap.generator
    grids = generator.point_grids
    if lap.device.type == "cpu":
        generator.point_grids = [grid[: generator.points_per_batch] for grid in grids]
    lap.run(image)
    generator.point_grids = grids


def _mean_floor_gflops(
    images: Sequence[Pixels], architecture: Architecture, config: AmgConfig
) -> tuple[float, float]:
    """Return the work of encoder and decoder for an image without crops, on average."""
    assert config.grid is not None
    floors = []
    for image in images:
        height, width = image.shape[:2]
        share = min(height, width) / max(height, width)
        floors.append(floor_gflops(architecture, config.grid[0] * config.grid[1], share))
    encoder, decoder = np.mean(floors, axis=0).tolist()
    return encoder, decoder


def masks_of(records: Records) -> Masks:
    """Return the masks of an image, without the order that they were found in."""
    return Counter(
        (tuple(record["segmentation"]["size"]), tuple(record["segmentation"]["counts"])) for record in records
    )


def share_identical(ours: Sequence[Masks], theirs: Sequence[Masks]) -> float | None:
    """Return how many masks are in both, as a share of the larger number; None if there is no mask."""
    common = sum((a & b).total() for a, b in zip(ours, theirs, strict=True))
    larger = sum(max(a.total(), b.total()) for a, b in zip(ours, theirs, strict=True))
    return common / larger if larger else None


def load_images(folder: str | Path) -> list[Pixels]:
    """Return the images of a folder by name, as (H, W, 3) uint8 RGB."""
    images = []
    for path in sorted(Path(folder).iterdir()):
        with Image.open(path) as file:
            images.append(np.asarray(file.convert("RGB")))
    return images
