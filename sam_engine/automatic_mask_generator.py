"""Every mask of an image: prompt it with a grid of points, keep the good masks, drop the duplicates.

Legend: P prompts, M masks for each prompt, N masks, (H, W) pixels of an image or crop, (4h, 4w) the
low-resolution logits.
"""

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from sam_engine.amg.mask_batch import Crop, FoundMask, Image, MaskBatch, clean_up_masks, size_of
from sam_engine.amg.queued_image import StartedImage, queue_beside
from sam_engine.amg.search import (
    EncodedCrop,
    draw_masks,
    is_out_of_memory,
    nms_between_crops,
    search_crop,
)
from sam_engine.compute.device import is_queued
from sam_engine.config import AmgConfig
from sam_engine.errors import ConfigError, ImageError
from sam_engine.modeling.segmenter import ImageEmbedding, Segmenter
from sam_engine.ops.boxes import generate_crop_boxes
from sam_engine.ops.points import build_all_layer_point_grids
from sam_engine.ops.rle import Runs, area_of, bbox_of, decode_runs, runs_to_counts
from sam_engine.predictor import SamPredictor, check_image
from sam_engine.structures import ImageStatus

log = logging.getLogger(__name__)

ENCODED_AT_ONCE = {"cuda": 8, "mps": 4}
"""Images or crops, by type of device. Elsewhere one: on a CPU each of four takes longer (1.2 times, tiny)."""

OUTPUT_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")

Record = dict[str, Any]


class _Setting:
    """A field of the generator's config, read and set as an attribute of the generator; checked when set."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, generator: "SamAutomaticMaskGenerator", owner: type) -> Any:
        return getattr(generator.config, self.name)

    def __set__(self, generator: "SamAutomaticMaskGenerator", value: Any) -> None:
        generator.config = replace(generator.config, **{self.name: value})


class SamAutomaticMaskGenerator:
    """Find the masks of whole images. Arguments, defaults and records are those of ``segment_anything`` 1.0.

    A mask whose logits or predicted IoU are not finite is dropped, and a warning logged. If a crop yields
    nothing else, the model is at fault: `ImageError` with status ``model_nonfinite`` is raised.

    Where memory runs out, half as many prompts are decoded at once, and again, until they fit; from then on
    ``points_per_batch`` is what fitted, and a warning says so. If not one fits, `ImageError` with status
    ``oom`` is raised. The masks found stay the same up to rounding.

    Attributes:
        model: The model.
        config: The settings; each is also an attribute of its own, as in segment_anything.
        point_grids: For the whole image and each layer of crops, (P, 2) points as fractions of the crop.
        output_mode: What a record's ``segmentation`` is.
    """

    points_per_batch = _Setting()
    pred_iou_thresh = _Setting()
    stability_score_thresh = _Setting()
    stability_score_offset = _Setting()
    box_nms_thresh = _Setting()
    crop_n_layers = _Setting()
    crop_nms_thresh = _Setting()
    crop_overlap_ratio = _Setting()
    crop_n_points_downscale_factor = _Setting()
    min_mask_region_area = _Setting()
    max_mask_area_fraction = _Setting()
    drop_small_masks = _Setting()

    def __init__(
        self,
        model: Segmenter,
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: list[NDArray[np.floating]] | None = None,
        min_mask_region_area: int = 0,
        output_mode: str = "binary_mask",
        max_mask_area_fraction: float = 1.0,
        drop_small_masks: bool = False,
    ) -> None:
        """Check the settings; what they mean stands in `AmgConfig`, but for two.

        ``point_grids``, which may stand in for ``points_per_side``, are (P, 2) points (x, y) as fractions
        of the crop: an array for the whole image and one for each layer of crops.
        ``output_mode`` says what a record's ``segmentation`` is. ``binary_mask``: an (H, W) bool array;
        ``uncompressed_rle``: a dict of ``size`` and ``counts``, a list of runs; ``coco_rle``: the same with
        COCO's text for ``counts``.

        Raises:
            ConfigError: A setting is out of range, or two contradict each other. It is a ValueError.
        """
        if (points_per_side is None) == (point_grids is None):
            given = "neither" if point_grids is None else "both"
            raise ConfigError(f"give either points_per_side or point_grids; {given} was given")
        if output_mode not in OUTPUT_MODES:
            raise ConfigError(f"output_mode is {output_mode!r}; choose from {', '.join(OUTPUT_MODES)}")
        self.model = model
        self.output_mode = output_mode
        self.config = AmgConfig(
            points_per_side=points_per_side,
            points_per_batch=points_per_batch,
            pred_iou_thresh=pred_iou_thresh,
            stability_score_thresh=stability_score_thresh,
            stability_score_offset=stability_score_offset,
            box_nms_thresh=box_nms_thresh,
            crop_n_layers=crop_n_layers,
            crop_nms_thresh=crop_nms_thresh,
            crop_overlap_ratio=crop_overlap_ratio,
            crop_n_points_downscale_factor=crop_n_points_downscale_factor,
            min_mask_region_area=min_mask_region_area,
            max_mask_area_fraction=max_mask_area_fraction,
            drop_small_masks=drop_small_masks,
        )
        self.point_grids: Sequence[NDArray[np.floating]]
        if points_per_side is not None:
            self.point_grids = build_all_layer_point_grids(
                points_per_side, crop_n_layers, crop_n_points_downscale_factor
            )
        elif point_grids is not None:
            self.point_grids = point_grids
            for layer, grid in enumerate(point_grids):
                if grid.ndim != 2 or grid.shape[1] != 2 or len(grid) == 0:
                    raise ConfigError(
                        f"point_grids[{layer}] has shape {grid.shape}; wanted is (P, 2) with a point or more"
                    )
            if len(point_grids) <= crop_n_layers:
                raise ConfigError(
                    f"crop_n_layers={crop_n_layers} needs {crop_n_layers + 1} point_grids: one for the whole "
                    f"image and one for each layer; {len(point_grids)} were given"
                )

    @classmethod
    def from_config(cls, model: Segmenter, config: AmgConfig, output_mode: str = "coco_rle") -> Self:
        """Return a generator with the settings of ``config``."""
        settings = {field.name: getattr(config, field.name) for field in fields(config)}
        return cls(model, **settings, output_mode=output_mode)

    @cached_property
    def predictor(self) -> SamPredictor:
        """A predictor over the same model, for prompts of one's own; the generator does not use it."""
        return SamPredictor(self.model)

    def generate(self, image: Image) -> list[Record]:
        """Find the masks of one image.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            Records with these keys, in pixels of the image: ``segmentation``, see ``output_mode``; ``area``;
            ``bbox`` XYWH, where W is ``x_max - x_min`` of inclusive indices; ``predicted_iou``;
            ``point_coords``, the prompt as [[x, y]]; ``stability_score``; ``crop_box`` XYWH. ``bbox`` and
            ``crop_box`` are ints (segment_anything gives floats of the same value for images where a batch
            of points found no mask). Order: by descending predicted IoU; with crops, from the smallest
            crops to the whole image; with ``min_mask_region_area``, the masks that it changed come last.
            Empty if there are no masks.

        Raises:
            ValueError: The image is of another type or shape.
            ImageError: The model's outputs are not finite, or memory ran out.
        """
        return self.generate_batch([image])[0]

    @torch.no_grad()
    def generate_batch(self, images: Sequence[Image]) -> list[list[Record]]:
        """Find the masks of several images of any sizes, encoding images and crops together.

        The records are those that `generate` finds: on a CPU to the last bit, elsewhere up to the rounding of
        an encoder that is given several images (`ENCODED_AT_ONCE`).

        Raises:
            ValueError: As `generate`.
            ImageError: As `generate`, for the first image that it befalls.
        """
        for image in images:
            check_image(image)
        if is_queued(self.model.device):
            return self._generate_queued(images)
        crops = [self._crops_of(image) for image in images]
        found: list[list[MaskBatch]] = [[] for _ in images]
        for number, encoded in self._encode(images, crops):
            found[number].append(self._search(encoded))
        records = []
        for image, image_crops, batches in zip(images, crops, found, strict=True):
            batch = nms_between_crops(MaskBatch.cat(batches), image_crops, self.config.crop_nms_thresh)
            runs = draw_masks(self.model, batch, image_crops, size_of(image))
            boxes = batch.boxes_xyxy.tolist()
            records.append(self._records(batch, boxes, runs, image_crops, size_of(image)))
        return records

    def begin(self, image: Image) -> StartedImage:
        """Queue an image's encoding, on a device that `is_queued`; `queue_beside` and `finish` come next.

        Raises:
            ValueError: As `generate`.
            ImageError: There is no memory to encode it.
        """
        check_image(image)
        encoded = self._encode([image], [self._crops_of(image)])
        return self._started(image, itertools.chain([next(encoded)], encoded))

    @torch.no_grad()
    def finish(self, started: StartedImage) -> list[Record]:
        """Return the records of an image whose masks are drawn, as `generate` does."""
        batch, runs = started.found()
        self._remember(started.points_per_batch)
        # The boxes are those of the masks as drawn: what was measured is the same only up to rounding.
        boxes = [_xyxy(bbox_of(runs[row], started.size)) for row in range(len(batch))]
        return self._records(batch, boxes, runs, started.crops, started.size)

    def _generate_queued(self, images: Sequence[Image]) -> list[list[Record]]:
        """Find the masks of images on a device, each begun before the one before it is finished."""
        records: list[list[Record]] = []
        older: StartedImage | None = None
        encoded = self._encode(images, [self._crops_of(image) for image in images])
        for number, crops in itertools.groupby(encoded, key=lambda crop: crop[0]):
            newer = self._started(images[number], crops)
            queue_beside(older, newer)
            if older is not None:
                records.append(self.finish(older))
            older = newer
        if older is not None:
            older.draw()
            records.append(self.finish(older))
        return records

    def _started(self, image: Image, encoded: Iterable[tuple[int, EncodedCrop]]) -> StartedImage:
        """Return an image whose crops are, or are going to be, encoded."""
        crops = (crop for _, crop in encoded)
        return StartedImage(self.model, self.config, crops, self._crops_of(image), size_of(image))

    def _crops_of(self, image: Image) -> list[Crop]:
        """Return the whole image and its crops."""
        boxes, layers = generate_crop_boxes(
            image.shape[:2], self.config.crop_n_layers, self.config.crop_overlap_ratio
        )
        return [Crop(box=box, layer=layer) for box, layer in zip(boxes, layers, strict=True)]

    def _encode(
        self, images: Sequence[Image], crops: Sequence[Sequence[Crop]]
    ) -> Iterator[tuple[int, EncodedCrop]]:
        """Yield image number and embedding of every crop, image by image."""
        jobs = [(number, index) for number in range(len(images)) for index in range(len(crops[number]))]
        at_once = ENCODED_AT_ONCE.get(self.model.device.type, 1)
        for start in range(0, len(jobs), at_once):
            group = jobs[start : start + at_once]
            embeddings = self._encode_pixels([crops[i][index].of(images[i]) for i, index in group])
            for (number, index), embedding in zip(group, embeddings, strict=True):
                crop, image = crops[number][index], images[number]
                yield (
                    number,
                    EncodedCrop(
                        crop=crop,
                        index=index,
                        image_size=size_of(image),
                        embedding=embedding,
                        points=self._points_of(crop),
                    ),
                )

    def _encode_pixels(self, pixels: Sequence[Image]) -> list[ImageEmbedding]:
        """Encode crops together; where there is no memory for that, in halves.

        Raises:
            ImageError: There is none for a single one.
        """
        try:
            return self.model.encode(pixels)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        height, width = pixels[0].shape[:2]
        if len(pixels) == 1:
            raise ImageError(ImageStatus.OOM, f"no memory to encode it at {width} x {height} pixels")
        half = len(pixels) // 2
        return self._encode_pixels(pixels[:half]) + self._encode_pixels(pixels[half:])

    def _search(self, encoded: EncodedCrop) -> MaskBatch:
        """Return the masks of a crop."""
        batch, num_at_once = search_crop(self.model, encoded, self.config)
        self._remember(num_at_once)
        return batch

    def _remember(self, num_at_once: int) -> None:
        """Say so, and remember it, if fewer prompts fitted than wanted."""
        if num_at_once < self.config.points_per_batch:
            self.config = replace(self.config, points_per_batch=num_at_once)
            log.warning("memory ran out: points_per_batch is %d from now on", num_at_once)

    def _points_of(self, crop: Crop) -> NDArray[np.float64]:
        """Return the (P, 2) prompts of a crop, in its pixels."""
        height, width = crop.size
        return np.asarray(self.point_grids[crop.layer], dtype=np.float64) * (width, height)

    def _records(
        self,
        batch: MaskBatch,
        boxes_xyxy: Sequence[Sequence[int]],
        runs: Mapping[int, Runs],
        crops: Sequence[Crop],
        size: tuple[int, int],
    ) -> list[Record]:
        """Return the records of one image's masks, after the clean-up."""
        columns = zip(
            boxes_xyxy,
            batch.predicted_iou.tolist(),
            batch.stability_score.tolist(),
            batch.prompt_index.tolist(),
            batch.crop_index.tolist(),
            strict=True,
        )
        masks = []
        for row, (box, predicted_iou, stability_score, prompt_index, crop_index) in enumerate(columns):
            crop = crops[crop_index]
            point = self._points_of(crop)[prompt_index] + crop.box[:2]
            left, top, right, bottom = box
            masks.append(
                FoundMask(
                    runs=runs[row],
                    box_xyxy=(left, top, right, bottom),
                    predicted_iou=predicted_iou,
                    stability_score=stability_score,
                    point=(float(point[0]), float(point[1])),
                    crop_box=crop.box,
                )
            )
        if self.config.min_mask_region_area > 0:
            masks = clean_up_masks(
                masks,
                size,
                min_area=self.config.min_mask_region_area,
                drop_small=self.config.drop_small_masks,
                nms_thresh=max(self.config.box_nms_thresh, self.config.crop_nms_thresh),
            )
        return [self._record(mask, size) for mask in masks]

    def _record(self, mask: FoundMask, size: tuple[int, int]) -> Record:
        """Return the mask in segment_anything's form."""
        segmentation: Any
        if self.output_mode == "binary_mask":
            segmentation = decode_runs(mask.runs, size, max_pixels=size[0] * size[1])
        elif self.output_mode == "coco_rle":
            segmentation = {"size": list(size), "counts": runs_to_counts(mask.runs)}
        else:
            segmentation = {"size": list(size), "counts": mask.runs.tolist()}
        return {
            "segmentation": segmentation,
            "area": area_of(mask.runs),
            "bbox": _xywh(mask.box_xyxy),
            "predicted_iou": mask.predicted_iou,
            "point_coords": [list(mask.point)],
            "stability_score": mask.stability_score,
            "crop_box": _xywh(mask.crop_box),
        }


def _xyxy(box_xywh: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Return [x0, y0, x0 + w, y0 + h]."""
    left, top, width, height = box_xywh
    return left, top, left + width, top + height


def _xywh(box_xyxy: tuple[int, int, int, int]) -> list[int]:
    """Return [x, y, x1 - x0, y1 - y0]."""
    left, top, right, bottom = box_xyxy
    return [left, top, right - left, bottom - top]
