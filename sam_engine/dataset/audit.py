"""How good a dataset is, by people who looked at a sample of it: what is drawn, what they said, what follows.

Of the images that are drawn a person corrects, accepts or deletes every mask (the log of corrections), and
says how many things have none (`say_missing`). The automatic and the corrected masks are then compared.

Source: Kirillov et al. 2023, "Segment Anything", section 5: 500 images were drawn, all their masks corrected
by hand, and 94 % of the pairs had an IoU above 0.9, 97 % above 0.75.
"""

import json
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sam_engine.dataset.corrections import Correction, apply_corrections, in_force, is_exhaustive
from sam_engine.dataset.reader import Dataset
from sam_engine.dataset.schema import annotation_id
from sam_engine.errors import ConfigError, InputError, ShardError
from sam_engine.ops.rle import mask_ious
from sam_engine.storage.store import Store
from sam_engine.structures import ImageRecord, ImageStatus

SAMPLE = "audit/sample.json"
MISSING_PREFIX = "audit/missing/"
MAX_MISSING = 100_000
"""Things that somebody may say are missing of one image."""
IOU_EDGES = tuple(round(0.05 * step, 2) for step in range(21))
"""Of the histogram."""
MARKS = (0.9, 0.75)
"""IoUs of the paper."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The images that are to be judged."""

    fingerprint: str
    """Of the dataset."""
    seed: int
    image_ids: tuple[int, ...]
    """In the order that they are judged in, which is by chance: who stops early has a sample, too."""
    num_images: int
    """That it was drawn from: all that were annotated."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of one automatic mask."""

    image_id: int
    mask_id: int
    iou: float | None
    """With the mask that a person left; 1 where it was left as it was, None where it was deleted."""
    corrected: bool


def draw_sample(dataset: Dataset, *, num_images: int, seed: int) -> Sample:
    """Draw images that were annotated, each as likely as any other, and keep the sample with the dataset.

    Raises:
        ConfigError: There are not so many, or the dataset has another sample.
        ShardError: It is damaged.
        StorageError: It cannot be written.
    """
    ok = pa.array([ImageStatus.OK.value, ImageStatus.OK_EMPTY.value])
    ids = [
        table["image_id"].filter(pc.is_in(table["status"].cast(pa.string()), ok)).to_numpy()
        for table in dataset.tables(["image_id", "status"])
    ]
    annotated = np.concatenate(ids) if ids else np.zeros(0, np.int64)
    if not 1 <= num_images <= len(annotated):
        raise ConfigError(f"--sample is {num_images}; the dataset has {len(annotated)} images to draw from")
    drawn = np.random.default_rng(seed).permutation(annotated)[:num_images]
    sample = Sample(
        fingerprint=dataset.fingerprint,
        seed=seed,
        image_ids=tuple(drawn.tolist()),
        num_images=len(annotated),
    )
    document = {
        "version": 1,
        "fingerprint": sample.fingerprint,
        "seed": seed,
        "num_images": sample.num_images,
        "image_ids": drawn.tolist(),
    }
    dataset.store.put_exclusive(SAMPLE, json.dumps(document).encode() + b"\n")
    if read_sample(dataset) != sample:
        raise ConfigError(
            f"{dataset.store.describe()} has another sample: move its {SAMPLE} away to draw anew"
        )
    return sample


def read_sample(dataset: Dataset) -> Sample:
    """Return the sample that was drawn.

    Raises:
        ConfigError: There is none.
        ShardError: It is damaged, or of another dataset.
    """
    try:
        document = json.loads(dataset.store.read(SAMPLE))
        sample = Sample(
            fingerprint=str(document["fingerprint"]),
            seed=int(document["seed"]),
            image_ids=tuple(int(image_id) for image_id in document["image_ids"]),
            num_images=int(document["num_images"]),
        )
    except FileNotFoundError as error:
        raise ConfigError(f"{dataset.store.describe()} has no sample: draw one with --sample N") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{SAMPLE} is damaged: {error}") from error
    if sample.fingerprint != dataset.fingerprint:
        raise ShardError(f"{SAMPLE} is of another dataset")
    return sample


def say_missing(store: Store, *, image_id: int, count: int, by: str) -> None:
    """Write down how many things of an image have no mask, besides those that people drew.

    Each saying is an object of its own; of an image the last one counts.

    Raises:
        ValueError: It says nothing.
        StorageError: It could not be written: say it again.
    """
    if type(count) is not int or not 0 <= count <= MAX_MISSING:
        raise ValueError(f"missing is {count!r}; it is a whole number from 0 to {MAX_MISSING}")
    time = datetime.now(UTC)
    line = {"version": 1, "time": time.isoformat(), "by": by, "image_id": image_id, "missing": count}
    stamp = f"{time:%Y%m%dT%H%M%S%f}-{secrets.token_hex(4)}"
    store.put_exclusive(f"{MISSING_PREFIX}{stamp}.json", json.dumps(line).encode() + b"\n")


def read_missing(store: Store) -> dict[int, int]:
    """Return how many things are missing, by image id, where somebody said so.

    Raises:
        InputError: What was said is damaged.
    """
    missing: dict[int, int] = {}
    for name in store.list(MISSING_PREFIX):  # sorted, and names begin with times
        try:
            line = json.loads(store.read(name))
            missing[int(line["image_id"])] = int(line["missing"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{store.describe()}/{name} is damaged: {error}") from error
    return missing


def verdicts(record: ImageRecord, said: Sequence[Correction], *, judged: bool) -> list[Verdict]:
    """Return what people made of an image's masks.

    Args:
        record: As the dataset has it.
        said: Corrections of it, in order.
        judged: Somebody is done with it: masks that nobody touched are right. Else they are left out.

    Raises:
        InputError: The corrections do not fit the image.
    """
    left = {mask.mask_id: mask for mask in apply_corrections(record, said)}
    found = []
    for index, mask in enumerate(record.annotations):
        mask_id = annotation_id(record.image_id, index)
        now = left.get(mask_id)
        iou: float | None = None
        if now is not None:
            if not (judged or now.accepted):
                continue
            pair = [{"size": each.size, "counts": each.counts} for each in (mask, now)]
            iou = 1.0 if mask.counts == now.counts else float(mask_ious(pair[:1], pair[1:])[0, 0])
        found.append(
            Verdict(
                image_id=record.image_id,
                mask_id=mask_id,
                iou=iou,
                corrected=now is not None and now.counts != mask.counts,
            )
        )
    return found


def audit_report(
    dataset: Dataset, sample: Sample, corrections: Mapping[int, Sequence[Correction]]
) -> dict[str, Any]:
    """Return what is known of the sample, as JSON values.

    An image is judged where somebody said what is missing, or that nothing is. Those that are not have no
    part in exhaustiveness; of their masks those count that somebody touched.

    Raises:
        InputError: Corrections do not fit the dataset.
        ShardError: It is damaged.
    """
    said_missing, drawn = read_missing(dataset.store), set(sample.image_ids)
    found: list[Verdict] = []
    num_judged = num_complete = num_right = num_missing = num_masks = 0
    for record in dataset.records():
        if record.image_id not in drawn:
            continue
        said = corrections.get(record.image_id, ())
        judged = record.image_id in said_missing or is_exhaustive(said)
        of_image = verdicts(record, said, judged=judged)
        found += of_image
        num_masks += len(record.annotations)
        if judged:
            added = sum(isinstance(mask.mask_id, str) for mask in apply_corrections(record, said))
            missing = added + said_missing.get(record.image_id, 0)
            num_judged += 1
            num_complete += missing == 0
            num_missing += missing
            num_right += sum(verdict.iou is not None for verdict in of_image)
    ious = np.array([verdict.iou for verdict in found if verdict.iou is not None])
    people = {line.by for image_id in drawn for line in in_force(corrections.get(image_id, ()))}
    return {
        "fingerprint": sample.fingerprint,
        "seed": sample.seed,
        "images": {"annotated": sample.num_images, "sampled": len(drawn), "judged": num_judged},
        "masks": {
            "sampled": num_masks,
            "judged": len(found),
            "left_as_they_were": sum(verdict.iou is not None and not verdict.corrected for verdict in found),
            "corrected": sum(verdict.corrected for verdict in found),
            "deleted": sum(verdict.iou is None for verdict in found),
        },
        "iou": _distribution(ious),
        "iou_of_corrected": _distribution(
            np.array([verdict.iou for verdict in found if verdict.iou is not None and verdict.corrected])
        ),
        "exhaustiveness": {
            "found": num_right,
            "missing": num_missing,
            "share_found": _share(num_right, num_right + num_missing),
            "complete_images": num_complete,
            "share_complete": _share(num_complete, num_judged),
        },
        "people": sorted(people),
    }


def _distribution(ious: NDArray[np.float64]) -> dict[str, Any]:
    """Return how IoUs are spread; shares with the half width of their 95 % interval."""
    counts, _ = np.histogram(ious, bins=np.array(IOU_EDGES))
    above = {}
    for mark in MARKS:
        share = _share(int((ious > mark).sum()), len(ious))
        half = None if share is None else round(1.96 * math.sqrt(share * (1 - share) / len(ious)), 4)
        above[str(mark)] = {"share": share, "plus_minus": half}
    return {
        "pairs": len(ious),
        "mean": round(float(ious.mean()), 4) if len(ious) else None,
        "median": round(float(np.median(ious)), 4) if len(ious) else None,
        "above": above,
        "histogram": {"edges": list(IOU_EDGES), "counts": counts.tolist()},
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
