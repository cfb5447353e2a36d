"""Hostile run-length encodings against our checks, with pycocotools as the oracle of what they let through.

pycocotools itself never sees an encoding that was refused: it would read and write out of bounds.
"""

import random
import statistics
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco

from sam_engine.errors import RleError
from sam_engine.ops.rle import area_of, bbox_of, counts_to_runs, decode_counts, decode_runs, encode_mask

from .fuzzing import Step, fuzz, serve
from .result import Result

DECODED_PIXELS = 2**20
"""Larger masks are compared by area and box alone."""
SIDES = (0, 1, 2, 5, 50, 60, 65_535, 65_536, 65_537, 2**31, 2**32 - 1, 2**32, 2**32 + 10, 2**63, -1, -50)
ODD_SIZES: tuple[Any, ...] = (
    (), (5,), (5, 5, 5), ("5", 5), (5.0, 5), (None, 5), (True, 5), "55", (np.int64(50), np.int32(60)),
)  # fmt: skip
SPEED_SIZE = (1500, 2250)
SPEED_ROUNDS = 30


@cache
def sound_encodings() -> tuple[tuple[tuple[int, int], bytes], ...]:
    """Return size and counts of masks with few and many, short and long runs."""
    source = np.random.default_rng(0)
    found = []
    for height, width in ((50, 60), (7, 9), (120, 33), (1, 50), (60, 1), (2000, 3000)):
        y, x = np.mgrid[:height, :width]
        disc = (y / height - 0.5) ** 2 + (x / width - 0.5) ** 2 < 0.1
        masks = [disc] if height * width > 10**6 else [disc, ~disc, source.random((height, width)) < 0.3]
        found += [((height, width), encode_mask(mask).encode()) for mask in masks]
    return tuple(found)


def make_input(seed: int, number: int) -> tuple[str, Any, Any]:
    """Return kind, counts and size of input ``number`` of a seed."""
    source = random.Random(f"{seed}/{number}")
    size, sound = source.choice(sound_encodings())
    counts: Any = bytearray(sound)
    kind = ("sound", "characters", "swapped", "cut", "noise", "bytes", "numbers", "size", "text")[number % 9]
    if kind == "characters":
        for _ in range(source.randrange(1, 4)):
            counts[source.randrange(len(counts))] = source.randrange(48, 112)
    elif kind == "swapped":  # the sum may stay right
        for _ in range(source.randrange(1, 3)):
            a, b = source.randrange(len(counts)), source.randrange(len(counts))
            counts[a], counts[b] = counts[b], counts[a]
    elif kind == "cut":
        start = source.randrange(len(counts))
        counts = counts[start:] if source.random() < 0.5 else counts[:start]
    elif kind == "noise":
        counts = bytearray(source.randrange(48, 112) for _ in range(source.randrange(60)))
    elif kind == "bytes":
        counts = bytearray(source.randbytes(source.randrange(60)))
    elif kind == "numbers":
        counts, size = _numbers(source)
    elif kind == "size":
        size = source.choice((*ODD_SIZES, (source.choice(SIDES), source.choice(SIDES)), size[::-1]))
    elif kind == "text":
        text = "".join(
            chr(source.choice((source.randrange(48, 112), 0x65E5, 0xDCFF, 0x1F600))) for _ in range(9)
        )
        counts = source.choice((text, sound.decode(), "", sound + b"\0", sound * 2))
    return kind, bytes(counts) if isinstance(counts, bytearray) else counts, size


def _numbers(source: random.Random) -> tuple[bytearray, tuple[int, int]]:
    """Return runs near the limits of 32 bits, in a size that they may or may not fill."""
    size = source.choice(((1, 2**32 - 1), (65_535, 65_537), (2**16, 2**15), (50, 60), (3, 7)))
    pixels = size[0] * size[1]
    first = source.choice((0, 1, pixels // 2, pixels - 1, pixels, 2**31, 2**32 - 1, -1))
    second = source.choice((pixels - first, 0, 1, 2**31, -first, 2**34))
    values = [first, second, source.choice((0, pixels - first - second, 5))]
    counts = bytearray()
    for value in values:
        while True:
            group, value = value & 0x1F, value >> 5
            more = value != (-1 if group & 0x10 else 0)
            counts.append(48 + group + (0x20 if more else 0))
            if not more:
                break
    return counts, size


def make_step(seed: int) -> Step:
    """Return what checks one input: its outcome is a kind, and refused or equal."""

    def step(number: int) -> str:
        kind, counts, size = make_input(seed, number)
        try:
            runs = counts_to_runs(counts, size)
        except RleError:
            return f"{kind}: refused"
        return f"{kind}: {_compare(counts, size, runs)}"

    return step


def _compare(counts: str | bytes, size: tuple[int, int], runs: np.ndarray) -> str:
    """Return equal, or what pycocotools says differently."""
    text = counts.encode() if isinstance(counts, str) else counts
    encoded = {"size": [int(side) for side in size], "counts": text}
    if int(coco.area(encoded)) != area_of(runs):
        return "other area"
    if size[0] * size[1] <= DECODED_PIXELS:
        mask = decode_runs(runs, (int(size[0]), int(size[1])))
        if not np.array_equal(mask, coco.decode(encoded)):
            return "other mask"
        if mask.any():
            x, y, w, h = bbox_of(runs, (int(size[0]), int(size[1])))
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = (columns[0], rows[0], columns[-1] - columns[0], rows[-1] - rows[0])
            if (x, y, w, h) != box:
                return "other box"
        return "equal"
    return "equal in area"


def run_rle(_work: Path, count: int, seed: int) -> Result:
    """Check hostile encodings; a crash, or a difference to pycocotools, is a violation."""
    found = fuzz("rle", 0, count, seed)
    result = Result(campaign="rle", injected=count, violations=list(found.crashes))
    for key, number in found.outcomes.items():
        kind, _, outcome = key.partition(": ")
        result.by_kind[kind] += number
        result.outcomes[outcome or kind] += number
        if outcome.startswith("other"):
            result.violations.append(f"seed {seed}: {number} x {kind} have an {outcome}")
    ours, theirs = decoding_times()
    times = f"{ours * 1e3:.2f} and {theirs * 1e3:.2f} ms of CPU time"
    result.details = {
        "slowest": f"{found.slowest_s:.2f} s of CPU",
        "peak": f"{found.peak_bytes / 2**20:.0f} MB",
        "decoding": f"{theirs / ours:.1f} times as fast as pycocotools ({times})",
    }
    return result


def decoding_times() -> tuple[float, float]:
    """Return the median CPU seconds of our decoder and of pycocotools for an ellipse, taken in turns."""
    height, width = SPEED_SIZE
    y, x = np.mgrid[:height, :width]
    counts = encode_mask(((y - 700) / 300) ** 2 + ((x - 1100) / 500) ** 2 < 1)
    encoded = {"size": [height, width], "counts": counts.encode()}
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(SPEED_ROUNDS):
        for taken, decode in zip(
            seconds, (lambda: decode_counts(counts, SPEED_SIZE), lambda: coco.decode(encoded)), strict=True
        ):
            started = time.process_time()
            decode()
            taken.append(time.process_time() - started)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


if __name__ == "__main__":
    serve(make_step)
