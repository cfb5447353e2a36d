"""Label Studio's tasks with brush masks, so that they can be corrected there, and what comes back.

A mask is a region of type ``brushlabels``. Its id is ``mask-<id>`` of the annotation, by which it is known
again. Masks are written as annotations: of predictions Label Studio makes copies with ids of their own.

The run lengths are not COCO's. They pack the bytes of an RGBA picture, row by row: 32 bits with the number of
bytes, 5 bits with the size of a word less one (8 bits), 4 times 4 bits with sizes of counts, each less one.
Then blocks: one bit for a run (1) or words one by one (0), two bits for which size the count has, the count
less one, and the word, or as many words as the count says.

Source of the format: ``rle-pack`` of thi.ng/umbrella, which Label Studio's frontend uses.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from sam_engine.errors import InputError
from sam_engine.files import new_file, write_atomically
from sam_engine.formats.each_image import ImagesToWrite, copy_name, name_of, origin_of
from sam_engine.formats.returned import ReturnedImage, ReturnedMask
from sam_engine.formats.source import MALFORMED
from sam_engine.ops.rle import MAX_DECODED_PIXELS, mask_to_runs
from sam_engine.structures import Annotation, ImageRecord

IMAGE_ADDRESS = "/data/local-files/?d=images/"
"""Of the copies, where the local files that Label Studio serves begin at the export's folder."""

_ID_PREFIX = "mask-"
_COUNT_BITS = (3, 4, 8, 16)
_HEADER_BITS = 32 + 5 + 4 * 4
_WORD_BITS = 8


def write_label_studio(images: ImagesToWrite, folder: Path) -> None:
    """Write ``tasks.json``, ``label_config.xml``, and ``images/<image id>.jpg`` where they can be had.

    Masks without pixels are left out.
    """
    write_atomically(folder / "label_config.xml", _config(images.names))
    with new_file(folder / "tasks.json") as file:
        separator = b"["
        for record, masks, jpeg in images.images():
            name = copy_name(record.image_id)
            if jpeg is not None:
                write_atomically(folder / "images" / name, jpeg)
            task = label_studio_task(record, masks, IMAGE_ADDRESS + name)
            file.write(separator + b"\n" + json.dumps(task).encode())
            separator = b","
        file.write(b"[]\n" if separator == b"[" else b"\n]\n")


def _config(names: Sequence[str]) -> str:
    """Return what the project that the tasks are imported to is set up with."""
    labels = "".join(f"<Label value={quoteattr(name)}/>" for name in names)
    return f"""<View>
  <Image name="image" value="$image" zoom="true"/>
  <BrushLabels name="tag" toName="image">{labels}</BrushLabels>
</View>
"""


def label_studio_task(record: ImageRecord, masks: Sequence[Annotation], address: str) -> dict[str, Any]:
    """Return the task of an image with these masks, all in one annotation."""
    return {
        "data": {
            "image": address,
            "image_id": record.image_id,
            "width": record.width,
            "height": record.height,
            **origin_of(record),
        },
        "annotations": [{"result": [_region(mask) for mask in masks if mask.area]}],
    }


def _region(annotation: Annotation) -> dict[str, Any]:
    """Return one mask."""
    height, width = annotation.size
    rle = encode_brush(annotation.mask())
    return {
        "id": f"{_ID_PREFIX}{annotation.id}",
        "type": "brushlabels",
        "from_name": "tag",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": list(rle), "brushlabels": [name_of(annotation.label)]},
        "meta": {"text": [f"predicted IoU {annotation.predicted_iou:.3f}"]},
    }


def read_label_studio(path: Path) -> list[ReturnedImage]:
    """Return what Label Studio's JSON export says of tasks that `export_label_studio` wrote.

    Tasks without an annotation, or whose annotation was skipped, say nothing and do not come back.

    Raises:
        InputError: It is no such file, a task has several annotations, or a region is no brush mask.
    """
    path = path / "tasks.json" if path.is_dir() else path
    try:
        tasks = json.loads(path.read_bytes())
        found = [_read_task(task, f"{path}, task {number}") for number, task in enumerate(tasks)]
    except MALFORMED as error:
        raise InputError(f"{path}: no JSON of Label Studio's with brush masks ({error!r})") from error
    return [image for image in found if image is not None]


def _read_task(task: Mapping[str, Any], place: str) -> ReturnedImage | None:
    """Return the masks of a task; None if nobody says anything about it."""
    annotations = [each for each in task["annotations"] if not each.get("was_cancelled")]
    if not annotations:
        return None
    if len(annotations) > 1:
        raise ValueError(f"{place} has {len(annotations)} annotations; leave the one that holds")
    data = task["data"]
    regions = annotations[0]["result"]
    sizes = {(int(each["original_height"]), int(each["original_width"])) for each in regions}
    sizes |= {(int(data["height"]), int(data["width"]))}
    if len(sizes) > 1:
        raise ValueError(f"{place}: regions of other sizes than the image's")
    [size] = sizes
    return ReturnedImage(
        place=place, image_id=int(data["image_id"]), size=size, masks=[_read_region(r, size) for r in regions]
    )


def _read_region(region: Mapping[str, Any], size: tuple[int, int]) -> ReturnedMask:
    """Return one mask."""
    value, name = region["value"], str(region["id"])
    if value.get("format") != "rle":
        raise ValueError(f"region {name} is of type {region['type']}; brush masks come back")
    if region.get("image_rotation"):
        raise ValueError(f"region {name} is of the image turned by {region['image_rotation']} degrees")
    identifier = int(name.removeprefix(_ID_PREFIX)) if name.startswith(_ID_PREFIX) else None
    runs = mask_to_runs(decode_brush(bytes(value["rle"]), size))
    names = value.get("brushlabels") or [None]
    return ReturnedMask(id=identifier, runs=runs, name=names[0])


def encode_brush(mask: NDArray[np.bool_]) -> bytes:
    """Return an (H, W) mask as Label Studio packs it, opaque white on nothing."""
    runs = mask_to_runs(mask.T) * 4  # of the transpose they go row by row
    longest = 1 << _COUNT_BITS[-1]
    num_blocks = -(-runs // longest)
    values = np.repeat(np.arange(len(runs)) % 2 * 255, num_blocks)
    counts = np.full(len(values), longest)
    counts[np.cumsum(num_blocks)[num_blocks > 0] - 1] = (runs - (num_blocks - 1) * longest)[num_blocks > 0]
    which = np.searchsorted([1 << bits for bits in _COUNT_BITS], counts)
    count_bits = np.array(_COUNT_BITS)[which]
    codes = ((4 + which) << count_bits | (counts - 1)) << _WORD_BITS | values
    lengths = 1 + 2 + count_bits + _WORD_BITS
    rows = (codes << (32 - lengths)).astype(">u4").view(np.uint8).reshape(-1, 4)
    bits = np.unpackbits(rows, axis=1)[np.arange(32) < lengths[:, None]]
    header = mask.size * 4
    for field, width in ((_WORD_BITS, 5), *((bits_of, 4) for bits_of in _COUNT_BITS)):
        header = header << width | (field - 1)
    head = np.array([int(bit) for bit in f"{header:0{_HEADER_BITS}b}"], np.uint8)
    return np.packbits(np.concatenate([head, bits])).tobytes()


def decode_brush(data: bytes, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the (H, W) mask of Label Studio's run lengths: where the alpha channel is not 0.

    Raises:
        ValueError: The data end too early, or are of another size.
    """
    height, width = size
    if not 0 < height * width <= MAX_DECODED_PIXELS or min(size) < 1:
        raise ValueError(f"a mask of {height} x {width} pixels; 1 to {MAX_DECODED_PIXELS} can be")
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    place = 0

    def read(width: int) -> int:
        nonlocal place
        if place + width > len(bits):
            raise ValueError(f"run lengths end after {len(bits)} bits")
        first, last = place // 8, (place + width + 7) // 8
        place += width
        return int.from_bytes(data[first:last], "big") >> (last * 8 - place) & ((1 << width) - 1)

    num_bytes, word_bits = read(32), read(5) + 1
    if (num_bytes, word_bits) != (height * width * 4, _WORD_BITS):
        raise ValueError(
            f"run lengths of {num_bytes} words of {word_bits} bits; {height} x {width} pixels have "
            f"{height * width * 4} of {_WORD_BITS}"
        )
    count_bits = [read(4) + 1 for _ in range(4)]
    rgba = np.zeros(num_bytes, np.uint8)
    done = 0
    while done < num_bytes:
        is_run, count = read(1), read(count_bits[read(2)]) + 1
        if count > num_bytes - done:
            raise ValueError(f"run lengths go on after {num_bytes} bytes")
        if is_run:
            rgba[done : done + count] = read(_WORD_BITS)
        else:
            words = bits[place : place + count * _WORD_BITS]
            if len(words) < count * _WORD_BITS:
                raise ValueError(f"run lengths end after {len(bits)} bits")
            rgba[done : done + count] = np.packbits(words)
            place += count * _WORD_BITS
        done += count
    return rgba.reshape(height, width, 4)[..., 3] > 0
