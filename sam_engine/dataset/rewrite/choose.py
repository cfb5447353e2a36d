"""Which images a sample, a side of a split and a dataset without copies have: the same every time."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sam_engine.dataset.manifest import iter_paths, seeded_hashes
from sam_engine.dataset.rewrite.parents import Parent
from sam_engine.dataset.schema import row_path
from sam_engine.errors import ConfigError
from sam_engine.structures import ImageStatus


def sides(parent: Parent, fractions: Mapping[str, float], seed: int) -> dict[str, NDArray[np.int64]]:
    """Return the image ids of each side of a split, ascending.

    An image's side depends on its bytes, the seed and the fractions: copies of an image are on one side, also
    those in other datasets. Images that were never read go by their paths.

    Args:
        parent: What is split.
        fractions: Of the images by side; they sum to 1, and what they give is near them.
        seed: Of the hashes.

    Raises:
        ConfigError: The fractions do not sum to 1, or one is not above 0.
    """
    if not fractions or min(fractions.values()) <= 0 or abs(sum(fractions.values()) - 1) > 1e-9:
        raise ConfigError(f"fractions are {dict(fractions)}; they must be above 0 and sum to 1")
    # 53 bits: a double holds them all, and is below 1.
    shares = (seeded_hashes(map(_content, parent.scalars()), seed) >> np.uint64(11)) / 2.0**53
    ends = np.cumsum(list(fractions.values()))[:-1]
    side = np.searchsorted(ends, shares, side="right")
    return {name: np.flatnonzero(side == number) for number, name in enumerate(fractions)}


def drawn(
    parent: Parent, *, fraction: float | None = None, count: int | None = None, seed: int = 0
) -> NDArray[np.int64]:
    """Return the image ids of a sample, ascending; what a smaller one has, a larger one of that seed has too.

    Args:
        parent: What is sampled.
        fraction: Of the images, at least one; or give ``count``.
        count: Of images; all if there are fewer.
        seed: Of the drawing, which goes by path: that of ``sample=`` of a run draws the same.

    Raises:
        ConfigError: Both or neither are given, or nothing can be drawn.
    """
    if (fraction is None) == (count is None):
        raise ConfigError("give a fraction or a count")
    if fraction is not None and not 0 < fraction <= 1:
        raise ConfigError(f"fraction is {fraction}; above 0 and up to 1 can be")
    if count is not None and count < 1:
        raise ConfigError(f"count is {count}; at least 1 can be")
    if fraction is not None:
        count = max(1, round(fraction * len(parent.manifest)))
    hashes = seeded_hashes(iter_paths(parent.manifest.table), seed)
    return np.sort(np.argsort(hashes, kind="stable")[:count])


def without_copies(parent: Parent) -> NDArray[np.int64]:
    """Return the image ids that stay where every file's bytes stay once, ascending.

    Of copies the first stays that was annotated, or the first of all. What was never read is no copy.
    """
    kept: dict[str, tuple[bool, int]] = {}
    unread = []
    for row in parent.scalars():
        image_id, sha256 = int(row["image_id"]), row["sha256"]
        if sha256 is None:
            unread.append(image_id)
            continue
        is_failure = ImageStatus(row["status"]).is_failure
        if sha256 not in kept or (kept[sha256][0] and not is_failure):
            kept[sha256] = (is_failure, image_id)
    return np.array(sorted(unread + [image_id for _, image_id in kept.values()]), np.int64)


def _content(row: Mapping[str, object]) -> bytes:
    """Return what an image is told by."""
    return b"sha256 " + str(row["sha256"]).encode() if row["sha256"] is not None else row_path(dict(row))
