"""From sources of annotated images to one compact file that a bare machine can train from.

The file is an ``.npz``: JPEG bytes and mask runs of all images, each in one long array with offsets.
"""

import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam_engine.errors import ImageError, InputError
from sam_engine.files import new_file
from sam_engine.ops.rle import mask_to_runs
from sam_engine.training.config import DataConfig
from sam_engine.training.data.provenance import made_of
from sam_engine.training.data.selection import Selection, select, select_held_out

log = logging.getLogger(__name__)


def pack(config: DataConfig, path: str | Path) -> None:
    """Write the packed copy of the sources, reduced and filtered as configured.

    Images that cannot be read are left out, and the log names them.

    Raises:
        ConfigError: As `select`.
        InputError: Or if there is no mask at all.
    """
    selections = select(config)
    order = [(number, place) for number, some in enumerate(selections) for place in range(len(some))]
    _write(selections, order, config, path, made_of(config))


def pack_held_out(config: DataConfig, whole: Sequence[str], path: str | Path) -> None:
    """Write the packed copy of what a training is scored on, one image of each source in turn.

    Args:
        config: Of the training; decides the size, and what ``hold_out`` holds out of its sources.
        whole: Sources of which all images are held out.
        path: Where to.

    Raises:
        ConfigError: As `select_held_out`.
        InputError: Or if there is no mask at all.
    """
    selections = select_held_out(config, whole)
    longest = max(map(len, selections))
    order = [(n, i) for i in range(longest) for n in range(len(selections)) if i < len(selections[n])]
    _write(selections, order, config, path, made_of(held_out_data(config, whole)))


def held_out_data(config: DataConfig, whole: Sequence[str]) -> DataConfig:
    """Return the settings that name what `pack_held_out` packs."""
    is_part = config.hold_out is not None
    return replace(
        config,
        sources=[*(config.sources if is_part else []), *whole],
        licences=config.licences if is_part else [],
        region_sources=[],
        images=[],
        weights=[],
    )


def _write(
    selections: Sequence[Selection],
    order: Sequence[tuple[int, int]],
    config: DataConfig,
    path: str | Path,
    about: Mapping[str, Any],
) -> None:
    """Write images of sources, given as (number of the source, place in it), into a packed file."""
    log.info("packing %d sources to %s", len(selections), path)
    jpegs: list[bytes] = []
    runs: list[NDArray[np.uint32]] = []
    columns: dict[str, list[int]] = {
        name: [] for name in ("image_id", "source", "height", "width", "num_masks")
    }
    for number, place in order:
        selection = selections[number]
        try:
            reduced = selection.read(place, config)
        except ImageError as error:
            log.warning("%s: image left out: %s", selection.name, error)
            continue
        masks = [reduced.mask(i) for i in range(reduced.num_masks)]
        masks = [mask for mask in masks if mask.sum() >= config.min_mask_pixels]
        if not masks:
            continue
        buffer = io.BytesIO()
        reduced.image.save(buffer, "JPEG", quality=config.jpeg_quality)
        jpegs.append(buffer.getvalue())
        runs += [mask_to_runs(mask).astype(np.uint32) for mask in masks]
        row = (reduced.image_id, number, reduced.image.height, reduced.image.width, len(masks))
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    if not jpegs:
        raise InputError(
            f"no image of {', '.join(selection.name for selection in selections)} has a mask of "
            f"data.min_mask_pixels={config.min_mask_pixels}"
        )
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with new_file(target) as file:
        np.savez_compressed(
            file,
            jpeg=np.frombuffer(b"".join(jpegs), np.uint8),
            jpeg_offset=_offsets([len(jpeg) for jpeg in jpegs]),
            runs=np.concatenate(runs),
            run_offset=_offsets([len(run) for run in runs]),
            sources=np.array([selection.name for selection in selections]),
            image_id=np.array(columns["image_id"], np.int64),
            source=np.array(columns["source"], np.int64),
            height=np.array(columns["height"], np.int64),
            width=np.array(columns["width"], np.int64),
            num_masks=np.array(columns["num_masks"], np.int64),
            made_of=np.array(json.dumps(about)),
        )


def _offsets(lengths: Sequence[int]) -> NDArray[np.int64]:
    """Return where each piece of a concatenation starts, and where the last ends."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
