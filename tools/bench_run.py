"""What `tools.bench` measures: the mask generator on images in memory, and the reference's beside it.

Imports torch, and nothing that a machine without Ray, Hydra and pycocotools lacks.
"""

import copy
import functools
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from sam_engine.automatic_mask_generator import SamAutomaticMaskGenerator
from sam_engine.build import Architecture
from sam_engine.config import AmgConfig
from sam_engine.errors import InputError
from sam_engine.modeling.sam import ImageEmbedding, Sam, cuda_tf32
from tools.bench_calibration import Survival, measure_survival
from tools.bench_flops import floor_gflops
from tools.bench_meters import count_syncs, peak_memory, reset_peak_memory, stopwatch, synchronise
from tools.reference import build_reference, reference_generator

OUTPUT_MODE = "uncompressed_rle"  # the reference's other modes need pycocotools, or decode the masks again

Pixels = NDArray[np.uint8]
Records = list[dict[str, Any]]
Masks = Counter[tuple[tuple[int, ...], tuple[int, ...]]]
"""Sizes and runs of an image's masks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One generator on all images."""

    engine: str
    seconds: tuple[float, ...]
    """End to end, for each image of each repeat; image in memory to run lengths in memory."""
    num_masks: tuple[int, ...]
    """Likewise."""
    encode_s: float
    """Mean for each image, of resizing and the image encoder."""
    decode_s: float
    """Likewise, of the prompt encoder and the mask decoder."""
    post_s: float
    """Likewise, of all else."""
    peak_bytes: int
    """Resident memory of the process, or on CUDA what torch had allocated, at most, in the first pass."""
    syncs: float | None = None
    """For each image, how often the program waited for the device; None where there is none to wait for."""
    cold_start_s: float | None = None
    """From the start of the program's imports until the first image is done; None for the reference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All that is known of one model, size and precision."""

    ours: Measurement
    reference: Measurement | None
    identical: float | None
    """Share of masks that both found, run for run, of the larger number of masks."""
    survival: Survival
    """On the first image, with its own 8 x 8 points."""
    encoder_gflop: float
    decoder_gflop: float
    """The least that is needed for one image, on average."""
    encoder_rate: float
    """GFLOP/s of matrix products, as measured, in the precision of the encoder."""
    decoder_rate: float
    """Likewise in fp32, which the decoder always has."""

    @property
    def floor_s(self) -> float:
        """Time of this work at these rates."""
        return self.encoder_gflop / self.encoder_rate + self.decoder_gflop / self.decoder_rate


@dataclass(slots=True)
class _Lap:
    """What the passes of one generator add up to."""

    generate: Callable[[Pixels], Records]
    watched: Sequence[tuple[Any, Mapping[str, str]]]
    """Objects, and the methods of each by the stage that their time belongs to."""
    seconds: list[float]
    num_masks: list[int]
    stages: list[Mapping[str, float]]
    masks: list[Masks]
    peak_bytes: int = 0
    first_s: float = 0.0


def measure(
    sam: Sam,
    architecture: Architecture,
    images: Sequence[Pixels],
    config: AmgConfig,
    *,
    repeats: int,
    rates: tuple[float, float],
    start_up_s: float = 0.0,
    package: ModuleType | None = None,
) -> Comparison:
    """Time the generator on each of the images, ``repeats`` times after a first pass over the first image.

    Args:
        sam: The model.
        architecture: Its sizes.
        images: (H, W, 3) uint8 RGB.
        config: Settings of the generator.
        repeats: Passes over all images that count.
        rates: GFLOP/s of matrix products for the encoder and for the decoder, as measured on this machine.
        start_up_s: What passed from the start of the program until the model was loaded.
        package: The reference, which is then run in turn with ours: image by image, so that both see the
            same machine.
    """
    generator = SamAutomaticMaskGenerator.from_config(sam, config, OUTPUT_MODE)
    laps = [_lap(generator.generate, [(sam, _STAGES)])]
    _first_pass(laps[0], images[0], sam.device)
    if package is not None:
        laps.append(_reference_lap(package, sam, architecture, config))
        _first_pass(laps[1], images[0], sam.device)
    for _ in range(repeats):
        for image in images:
            for lap in laps:
                _timed_pass(lap, image, sam.device)
    if sam.device.type != "cpu":
        for image in images:
            for lap in laps:
                _staged_pass(lap, image, sam.device)
    ours = _summary("sam-engine", laps[0], images, sam.device, start_up_s + laps[0].first_s)
    reference = _summary("segment_anything", laps[1], images, sam.device) if package is not None else None
    encoder_gflop, decoder_gflop = _mean_floor_gflops(sam, images, architecture, config)
    return Comparison(
        ours=ours,
        reference=reference,
        identical=share_identical(laps[0].masks, laps[1].masks) if package is not None else None,
        survival=measure_survival(sam, sam.encode(images[:1])[0], config),
        encoder_gflop=encoder_gflop,
        decoder_gflop=decoder_gflop,
        encoder_rate=rates[0],
        decoder_rate=rates[1],
    )


_STAGES = {
    "encode": "encode",
    "prepare": "decode",
    "decode": "decode",
    "decode_prompts": "decode",
    "upscale_masks": "decode",
}


def _lap(generate: Callable[[Pixels], Records], watched: Sequence[tuple[Any, Mapping[str, str]]]) -> _Lap:
    return _Lap(generate=generate, watched=watched, seconds=[], num_masks=[], stages=[], masks=[])


class SlowTwin:
    """A `Segmenter`: our model in fp32, decoding by the operations of the released model in their order."""

    def __init__(self, sam: Sam) -> None:
        self.sam = copy.copy(sam)
        self.sam.precision = "fp32"
        self.mask_threshold = sam.mask_threshold
        self.image_size = sam.image_size
        self.device = sam.device

    def encode(self, images: Sequence[Pixels]) -> list[ImageEmbedding]:
        """See `Segmenter.encode`."""
        return self.sam.encode(images)

    @torch.no_grad()
    def decode(
        self,
        embedding: ImageEmbedding,
        *,
        point_coords: Tensor | None = None,
        point_labels: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        """See `Segmenter.decode`; only points, three masks each."""
        assert point_coords is not None
        assert point_labels is not None
        sparse, dense = self.sam.prompt_encoder((point_coords, point_labels), None, None)
        pe, skips = self.sam.prompt_encoder.get_dense_pe(), embedding.skip_features
        logits, scores = self.sam.mask_decoder(embedding.features, pe, sparse, dense, True, skips)
        return logits, scores


def _reference_lap(package: ModuleType, sam: Sam, architecture: Architecture, config: AmgConfig) -> _Lap:
    """Return the reference's generator with our weights: on its own model, or on our slow twin for tiny."""
    settings = {name: getattr(config, name) for name in _REFERENCE_SETTINGS}
    if architecture.encoder == "tiny":  # whose skip features the package's decoder does not know
        twin = SlowTwin(sam)
        generator = reference_generator(package, twin, output_mode=OUTPUT_MODE, **settings)
        watched = [(twin, {"encode": "encode", "decode": "decode"})]
    else:
        model = build_reference(package, architecture)
        model.load_state_dict(sam.state_dict(), assign=True)  # no second copy in memory
        model.to(sam.device)
        generator = package.SamAutomaticMaskGenerator(model, output_mode=OUTPUT_MODE, **settings)
        forward = {"forward": "decode"}
        watched = [(generator.predictor, {"set_image": "encode"})]
        watched += [(model.prompt_encoder, forward), (model.mask_decoder, forward)]

    def generate(image: Pixels) -> Records:
        with cuda_tf32(sam.device, False):
            records: Records = generator.generate(image)
            return records

    return _lap(generate, watched)


_REFERENCE_SETTINGS = (
    "points_per_side",
    "points_per_batch",
    "pred_iou_thresh",
    "stability_score_thresh",
    "stability_score_offset",
    "box_nms_thresh",
    "crop_n_layers",
    "crop_nms_thresh",
    "crop_overlap_ratio",
    "crop_n_points_downscale_factor",
    "min_mask_region_area",
)


def _first_pass(lap: _Lap, image: Pixels, device: torch.device) -> None:
    """Warm up, and see how much memory is needed."""
    reset_peak_memory(device)
    start = time.perf_counter()
    lap.generate(image)
    synchronise(device)
    lap.first_s = time.perf_counter() - start
    lap.peak_bytes = peak_memory(device)


def _timed_pass(lap: _Lap, image: Pixels, device: torch.device) -> None:
    """Time one image. The stages too on a CPU, where that costs nothing."""
    with ExitStack() as stack:
        stages: dict[str, float] = defaultdict(float)
        if device.type == "cpu":
            stack.enter_context(stopwatch(lap.watched, stages, device))
            lap.stages.append(stages)
        synchronise(device)
        start = time.perf_counter()
        records = lap.generate(image)
        synchronise(device)
        seconds = time.perf_counter() - start
    stages["all"] = seconds
    lap.seconds.append(seconds)
    lap.num_masks.append(len(records))
    lap.masks.append(masks_of(records))


def _staged_pass(lap: _Lap, image: Pixels, device: torch.device) -> None:
    """Time the stages of one image on an accelerator, waiting for it after each; then count other waits."""
    stages: dict[str, float] = defaultdict(float)
    with stopwatch(lap.watched, stages, device):
        synchronise(device)
        start = time.perf_counter()
        lap.generate(image)
        synchronise(device)
        stages["all"] = time.perf_counter() - start
    if device.type == "cuda":
        stages["syncs"] = count_syncs(functools.partial(lap.generate, image))
    lap.stages.append(stages)


def _summary(
    engine: str,
    lap: _Lap,
    images: Sequence[Pixels],
    device: torch.device,
    cold_start_s: float | None = None,
) -> Measurement:
    mean = {name: float(np.mean([stages[name] for stages in lap.stages])) for name in _MEANS}
    return Measurement(
        engine=engine,
        seconds=tuple(lap.seconds),
        num_masks=tuple(lap.num_masks),
        encode_s=mean["encode"],
        decode_s=mean["decode"],
        post_s=mean["all"] - mean["encode"] - mean["decode"],
        peak_bytes=lap.peak_bytes,
        syncs=mean["syncs"] if device.type == "cuda" else None,
        cold_start_s=cold_start_s,
    )


_MEANS = ("all", "encode", "decode", "syncs")


def _mean_floor_gflops(
    sam: Sam, images: Sequence[Pixels], architecture: Architecture, config: AmgConfig
) -> tuple[float, float]:
    """Return the work of encoder and decoder for an image without crops, on average."""
    assert config.points_per_side is not None
    floors = []
    for image in images:
        height, width = image.shape[:2]
        share = min(height, width) / max(height, width)
        floors.append(floor_gflops(architecture, config.points_per_side**2, share))
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


def load_images(paths: Sequence[Path], long_side: int) -> list[Pixels]:
    """Return upright RGB images, their longer side resized to so many pixels.

    Raises:
        InputError: One cannot be read.
    """
    images = []
    for path in paths:
        try:
            with Image.open(path) as file:
                image = ImageOps.exif_transpose(file).convert("RGB")
        except OSError as error:
            raise InputError(f"{path}: {error}") from None
        scale = long_side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        images.append(np.asarray(image.resize(size, Image.Resampling.BICUBIC)))
    return images
