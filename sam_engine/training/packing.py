"""From SA-1B-format tars to one compact file that a bare machine can train from.

The file is an ``.npz``: JPEG bytes and mask runs of all images, each in one long array with offsets.
"""

import csv
import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam_engine.errors import ConfigError, InputError
from sam_engine.ops.rle import mask_to_runs
from sam_engine.training.config import DataConfig
from sam_engine.training.regions import colour_regions


@dataclass(frozen=True, kw_only=True)
class TarSample:
    """One image of an SA-1B-format tar with its masks."""

    image_id: int
    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    masks: list[NDArray[np.bool_]]
    """(H, W) each."""


def read_tar(path: str | Path, *, limit: int | None = None) -> Iterator[TarSample]:
    """Yield the images of an SA-1B-format tar with decoded masks, in the order of the archive.

    Raises:
        InputError: ``path`` does not exist, is no tar, or pairs no image with annotations.
    """
    from pycocotools import mask as mask_utils

    try:
        archive = tarfile.open(path)  # noqa: SIM115 - closed below, after iteration
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"{path}: cannot be read as a tar archive ({error})") from error
    with archive:
        members = {member.name: member for member in archive.getmembers()}
        stems = [name[: -len(".jpg")] for name in members if name.endswith(".jpg")]
        stems = [stem for stem in stems if f"{stem}.json" in members][:limit]
        if not stems:
            raise InputError(f"{path}: holds no sa_<id>.jpg with sa_<id>.json beside it")
        for stem in stems:
            record = json.loads(_read_member(archive, members[f"{stem}.json"]))
            image = Image.open(io.BytesIO(_read_member(archive, members[f"{stem}.jpg"]))).convert("RGB")
            masks = [mask_utils.decode(a["segmentation"]).astype(bool) for a in record["annotations"]]
            yield TarSample(image_id=int(record["image"]["image_id"]), image=np.asarray(image), masks=masks)


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Return the bytes of a regular file in a tar."""
    file = archive.extractfile(member)
    if file is None:
        raise InputError(f"{member.name} in the tar archive is no regular file")
    return file.read()


def pack(config: DataConfig, path: str | Path) -> None:
    """Write the packed copy of ``config.tars``, reduced and filtered as configured.

    Raises:
        ConfigError: Licences are asked for without a table that has them.
        InputError: A tar or the table is unusable, or no image passes the filter.
    """
    allowed = _allowed_ids(config)
    jpegs: list[bytes] = []
    runs: list[NDArray[np.uint32]] = []
    columns: dict[str, list[int]] = {
        name: [] for name in ("image_id", "source", "height", "width", "num_masks")
    }
    for source, tar in enumerate([*config.tars, *config.region_tars]):
        for sample in read_tar(tar):
            if allowed is not None and sample.image_id not in allowed:
                continue
            small = _shrink(Image.fromarray(sample.image), config.short_side)
            if source < len(config.tars):
                masks = [_shrink_mask(mask, small.size) for mask in sample.masks]
            else:
                masks = colour_regions(np.asarray(small))
            masks = [mask for mask in masks if mask.sum() >= config.min_mask_pixels]
            if not masks:
                continue
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=config.jpeg_quality)
            jpegs.append(buffer.getvalue())
            runs += [mask_to_runs(mask).astype(np.uint32) for mask in masks]
            row = (sample.image_id, source, small.height, small.width, len(masks))
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
    if not jpegs:
        tars = ", ".join([*config.tars, *config.region_tars])
        raise InputError(f"no image of {tars} has masks and passes data.licences={config.licences}")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    with partial.open("wb") as file:
        np.savez_compressed(
            file,
            jpeg=np.frombuffer(b"".join(jpegs), np.uint8),
            jpeg_offset=_offsets([len(jpeg) for jpeg in jpegs]),
            runs=np.concatenate(runs),
            run_offset=_offsets([len(run) for run in runs]),
            sources=np.array(
                [Path(tar).stem for tar in config.tars]
                + [f"{Path(tar).stem} regions" for tar in config.region_tars]
            ),
            image_id=np.array(columns["image_id"], np.int64),
            source=np.array(columns["source"], np.int64),
            height=np.array(columns["height"], np.int64),
            width=np.array(columns["width"], np.int64),
            num_masks=np.array(columns["num_masks"], np.int64),
        )
    partial.replace(target)


def matches_licence(text: str, wanted: Sequence[str]) -> bool:
    """Whether a licence names one of ``wanted`` as a whole term: ``CC BY`` is not in ``CC BY-NC 2.0``."""
    image_terms = text.split(";")[0]
    return any(re.search(rf"(?<![\w-]){re.escape(term)}(?![\w-])", image_terms) for term in wanted)


def _allowed_ids(config: DataConfig) -> set[int] | None:
    """Return the image ids that ``config.licences`` lets through; None for all."""
    if not config.licences:
        return None
    if config.sources_csv is None:
        raise ConfigError(
            "data.licences needs data.sources_csv, the table that has the licence of each image"
        )
    try:
        with Path(config.sources_csv).open(newline="", encoding="utf-8") as file:
            rows = [(int(row["image_id"]), row["licence"]) for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"{config.sources_csv}: no table with the columns image_id and licence ({error})"
        ) from error
    return {image_id for image_id, licence in rows if matches_licence(licence, config.licences)}


def _shrink(image: Image.Image, short_side: int) -> Image.Image:
    """Reduce an image so that its shorter side is at most ``short_side``; never enlarge."""
    factor = short_side / min(image.size)
    if factor >= 1:
        return image
    size = (round(image.width * factor), round(image.height * factor))
    return image.resize(size, Image.Resampling.LANCZOS)


def _shrink_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Resize a mask to (width, height), keeping pixels that are covered by half."""
    if mask.shape == size[::-1]:
        return mask
    grey = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
    return np.asarray(grey) >= 128


def _offsets(lengths: Sequence[int]) -> NDArray[np.int64]:
    """Return where each piece of a concatenation starts, and where the last ends."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
