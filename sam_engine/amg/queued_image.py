"""One image on a device that works by itself: what is to be done is queued, and read as late as possible.

An image takes three steps, each of which queues work and waits at most for what the one before had queued:
``search`` decodes and measures every mask, ``draw`` reads the measures, filters, and draws the winners,
``found`` reads their run lengths. So a crop of 1024 prompts costs one reading, and the image another. Between
the steps of one image there is time for those of the next (`in_turn`): the device then goes on with it while
the host filters.

Filters and NMS are those of a CPU, on the host. Legend: P prompts, M masks for each prompt, N masks.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from sam_engine.amg.draw_device import QueuedRuns
from sam_engine.amg.filters import (
    Tally,
    filter_measured,
    find_good,
    nms_between_crops,
    nms_within_crop,
    report_non_finite,
)
from sam_engine.amg.mask_batch import Crop, EncodedCrop, MaskBatch
from sam_engine.amg.measure_device import PIXELS_AT_ONCE, is_whole, measure_masks, measures_of_table
from sam_engine.amg.packed_logits import KeptLogits
from sam_engine.amg.prompting import decode_prompts, too_little_memory
from sam_engine.compute.device import Download, is_out_of_memory, upload
from sam_engine.config import AmgConfig, is_on
from sam_engine.modeling.segmenter import Segmenter
from sam_engine.ops.boxes import uncrop_boxes_xyxy
from sam_engine.ops.rle import Runs

log = logging.getLogger(__name__)

Result = TypeVar("Result")

MAX_PROMPTS_AT_ONCE = 1024
"""Prompts whose logits are on the device together: 768 MiB with vit_*."""
BATCHES_AT_ONCE = 16
"""The same in batches of ``points_per_batch``, so that fewer of these are less memory too."""
PIXELS_PER_PROMPT = 2**19
"""Evaluated together for each of a batch, up to `PIXELS_AT_ONCE`: so is measuring."""


@dataclass(slots=True)
class _CropSearch:
    """What is known of a crop so far."""

    encoded: EncodedCrop
    prompts: Tensor
    """(P, 2) on the device."""
    candidates: list[MaskBatch] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)


@dataclass(frozen=True, slots=True, kw_only=True)
class _QueuedGroup:
    """Prompts of a crop whose masks are being measured."""

    crop: _CropSearch
    start: int
    """The first of them."""
    stop: int
    logits: Tensor
    """(N, h, w)."""
    masks_per_prompt: int
    table: Download
    """(N, 2 + columns of `measure_masks`) int32: the bits of predicted IoU, whether logits are finite."""


class QueuedImage:
    """An image whose first crops are being encoded."""

    def __init__(
        self, model: Segmenter, config: AmgConfig, encoded: Iterable[EncodedCrop], points_per_batch: int
    ) -> None:
        """Take the image.

        Args:
            model: On its device.
            config: Settings of the generator.
            encoded: All crops of the image; they may be encoded one after another.
            points_per_batch: In place of the setting.
        """
        self.crops: list[Crop] = []
        """Those that were searched."""
        self.points_per_batch = points_per_batch
        """Or less, if memory ran out."""
        self.tally = Tally()
        """Of the crops that are complete."""
        self._model = model
        self._config = config
        self._encoded = iter(encoded)
        self._waiting: _QueuedGroup | None = None
        self._batches: list[MaskBatch] = []
        self._drawings: list[tuple[Tensor, Crop, QueuedRuns]] = []
        self._changes: Download | None = None
        self._batch: MaskBatch | None = None

    @torch.no_grad()
    def search(self) -> None:
        """Queue the decoding and measuring of all masks; of more than a group, read all but the last.

        A second time there is nothing to do.

        Raises:
            ImageError: The model's outputs are not finite, or not even one prompt fits into memory.
        """
        for encoded in self._encoded:
            self.crops.append(encoded.crop)
            crop = _CropSearch(encoded, upload(encoded.crop.prompts(), self._model.device))
            start = 0
            while start < len(crop.prompts):
                queued = self._unless_out_of_memory(partial(self._queue, crop, start))
                if queued is not None:
                    self._collect()  # the one before, now that the device has something to do
                    self._waiting, start = queued, queued.stop
                elif self._waiting is not None:  # its memory may be what is missing
                    self._collect()
                else:
                    self._halve(encoded.crop)

    @torch.no_grad()
    def draw(self) -> None:
        """Filter the masks of the last group, and queue the drawing of those that are left.

        Raises:
            ImageError: As `search`, which is done first if it was not.
        """
        self.search()
        self._collect()
        batch = nms_between_crops(self._batches, self.crops, self._config.crop_nms_thresh)
        self._batches = []
        drawings = []
        for index in batch.crop_index.unique().tolist():
            rows, crop = (batch.crop_index == index).nonzero()[:, 0], self.crops[index]
            left, top = crop.box[:2]
            boxes = uncrop_boxes_xyxy(batch.boxes_xyxy[rows], (-left, -top))
            queued = QueuedRuns(batch.logits[rows], crop.frame, self._model.mask_threshold, boxes)
            drawings.append((rows, crop, queued))
        self._batch, self._drawings = batch, drawings
        if drawings:
            self._changes = Download(torch.cat([runs.changes for _, _, runs in drawings]))

    @torch.no_grad()
    def found(self) -> tuple[MaskBatch, dict[int, Runs]]:
        """Return the masks that are left, and the run lengths of each in the image, by row."""
        assert self._batch is not None, "draw() comes before"
        runs: dict[int, Runs] = {}
        if self._changes is not None:
            changes = self._changes.wait()
            for rows, crop, queued in self._drawings:
                own, changes = changes[: len(queued.changes)], changes[len(queued.changes) :]
                drawn = queued.runs(own, (crop.box[1], crop.box[0]), crop.image_size)
                runs.update(zip(rows.tolist(), drawn, strict=True))
        return self._batch, runs

    def _unless_out_of_memory(self, work: Callable[[], Result]) -> Result | None:
        """Return what work returns, or None, and hold nothing of it, if memory runs out."""
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Here the error, and with it the frames that hold tensors, is gone.
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _halve(self, crop: Crop) -> None:
        """Do half as much at once from now on.

        Raises:
            ImageError: It is one prompt already.
        """
        if self.points_per_batch == 1:
            raise too_little_memory(crop)
        self.points_per_batch //= 2

    def _queue(self, crop: _CropSearch, start: int) -> _QueuedGroup:
        """Queue the decoding and measuring of a crop's next prompts."""
        model, config, step = self._model, self._config, self.points_per_batch
        stop = min(start + min(MAX_PROMPTS_AT_ONCE, BATCHES_AT_ONCE * step), len(crop.prompts))
        predicted_iou, logits, masks_per_prompt = [], torch.empty(0), 0
        for first in range(start, stop, step):
            points = crop.prompts[first : min(first + step, stop)]
            maps, scores = decode_prompts(model, crop.encoded.embedding, points, config)
            predicted_iou.append(scores.flatten())
            if first == start:
                masks_per_prompt = maps.shape[1]
                logits = maps.new_empty((stop - start) * masks_per_prompt, *maps.shape[2:])
            place = (first - start) * masks_per_prompt
            logits[place : place + len(points) * masks_per_prompt] = maps.flatten(0, 1)
        scores = torch.cat(predicted_iou)
        are_finite = logits.sum(dim=(-2, -1)).isfinite()
        wanted = are_finite
        if is_on(config.pred_iou_thresh):
            wanted = wanted & (scores > config.pred_iou_thresh)
        table = self._measure(crop, logits, wanted)
        columns = [scores.float().view(torch.int32)[:, None], are_finite.int()[:, None], table]
        return _QueuedGroup(
            crop=crop,
            start=start,
            stop=stop,
            logits=logits,
            masks_per_prompt=masks_per_prompt,
            table=Download(torch.cat(columns, dim=1)),
        )

    def _measure(self, crop: _CropSearch, logits: Tensor, wanted: Tensor, **settings: float) -> Tensor:
        """Queue `measure_masks` of some masks of a crop."""
        return measure_masks(
            logits,
            crop.encoded.crop.frame,
            self._model.mask_threshold,
            self._config.stability_score_offset,
            wanted=wanted,
            pixels_at_once=min(PIXELS_AT_ONCE, PIXELS_PER_PROMPT * self.points_per_batch),
            **settings,
        )

    def _collect(self) -> None:
        """Read and filter the group that waits, if one does; do the NMS of a crop that is complete.

        Raises:
            ImageError: The model's outputs are not finite.
        """
        group, self._waiting = self._waiting, None
        if group is None:
            return
        crop, config = group.crop, self._config
        table = group.table.wait()
        predicted_iou = table[:, 0].contiguous().view(torch.float32)
        good, tally = find_good(predicted_iou, table[:, 1] != 0, config)
        rows = good.nonzero()[:, 0]
        table = self._remeasured(group, rows, table[rows, 2:])
        measures = measures_of_table(table)
        crop.tally += tally.measured(measures)
        crop.candidates.append(
            filter_measured(
                crop.encoded.crop,
                config,
                measures=measures,
                predicted_iou=predicted_iou[rows],
                prompt_index=group.start + rows // group.masks_per_prompt,
                keep_logits=lambda stable: _compact(group.logits, rows[stable]),
            )
        )
        if group.stop < len(crop.prompts):
            return
        report_non_finite(crop.tally, crop.encoded.crop)
        self.tally += crop.tally
        batch = nms_within_crop(crop.candidates, config.box_nms_thresh)
        if len(batch):  # copied: the candidates that lost need not stay in memory with them
            batch = replace(batch, logits=KeptLogits(list(batch.logits.stack(0, len(batch)))))
        self._batches.append(batch)

    def _remeasured(self, group: _QueuedGroup, rows: Tensor, table: Tensor) -> Tensor:
        """Return the measures of chosen rows of a group, with those measured again that were cut off."""
        cut_off = (~is_whole(table)).nonzero()[:, 0]
        if len(cut_off) == 0:
            return table
        log.info(
            "%d of %d masks have more outline than there was room for: measured again",
            len(cut_off),
            len(rows),
        )

        def measure() -> Tensor:
            logits = group.logits.index_select(0, upload(rows[cut_off].numpy(), group.logits.device))
            everything = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
            return self._measure(group.crop, logits, everything, open_share=1.0)

        while (measured := self._unless_out_of_memory(measure)) is None:
            self._halve(group.crop.encoded.crop)
        return table.index_copy(0, cut_off, Download(measured).wait())


def _compact(logits: Tensor, rows: Tensor) -> KeptLogits:
    """Return some of (N, h, w) logits, copied, so that the others need not stay."""
    return KeptLogits(list(logits.index_select(0, upload(rows.numpy(), logits.device))))
