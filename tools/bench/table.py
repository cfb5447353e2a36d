"""What `tools.bench` found, and how it is printed. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

OURS, REFERENCE = "sam-engine", "segment_anything"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One line of the table, or two with the reference."""

    model: str
    long_side: int
    """Of the images, in pixels."""
    precision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One generator on all images, from pixels in memory to run lengths in memory."""

    seconds: tuple[float, ...]
    """For each image of each repeat."""
    cpu_seconds: tuple[float, ...]
    """Likewise, of all threads of the process: what other programs do hardly moves it."""
    num_masks: tuple[int, ...]
    """Likewise."""
    encode_s: float
    """Mean for each image, of resizing and the image encoder."""
    decode_s: float
    """Likewise, of the prompt encoder and the mask decoder."""
    post_s: float
    """Likewise, of all else."""
    points_per_batch: int
    """As set, or halved until it fitted into memory."""
    syncs: float | None = None
    """For each image, how often the program waited for the device; None where there is none to wait for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What one process found of one model, size and precision."""

    ours: Timing
    reference: Timing | None
    identical: float | None
    """Share of masks that both found, run for run, of the larger number of masks."""
    survival_iou: float
    """Share of the first image's candidates, for its own 8 x 8 points, that pass on predicted IoU."""
    survival_both: float
    """That pass on stability too."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstPass:
    """One generator on the first image, in a fresh process."""

    peak_bytes: int
    """At most: resident memory of the process, or on CUDA what torch had allocated."""
    cold_start_s: float = 0.0
    """From the start of the process until the image was done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesPass:
    """All image files to one shard of Parquet, once, by the worker that makes datasets."""

    num_images: int
    num_masks: int
    seconds: float
    """From the first file to the published shard; the model was loaded and had seen an image."""
    stage_seconds: Mapping[str, float]
    notes: Sequence[str]
    """What had to give way, as memory that ran out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """All that is known of one case."""

    case: Case
    comparison: Comparison
    first: Mapping[str, FirstPass] = field(default_factory=dict)
    """By engine; empty if it was not asked for."""
    files: FilesPass | None = None
    """None if it was not asked for, or this machine lacks what reads images and writes Parquet."""


COLUMNS = (
    "model",
    "px",
    "precision",
    "engine",
    "files: images/s",
    "files: masks/s",
    "images/s",
    "masks/s",
    "p50 s",
    "p90 s",
    "CPU s",
    "masks",
    "encode s",
    "decode s",
    "post s",
    "peak MiB",
    "syncs",
    "cold start s",
    "floor s",
    "ratio",
    "CPU ratio",
    "identical",
)


def describe(machine: Mapping[str, str], results: Sequence[Result]) -> str:
    """Return all results as Markdown: what they depend on, the table, and what explains it."""
    lines = [f"- {name}: {value}" for name, value in machine.items()]
    lines += ["", _row(COLUMNS), _row(["---"] * len(COLUMNS))]
    for result in results:
        lines.append(_row(_cells(result, OURS, result.comparison.ours)))
        if result.comparison.reference is not None:
            lines.append(_row(_cells(result, REFERENCE, result.comparison.reference)))
    lines.append("")
    for result in results:
        lines += [f"- {_name(result.case)}: {remark}" for remark in _remarks(result)]
    return "\n".join(lines)


def _cells(result: Result, engine: str, timing: Timing) -> list[str]:
    """Return one line of the table; a dash stands where there is nothing to tell."""
    total_s, total_cpu_s = sum(timing.seconds), sum(timing.cpu_seconds)
    is_ours, comparison = engine == OURS, result.comparison
    p50, p90 = np.percentile(timing.seconds, [50, 90])
    files, first = result.files if is_ours else None, result.first.get(engine)
    ratio = cpu_ratio = None
    if is_ours and comparison.reference is not None:
        ratio = f"{sum(comparison.reference.seconds) / total_s:.2f}"
        cpu_ratio = f"{sum(comparison.reference.cpu_seconds) / total_cpu_s:.2f}"
    identical = comparison.identical if is_ours else None
    cells = [
        result.case.model,
        str(result.case.long_side),
        result.case.precision if is_ours else "fp32",
        engine,
        files and _short(files.num_images / files.seconds),
        files and _short(files.num_masks / files.seconds),
        _short(len(timing.seconds) / total_s),
        _short(sum(timing.num_masks) / total_s),
        _short(p50),
        _short(p90),
        _short(total_cpu_s / len(timing.cpu_seconds)),
        f"{np.mean(timing.num_masks):.0f}",
        _short(timing.encode_s),
        _short(timing.decode_s),
        _short(timing.post_s),
        first and f"{first.peak_bytes / 2**20:.0f}",
        None if timing.syncs is None else f"{timing.syncs:.0f}",
        first and _short(first.cold_start_s),
        _short(comparison.floor_s) if is_ours else None,
        ratio,
        cpu_ratio,
        None if identical is None else f"{identical:.1%}",
    ]
    return [cell or "-" for cell in cells]


def _remarks(result: Result) -> list[str]:
    """Return what stands below the table, in a sentence or two each."""
    comparison = result.comparison
    remarks = [
        f"an image takes at least {comparison.encoder_gflop:.3g} GFLOP to encode and "
        f"{comparison.decoder_gflop:.3g} to decode; matrix products ran at {comparison.encoder_rate:.0f} and "
        f"{comparison.decoder_rate:.0f} GFLOP/s. Of the first image's candidates, "
        f"{comparison.survival_iou:.0%} passed on predicted IoU, {comparison.survival_both:.0%} on both."
    ]
    if result.files is not None:
        stages = ", ".join(f"{name} {_short(value)} s" for name, value in result.files.stage_seconds.items())
        remarks.append(f"{result.files.num_images} files to Parquet: {stages}.")
        remarks += result.files.notes
    for engine, timing in ((OURS, comparison.ours), (REFERENCE, comparison.reference)):
        if timing is not None:
            remarks.append(f"{engine} decoded {timing.points_per_batch} points at once.")
    return remarks


def _name(case: Case) -> str:
    return f"{case.model}, {case.long_side} px, {case.precision}"


def _short(value: float) -> str:
    """Return three digits."""
    return f"{value:.3g}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
