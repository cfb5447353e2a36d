"""G: rows of the benchmark: images a second, stages, waits, peak, and the share of what is possible."""

import importlib.util
import time
from dataclasses import replace
from functools import partial
from types import ModuleType

import torch

from sam_engine.amg.mask_finder import MaskFinder
from sam_engine.errors import ConfigError
from sam_engine.modeling.precision import HALF_DTYPES, cuda_tf32, image_dtype

from ...reference import import_segment_anything
from ..meters import measure_matmul_rate, synchronise
from ..run import measure
from .ledger import Finding, Step
from .subjects import Subjects, find_in_pairs

WANTED = {"vit_b": 110.0, "vit_h": 50.0}
"""Images a second with 32 x 32 points in half precision."""
PRECISIONS = ("fp16", "bf16", "tf32", "fp32")


def steps(subjects: Subjects) -> list[Step]:
    """Return the steps of the letter."""
    names = [(name, precision) for precision in PRECISIONS for name in ("vit_b", "vit_h", "tiny")]
    if subjects.is_dry:
        names = [("vit_b", "fp32"), ("tiny", "fp32")]
    rows = [Step(letter="G", name=f"{n}, {p}", work=partial(row, subjects, n, p)) for n, p in names]
    beside = Step(letter="G", name="vit_b beside segment_anything", work=partial(reference, subjects))
    return [*rows, beside]


def row(subjects: Subjects, name: str, precision: str, found: Finding) -> None:
    """Find the masks of several images, one after another and by stages."""
    sam = subjects.model(name, precision)
    config = subjects.config(name)
    images = [subjects.image(683, 1024, seed=i) for i in range(2 if subjects.is_dry else 4)]
    finder = MaskFinder(sam, config)
    find_in_pairs(finder, images[:1])
    if subjects.is_cuda:
        torch.cuda.reset_peak_memory_stats(subjects.device)
    many = images * (1 if subjects.is_dry else 6)
    synchronise(subjects.device)
    start = time.perf_counter()
    masks = find_in_pairs(finder, many)
    seconds = (time.perf_counter() - start) / len(many)
    found.facts |= {"images/s": 1 / seconds, "ms": 1000 * seconds, "masks": sum(map(len, masks)) / len(masks)}
    if subjects.is_cuda:
        took = torch.cuda.max_memory_allocated(subjects.device) - torch.cuda.memory_allocated(subjects.device)
        found.facts["peak beside the models, GB"] = took / 1e9
    comparison = measure(
        sam,
        subjects.architecture(name),
        images[:2],
        replace(config),
        repeats=1,
        rates=_rates(subjects, precision),
    )
    ours = comparison.ours
    found.facts |= {"one at a time, ms": 1000 * sum(ours.seconds) / len(ours.seconds)}
    found.facts |= {"encode, ms": 1000 * ours.encode_s, "decode, ms": 1000 * ours.decode_s}
    found.facts |= {"post, ms": 1000 * ours.post_s, "waits": ours.syncs}
    if not subjects.is_dry:
        found.facts |= {"floor, ms": 1000 * comparison.floor_s, "of the floor": comparison.floor_s / seconds}
    found.hold("an image is waited for twice", ours.syncs in (None, 2))
    if name in WANTED and precision == "fp16" and not subjects.is_dry:
        found.hold(f"{WANTED[name]:.0f} images a second", 1 / seconds >= WANTED[name])


def reference(subjects: Subjects, found: Finding) -> None:
    """One image of vit_b in float32, with the package of the original in turn, where there is one."""
    package = _package(subjects, found)
    if package is None:
        return
    sam, config = subjects.model("vit_b"), subjects.config("vit_b")
    comparison = measure(
        sam,
        subjects.architecture("vit_b"),
        [subjects.image(683, 1024)],
        config,
        repeats=1,
        rates=_rates(subjects, "fp32"),
        package=package,
    )
    assert comparison.reference is not None
    ours, theirs = comparison.ours.seconds[0], comparison.reference.seconds[0]
    found.facts |= {"ours, ms": 1000 * ours, "reference, ms": 1000 * theirs, "times as fast": theirs / ours}
    found.facts["identical masks"] = comparison.identical


def _package(subjects: Subjects, found: Finding) -> ModuleType | None:
    """Return segment_anything; None, and say so, where it cannot be had."""
    if subjects.is_dry or importlib.util.find_spec("segment_anything") is None:
        found.facts["reference"] = "not at hand"
        return None
    try:
        return import_segment_anything(subjects.device)
    except ConfigError as error:
        found.facts["reference"] = str(error)
        return None


def _rates(subjects: Subjects, precision: str) -> tuple[float, float]:
    """Return the GFLOP/s of matrix products for encoder and decoder."""
    dtype = HALF_DTYPES.get(precision, torch.float32)
    if subjects.is_dry:
        return 1.0, 1.0
    with cuda_tf32(subjects.device, precision == "tf32"):
        encoder = measure_matmul_rate(subjects.device, dtype)
    with cuda_tf32(subjects.device, False):
        decoder_dtype = image_dtype(precision, subjects.device) or torch.float32
        return encoder, measure_matmul_rate(subjects.device, decoder_dtype)
