"""Masks over their images, as pictures to look at. No torch."""

import io
import logging
from collections.abc import Iterator, Mapping
from itertools import accumulate

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam_engine.config import DecodeConfig
from sam_engine.dataset.manifest import Manifest
from sam_engine.dataset.originals import Hide
from sam_engine.dataset.reader import read_tables
from sam_engine.dataset.schema import table_to_records
from sam_engine.dataset.shards import ShardSummary, shard_name
from sam_engine.errors import ConfigError, ImageError
from sam_engine.images.isolated import open_decoder
from sam_engine.inputs.source import InputSource
from sam_engine.ops.rle import decode_counts
from sam_engine.storage.store import Store
from sam_engine.structures import ImageRecord, ImageStatus

log = logging.getLogger(__name__)

PREVIEWS_PREFIX = "previews/"
MAX_SIDE = 1024
"""Longer sides are scaled down to this, in pixels."""
OPACITY = 0.45
OUTLINE_OPACITY = 0.9
JPEG_QUALITY = 88

_GOLDEN_ANGLE = 0.61803398875  # successive hues are far apart, however many there are


def choose_images(summaries: Mapping[int, ShardSummary], count: int) -> dict[int, list[int]]:
    """Choose images with masks, spread evenly over the dataset.

    Args:
        summaries: Published shards by index.
        count: How many, at most.

    Returns:
        For each shard concerned, which of its images with masks to take, counting from 0.
    """
    indices = sorted(summaries)
    numbers = [summaries[index].statuses.get(ImageStatus.OK, 0) for index in indices]
    ends = list(accumulate(numbers))
    total = ends[-1] if ends else 0
    count = min(count, total)
    chosen: dict[int, list[int]] = {}
    for number in range(count):
        position = (2 * number + 1) * total // (2 * count)  # the middle of each of ``count`` equal parts
        place = next(place for place, end in enumerate(ends) if position < end)
        chosen.setdefault(indices[place], []).append(position - (ends[place] - numbers[place]))
    return chosen


def draw_previews(
    store: Store,
    summaries: Mapping[int, ShardSummary],
    manifest: Manifest,
    source: InputSource,
    decode: DecodeConfig,
    count: int,
    hide: Hide | None = None,
) -> Iterator[tuple[str, bytes]]:
    """Yield object name and JPEG of up to ``count`` overlays; what cannot be read now is left out.

    What ``hide`` cannot hide, such as a box outside of the image, is left out with a warning.
    """
    with open_decoder(decode) as decode_file:
        for index, places in choose_images(summaries, count).items():
            for record in _records_with_masks(store, index, places):
                [entry] = manifest.entries(record.image_id, record.image_id + 1)
                try:
                    pixels = decode_file(source.read(entry, decode)).pixels
                    if pixels.shape[:2] != (record.height, record.width):
                        continue
                    shown = pixels if hide is None else hide(record, pixels)
                except ImageError:
                    continue
                except ConfigError as error:
                    log.warning("no preview of image %d: %s", record.image_id, error)
                else:
                    yield f"{PREVIEWS_PREFIX}{record.image_id:09d}.jpg", _to_jpeg(draw_masks(shown, record))


def draw_masks(pixels: NDArray[np.uint8], record: ImageRecord, max_side: int = MAX_SIDE) -> NDArray[np.uint8]:
    """Return the image with its masks over it: translucent fills of many colours, darker outlines.

    Large masks are drawn first, so that what lies in them stays visible. What a mask costs is its part of
    the picture, so that a thousand are drawn in seconds.

    Args:
        pixels: (H, W, 3) uint8 RGB, upright.
        record: Of the same size.
        max_side: Longer sides are scaled down to this, in pixels.

    Returns:
        (h, w, 3) uint8 RGB, with its longer side at most ``max_side``.
    """
    height, width = pixels.shape[:2]
    scale = min(1.0, max_side / max(height, width))
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    canvas = cv2.resize(pixels, (w, h), interpolation=cv2.INTER_AREA).astype(np.float32)
    # Which pixel of the image lies in the middle of each of the picture.
    rows, columns = (np.arange(h) + 0.5) * height / h, (np.arange(w) + 0.5) * width / w
    for number, annotation in sorted(enumerate(record.annotations), key=lambda item: -item[1].area):
        mask = decode_counts(annotation.counts, annotation.size)
        x, y, box_w, box_h = annotation.bbox
        top, bottom = np.searchsorted(rows, (y, y + box_h + 1))
        left, right = np.searchsorted(columns, (x, x + box_w + 1))
        chosen = np.ix_(rows[top:bottom].astype(np.intp), columns[left:right].astype(np.intp))
        small = np.ascontiguousarray(mask[chosen]).view(np.uint8)
        if small.any():
            _paint(canvas[top:bottom, left:right], small, _colour(number))
    return canvas.round().clip(0, 255).astype(np.uint8)


def _paint(canvas: NDArray[np.float32], mask: NDArray[np.uint8], colour: NDArray[np.float32]) -> None:
    """Paint a mask of 0 and 1 over a canvas of its size, in place."""
    inside = mask > 0
    canvas[inside] += OPACITY * (colour - canvas[inside])
    outline = np.zeros_like(mask)
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(outline, contours, -1, 1, thickness=1)
    edge = outline > 0
    canvas[edge] += OUTLINE_OPACITY * (0.6 * colour - canvas[edge])


def _records_with_masks(store: Store, index: int, places: list[int]) -> Iterator[ImageRecord]:
    """Yield some of a shard's images with masks, counted in order of their ids."""
    wanted, place = set(places), 0
    for table in read_tables(store, shard_name(index)):
        for record in table_to_records(table):
            if record.status is ImageStatus.OK:
                if place in wanted:
                    yield record
                place += 1


def _colour(number: int) -> NDArray[np.float32]:
    """Return the RGB colour of the ``number``-th mask, in [0, 255]: bright, and unlike its neighbours'."""
    hue = number * _GOLDEN_ANGLE % 1.0
    value = np.array([[[round(hue * 179), 200, 255]]], np.uint8)  # OpenCV's 8-bit HSV
    return np.asarray(cv2.cvtColor(value, cv2.COLOR_HSV2RGB)[0, 0], dtype=np.float32)


def _to_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=JPEG_QUALITY)
    return data.getvalue()
