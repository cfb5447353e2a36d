"""Many images through one process, watched from outside: what grows with them, leaks."""

import dataclasses
import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sam_engine.build_sam import sam_model_registry
from sam_engine.dataset.reader import open_dataset
from sam_engine.modeling.segmenter import Segmenter
from tests.helpers.process_tree import descendants

from .result import Order, Result
from .scene import Scene, fast_model, make_scene, wait

SHARD_SIZE = 50
MAX_BYTES_PER_IMAGE = 1024.0
"""Of resident memory, of the run and of the processes it has started: the slope over all but the start."""
SAMPLE_EVERY_S = 0.2
SLACK = 2
"""Descriptors, threads and processes that may be open at one moment and not at another."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What a process holds at one moment."""

    num_images: int
    """Published so far."""
    rss: int
    """Bytes."""
    children_rss: int
    """Bytes, of all processes it has started."""
    descriptors: int
    threads: int
    children: int
    shared_memory: int
    """Entries of /dev/shm."""


def run_soak(work: Path, order: Order, *, isolate: bool = False, tiny: bool = False) -> Result:
    """Annotate so many images in one process without Ray, and judge what it held on the way.

    Args:
        work: Folder for all files.
        order: 10,000 images if not said. They tell a kB per image; a few hundred only something gross.
        isolate: Decode in child processes.
        tiny: With the bundled model on photo-sized noise, instead of a fake on thumbnails; then 200.
    """
    num_images = order.limit or (200 if tiny else 10_000)
    result = Result(campaign="soak" + (" tiny" if tiny else "") + (" isolated" if isolate else ""))
    scene = _soak_scene(work, num_images, isolate=isolate, tiny=tiny)
    before = set(os.listdir("/dev/shm"))

    def plant() -> None:
        signal.alarm(0)  # it may take its time
        if order.plant is not None:
            order.plant()

    pid = scene.start(plant, model=_load_tiny if tiny else fast_model)
    samples: list[Sample] = []
    while (sample := _sample(scene, pid, before)) is not None:
        samples.append(sample)
        time.sleep(SAMPLE_EVERY_S)
    code = wait(pid)
    result.injected = num_images
    result.by_kind["images"] = num_images
    result.outcomes[f"runs that ended with exit {code}"] += 1
    if code:
        result.violations.append(f"the run ended with {code}: {scene.log.read_text().splitlines()[-1:]}")
        return result
    if (rows := open_dataset(scene.output).num_images) != num_images:
        result.violations.append(f"{num_images} images have {rows} rows")
    judge(samples, result)
    left = sorted(set(os.listdir("/dev/shm")) - before)
    result.violations += [f"/dev/shm/{name} was left behind" for name in left]
    return result


def judge(samples: Sequence[Sample], result: Result) -> None:
    """Add figures of a run, and what grew; the first fifth, where things are loaded, does not count."""
    last = samples[-1].num_images if samples else 0
    samples = [sample for sample in samples if sample.num_images >= last / 5]
    if len({sample.num_images for sample in samples}) < 3:
        result.violations.append(f"{len(samples)} samples are too few to say anything; more images would do")
        return
    images = np.array([sample.num_images for sample in samples], float)
    for name, label in (("rss", "memory"), ("children_rss", "children's memory")):
        slope = float(np.polyfit(images, [getattr(sample, name) for sample in samples], 1)[0])
        result.details[f"{label} slope"] = f"{slope:.0f} B/image"
        if slope > MAX_BYTES_PER_IMAGE:
            result.violations.append(f"{label} grew by {slope:.0f} bytes an image")
    result.details["memory"] = f"{max(sample.rss for sample in samples) / 2**20:.0f} MiB at most"
    half = len(samples) // 2
    for name in ("descriptors", "threads", "children", "shared_memory"):
        first, then = (max(getattr(s, name) for s in part) for part in (samples[:half], samples[half:]))
        result.details[name.replace("_", " ")] = f"{first} -> {then}"
        if then > first + SLACK:
            result.violations.append(f"{name} grew from {first} to {then}")


def _soak_scene(work: Path, num_images: int, *, isolate: bool, tiny: bool) -> Scene:
    """Return a scene with so many photos, of a few kinds and sizes."""
    scene = make_scene(work / "small")
    photos = work / "photos"
    photos.mkdir()
    kinds = [path.read_bytes() for path in sorted((work / "small" / "photos").iterdir())]
    if tiny:
        dice = np.random.default_rng(0)
        for number in range(8):
            noise = dice.integers(0, 256, (6 + number, 8, 3), np.uint8)
            Image.fromarray(noise).resize((640, 480 + 16 * number)).save(work / "noise.jpg")
            kinds[number] = (work / "noise.jpg").read_bytes()
        kinds = kinds[:8]
    order = random.Random(0)
    for number in range(num_images):
        (photos / f"{number:06d}.jpg").write_bytes(order.choice(kinds))
    amg = dataclasses.replace(
        scene.config.amg, points_per_side=8, pred_iou_thresh=0.4, stability_score_thresh=0.75
    )
    config = dataclasses.replace(
        scene.config,
        amg=amg if tiny else scene.config.amg,
        input=str(photos),
        output=str(work / "out"),
        shard_size=min(SHARD_SIZE, max(1, num_images // 20)),
        decode=dataclasses.replace(scene.config.decode, isolate=isolate),
    )
    return Scene(root=work, config=config, reference={})


def _load_tiny() -> Segmenter:
    """Return the bundled model."""
    return sam_model_registry["tiny"]()


def _sample(scene: Scene, pid: int, before: set[str]) -> Sample | None:
    """Return what the process holds; None if it has ended."""
    process = Path(f"/proc/{pid}")
    try:
        if process.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return None
        children = descendants(pid)
        return Sample(
            num_images=len(list((scene.output / "annotations").glob("*.parquet"))) * scene.config.shard_size,
            rss=_rss(pid),
            children_rss=sum(_rss(child) for child in children),
            descriptors=len(os.listdir(process / "fd")),
            threads=len(os.listdir(process / "task")),
            children=len(children),
            shared_memory=len(set(os.listdir("/dev/shm")) - before),
        )
    except (FileNotFoundError, ProcessLookupError):
        return None


def _rss(pid: int) -> int:
    """Return the resident memory of a process in bytes; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0
