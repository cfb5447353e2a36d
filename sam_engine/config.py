"""Every setting, once: name, default, unit, meaning and range. No torch, no Hydra.

YAML files in ``configs/`` hold only what differs from here. Each class checks itself when it is made, so a
wrong value never reaches a worker.
"""

import math
import re
from dataclasses import dataclass, field, fields, replace
from typing import Self, TypeGuard

from sam_engine.catalogue import DEFAULT_MODEL, MODELS, Thresholds
from sam_engine.settings.checks import check_setting, check_types
from sam_engine.structures import Partition

MODEL_NAMES = tuple(MODELS)
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
EXECUTORS = ("auto", "ray", "inline")
BLURS = ("none", "boxes", "faces")


def is_on(threshold: float | None) -> TypeGuard[float]:
    """Return whether a filter by score filters anything: a threshold of 0 or less keeps all."""
    assert threshold is not None, "AmgConfig.with_thresholds() comes before"
    return threshold > 0


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network, with which weights, where and how it runs."""

    name: str = DEFAULT_MODEL
    """Architecture: tiny, vit_b, vit_l or vit_h."""
    checkpoint: str | None = None
    """Weights: a known name, a path or a URL. None: bundled for tiny, the official release for vit_*;
    ``random`` for untrained weights, which is stamped into the output."""
    sha256: str | None = None
    """If set, the checkpoint file must have this digest."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps. auto takes CUDA where there is some, else the CPU."""
    precision: str = "fp32"
    """fp32, tf32, fp16 or bf16, of all that is computed on the image. Anything but fp32 changes masks: fp16
    the least, bf16 the most."""

    def __post_init__(self) -> None:
        """Check types and names; whether the device exists is known only where the model runs."""
        check_types(self, "model.")
        check_setting("model.name", self.name, self.name in MODEL_NAMES, f"one of {', '.join(MODEL_NAMES)}")
        check_setting(
            "model.precision", self.precision, self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"
        )
        kind, _, index = self.device.partition(":")
        known = kind in ("auto", "cpu", "cuda", "mps") and (not index or (kind == "cuda" and index.isdigit()))
        check_setting(
            "model.device",
            self.device,
            known and not self.device.endswith(":"),
            "auto, cpu, cuda, cuda:N or mps",
        )


@dataclass(frozen=True, kw_only=True)
class AmgConfig:
    """The automatic mask generator. Names and defaults are ``segment_anything``'s, with two exceptions.

    It lacks the last five settings; and here the first two thresholds belong to the model.
    """

    points_per_side: int | None = 32
    """Points along one side of the grid; ``points_per_side**2`` prompts on the whole image."""
    points_per_batch: int = 64
    """Prompts decoded at once. Higher is faster until memory runs out; the masks found stay the same. On a
    CPU datasets are made with 64, whatever stands here."""
    pred_iou_thresh: float | None = None
    """Masks whose predicted IoU is not above this are dropped. 0 or less keeps all. None: what the model
    recommends, 0.88 for vit_*."""
    stability_score_thresh: float | None = None
    """Masks whose stability score is below this are dropped. 0 or less keeps all. None: what the model
    recommends, 0.95 for vit_*."""
    stability_score_offset: float = 1.0
    """Distance of the two cuts of the stability score from the mask threshold, in logits."""
    box_nms_thresh: float = 0.7
    """Box IoU above which the mask of lower predicted IoU is dropped, within one crop."""
    crop_n_layers: int = 0
    """Layers of crops besides the whole image; layer k cuts ``4**k`` crops."""
    crop_nms_thresh: float = 0.7
    """Box IoU above which the mask from the larger crop is dropped, between crops."""
    crop_overlap_ratio: float = 512 / 1500
    """Overlap of neighbouring crops of layer 1, as a fraction of the image's shorter side."""
    crop_n_points_downscale_factor: int = 1
    """Points per side in layer k are ``points_per_side / factor**k``."""
    min_mask_region_area: int = 0
    """Fill holes and remove islands smaller than this many pixels. 0: leave masks alone."""
    max_mask_area_fraction: float = 1.0
    """Drop masks that cover at least this fraction of the image, 0.95 for SA-1B. 1.0 keeps all."""
    drop_small_masks: bool = False
    """Drop masks whose largest component is below ``min_mask_region_area``, as SA-1B did."""
    points_per_row: int | None = None
    """Points from left to right, for a grid of unequal sides; with ``points_per_column``, and in place of
    ``points_per_side``. In layer k as many divided by ``factor**k``."""
    points_per_column: int | None = None
    """Points from top to bottom of such a grid."""
    prompts: str | None = None
    """Table with the prompts of each image, in place of a grid: .csv or .parquet with columns file_name and
    x, y (three masks a point) or x0, y0, x1, y1 (one mask a box), in pixels of the upright image."""

    @property
    def grid(self) -> tuple[int, int] | None:
        """Points from left to right and from top to bottom; None: no regular grid."""
        if self.points_per_row is not None and self.points_per_column is not None:
            return self.points_per_row, self.points_per_column
        return None if self.points_per_side is None else (self.points_per_side, self.points_per_side)

    def __post_init__(self) -> None:
        """Check types, then ranges."""
        check_types(self, "amg.")
        at_least = (
            ("points_per_side", 1),
            ("points_per_row", 1),
            ("points_per_column", 1),
            ("points_per_batch", 1),
            ("stability_score_offset", 0),
            ("crop_n_layers", 0),
            ("crop_n_points_downscale_factor", 1),
            ("min_mask_region_area", 0),
        )
        for name, low in at_least:
            value = getattr(self, name)
            if value is not None:
                check_setting(f"amg.{name}", value, value >= low, f"at least {low}")
        for name in ("pred_iou_thresh", "stability_score_thresh"):
            value = getattr(self, name)
            check_setting(f"amg.{name}", value, value is None or math.isfinite(value), "a finite number")
        for name in ("box_nms_thresh", "crop_nms_thresh", "crop_overlap_ratio", "max_mask_area_fraction"):
            value = getattr(self, name)
            check_setting(f"amg.{name}", value, 0 <= value <= 1, "in [0, 1]")
        check_setting("amg.crop_n_layers", self.crop_n_layers, self.crop_n_layers <= 4, "at most 4")
        for name in ("crop_n_layers", "points_per_row") if self.prompts is not None else ():
            value = getattr(self, name)
            check_setting(f"amg.{name}", value, not value, "left out with amg.prompts")
        for name, other in (("points_per_row", "points_per_column"), ("points_per_column", "points_per_row")):
            is_paired = (getattr(self, name) is None) == (getattr(self, other) is None)
            value = getattr(self, name)
            check_setting(f"amg.{name}", value, is_paired or value is not None, f"given with amg.{other}")

    def with_thresholds(self, recommended: Thresholds) -> Self:
        """Return the settings with the model's thresholds where none were asked for."""
        missing = {
            each.name: getattr(recommended, each.name)
            for each in fields(recommended)
            if getattr(self, each.name) is None
        }
        return replace(self, **missing) if missing else self

    @property
    def thresholds(self) -> Thresholds:
        """Those asked for; in place of the others, as long as no model has given its own, SAM's."""
        return Thresholds(
            **{
                each.name: getattr(self.with_thresholds(Thresholds()), each.name)
                for each in fields(Thresholds)
            }
        )


_NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
SCALE_PATTERN = re.compile(
    rf"min-max|p(?P<first>\d+(?:\.\d+)?)-p(?P<last>\d+(?:\.\d+)?)|(?P<low>{_NUMBER})-(?P<high>{_NUMBER})"
)


def _is_scale(text: str) -> bool:
    """Return whether this is a value of ``decode.scale``, lower end first."""
    match = SCALE_PATTERN.fullmatch(text)
    if match is None:
        return False
    if match["first"]:
        return float(match["first"]) < float(match["last"]) <= 100
    return match["low"] is None or float(match["low"]) < float(match["high"])


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """How files become pixels, and which are refused."""

    strict: bool = True
    """Refuse JPEGs whose decoder reports damage. False keeps what could be decoded of them, and says so."""
    isolate: bool | None = None
    """Decode in child processes with resource limits, so that no file can take a worker down. None: unless
    executor=inline."""
    max_pixels: int = 100_000_000
    """Larger images are refused by their header (status too_large)."""
    max_side: int = 32_768
    """Longer sides are refused likewise, in pixels."""
    max_file_bytes: int = 256 * 2**20
    """Larger files are refused unread, in bytes."""
    exif: bool = True
    """Turn images upright by their EXIF orientation. False: take pixels as stored."""
    background: int = 255
    """Grey level that transparent pixels are composited on, in [0, 255]."""
    scale: str | None = None
    """How samples of more than 8 bits become 8. ``min-max``: from the lowest to the highest of each image;
    ``p1-p99``: between percentiles of each image; ``0-4095``: between these values. None: the high byte of 16
    bits, and floating-point, signed and 32-bit samples are refused. 8-bit images stay as they are."""
    bands: list[int] = field(default_factory=list)
    """Which samples of a TIFF pixel are shown, counted from 1: one as grey, or three as red, green and blue.
    Empty: those that the file calls colours. Other formats have no bands."""

    def __post_init__(self) -> None:
        """Check types, then ranges."""
        check_types(self, "decode.")
        for name in ("max_pixels", "max_side", "max_file_bytes"):
            value = getattr(self, name)
            check_setting(f"decode.{name}", value, value >= 1, "at least 1")
        check_setting("decode.background", self.background, 0 <= self.background <= 255, "in [0, 255]")
        known = self.scale is None or _is_scale(self.scale)
        check_setting(
            "decode.scale", self.scale, known, "min-max, percentiles as p1-p99, or a range as 0-4095"
        )
        ok = len(self.bands) in (0, 1, 3) and all(type(band) is int and band >= 1 for band in self.bands)
        check_setting("decode.bands", self.bands, ok, "one or three samples, counted from 1, such as [3,2,1]")


@dataclass(frozen=True, kw_only=True)
class VideoConfig:
    """Which frames of a video are images. Without a setting all are."""

    every: int | None = None
    """Take every so manieth frame, from the first on."""
    rate_hz: float | None = None
    """Take so many frames a second by their time stamps: the first one at or after each multiple of
    ``1 / rate_hz`` seconds, none twice."""

    def __post_init__(self) -> None:
        """Check types, then ranges."""
        check_types(self, "video.")
        if self.every is not None:
            check_setting("video.every", self.every, self.every >= 1, "at least 1")
        if self.rate_hz is not None:
            is_rate = self.rate_hz > 0 and math.isfinite(self.rate_hz)
            check_setting("video.rate_hz", self.rate_hz, is_rate, "above 0 and finite")
            check_setting("video.every", self.every, self.every is None, "left out with video.rate_hz")

    @property
    def is_set(self) -> bool:
        """Frames are left out."""
        return self.every is not None or self.rate_hz is not None


@dataclass(frozen=True, kw_only=True)
class ExecutorConfig:
    """Where shards are made."""

    name: str = "auto"
    """ray: a pool of worker processes. inline: this process, no Ray. auto: Ray where there is a GPU, an
    address, or enough images for several workers, else one process of its own, which an image may kill."""
    num_workers: int | None = None
    """Worker processes. None: one per GPU, or on a CPU as many as fit its cores."""
    threads_per_worker: int = 1
    """CPU threads of the model in each worker. Part of the fingerprint, because it changes float sums."""
    decode_threads: int = 2
    """Threads in each worker that read and decode images ahead of the model."""
    address: str = "local"
    """local: start Ray on this machine. Otherwise the address of a running cluster, host:port or auto."""
    shard_timeout_s: float = 3600.0
    """A worker silent for this long is replaced, in seconds. It gives a sign of life before each image."""
    max_shard_attempts: int = 3
    """A shard that killed its worker or raised this often is given up and named."""

    def __post_init__(self) -> None:
        """Check types, then ranges."""
        check_types(self, "executor.")
        check_setting("executor.name", self.name, self.name in EXECUTORS, f"one of {', '.join(EXECUTORS)}")
        for name in ("num_workers", "threads_per_worker", "decode_threads", "max_shard_attempts"):
            value = getattr(self, name)
            if value is not None:
                check_setting(f"executor.{name}", value, value >= 1, "at least 1")
        check_setting("executor.shard_timeout_s", self.shard_timeout_s, self.shard_timeout_s > 0, "above 0")


@dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
    """What pictures that a dataset holds, its previews, must not show. Sources are never changed."""

    blur: str = "none"
    """none; boxes: what a table says; faces: those that a detector finds (extra ``faces``)."""
    boxes: str | None = None
    """That table: .csv or .parquet with columns file_name, x, y, width, height, in pixels of the upright
    image."""

    def __post_init__(self) -> None:
        """Check types, then the choice. `check_pair` is for when both settings are there."""
        check_types(self, "privacy.")
        check_setting("privacy.blur", self.blur, self.blur in BLURS, f"one of {', '.join(BLURS)}")

    def check_pair(self) -> None:
        """Raise `ConfigError` unless there is a table where one is needed, and only there.

        Not on construction: a command line gives paths last, for they may hold any character.
        """
        is_paired = (self.blur == "boxes") == (self.boxes is not None)
        check_setting("privacy.boxes", self.boxes, is_paired, "given with privacy.blur=boxes, and only then")


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What is written to stderr."""

    format: str = "text"
    """text, or json: one object per line."""

    def __post_init__(self) -> None:
        """Check type and choice."""
        check_types(self, "log.")
        check_setting("log.format", self.format, self.format in ("text", "json"), "text or json")


@dataclass(frozen=True, kw_only=True)
class AutoAnnotateConfig:
    """Everything one run of ``pipelines.auto_annotate`` needs."""

    input: str | None = None
    """Folder, glob, list file, Parquet, tar or video with the images. None: sample photos."""
    output: str | None = None
    """Dataset directory. None: ``outputs/<input name>-<model>``."""
    model: ModelConfig = field(default_factory=ModelConfig)
    image_table: str | None = None
    """Table with what is known of the images: .csv or .parquet with file_name, as the dataset has it, and
    some of licence, attribution, source_url and source_key."""
    amg: AmgConfig = field(default_factory=AmgConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    video: VideoConfig = field(default_factory=VideoConfig)
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    partition: Partition = field(default_factory=Partition)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    log: LogConfig = field(default_factory=LogConfig)
    shard_size: int | None = None
    """Images per shard: what is lost at most when a worker dies. None: 500, for small inputs fewer."""
    limit: int | None = None
    """Annotate only the first so many images of the sorted listing."""
    sample: float | None = None
    """Annotate only this fraction of the images, drawn with ``seed``."""
    seed: int = 0
    """Of the sampling; nothing else is random."""
    max_failed_fraction: float = 0.05
    """Exit with 3 if more than this fraction of the images failed."""
    on_input_change: str = "ignore"
    """If the output's dataset was begun with other images. ignore: new ones are left out, with a warning, and
    another input, limit or sample is refused. error: any change is. extend: new ones are appended to it."""
    retry_failed: bool = False
    """Make anew the shards with images that failed for a reason that may pass: unreadable, vanished, changed,
    timeout, oom and crashes."""
    previews: int = 8
    """Overlay pictures to draw, at most."""
    input_column: str | None = None
    """Column of Parquet that holds the images, as bytes or paths. None: one of the usual names."""
    input_incomplete: str = "refuse"
    """refuse, or accept: annotate the whole images of a tar or video of which a part is missing."""

    def __post_init__(self) -> None:
        """Check types, then ranges."""
        check_types(self)
        if self.shard_size is not None:
            check_setting("shard_size", self.shard_size, self.shard_size >= 1, "at least 1")
        if self.limit is not None:
            check_setting("limit", self.limit, self.limit >= 1, "at least 1")
        if self.sample is not None:
            check_setting("sample", self.sample, 0 < self.sample <= 1, "in (0, 1]")
        fraction, part, answer = self.max_failed_fraction, self.partition, self.on_input_change
        check_setting("max_failed_fraction", fraction, 0 <= fraction <= 1, "in [0, 1]")
        is_known = answer in ("error", "ignore", "extend")
        check_setting("on_input_change", answer, is_known, "error, ignore or extend")
        check_setting("previews", self.previews, self.previews >= 0, "at least 0")
        is_choice = self.input_incomplete in ("refuse", "accept")
        check_setting("input_incomplete", self.input_incomplete, is_choice, "refuse or accept")
        check_types(part, "partition.")
        check_setting("partition.count", part.count, part.count >= 1, "at least 1")
        check_setting("partition.index", part.index, 0 <= part.index < part.count, "below partition.count")
