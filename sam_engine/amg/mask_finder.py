"""Every mask of an image: `MaskFinder.find` is the core of the mask generator and of the pipeline.

Legend: P prompts, (H, W) pixels of an image or crop.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from sam_engine.amg.filters import NothingFound, Tally, nms_between_crops
from sam_engine.amg.found_mask import Box, FoundMask
from sam_engine.amg.mask_batch import Crop, EncodedCrop, Image, MaskBatch, Prompts, clean_up_masks
from sam_engine.amg.measure import LogitFrame
from sam_engine.amg.queued_image import QueuedImage
from sam_engine.amg.search import draw_masks, search_crop
from sam_engine.catalogue import Thresholds
from sam_engine.compute.device import is_out_of_memory, is_queued
from sam_engine.config import AmgConfig
from sam_engine.errors import ConfigError, ImageError
from sam_engine.modeling.segmenter import ImageEmbedding, Segmenter
from sam_engine.ops.boxes import generate_crop_boxes
from sam_engine.ops.pixels import check_image
from sam_engine.ops.points import build_layer_grids
from sam_engine.ops.resize import ResizeLongestSide
from sam_engine.ops.rle import Runs, box_of
from sam_engine.structures import ImageStatus

ENCODED_AT_ONCE = {"cuda": 8, "mps": 4}
"""Images or crops, by type of device. Elsewhere one: on a CPU each of four takes longer (1.2 times, tiny)."""

PointGrids = Sequence[NDArray[np.floating]]
"""For the whole image and each layer of crops, (P, 2) points as fractions of the crop."""


def point_grids_of(config: AmgConfig) -> PointGrids:
    """Return the regular grids that the settings ask for.

    Raises:
        ConfigError: They ask for none, or leave a layer of crops without points.
    """
    if config.grid is None:
        raise ConfigError("give either points_per_side or point_grids; neither was given")
    return build_layer_grids(config.grid, config.crop_n_layers, config.crop_n_points_downscale_factor)


class MaskFinder:
    """Finds the masks of whole images with one model and one set of settings.

    Where memory runs out, half as many prompts are decoded at once, and again, until they fit; from then on
    `points_per_batch` is what fitted. The masks found stay the same up to rounding.

    Attributes:
        model: The model.
        config: The settings; thresholds that were not given are the model's.
        point_grids: See `PointGrids`.
        points_per_batch: Prompts decoded at once: as `batch_of` says, or less.
        nothing_found: Images without a mask so far.
    """

    def __init__(self, model: Segmenter, config: AmgConfig, point_grids: PointGrids | None = None) -> None:
        """Take the settings; ``point_grids`` may stand in for the regular ones."""
        self.model = model
        self.config = config.with_thresholds(thresholds_of(model))
        self.point_grids: PointGrids = ()
        if config.prompts is None:
            self.point_grids = point_grids_of(config) if point_grids is None else point_grids
        self.points_per_batch = batch_of(model, config.points_per_batch)
        self.nothing_found = NothingFound()

    def find(self, image: Image, prompts: Prompts | None = None) -> list[FoundMask]:
        """Find the masks of one image.

        Args:
            image: (H, W, 3) uint8 RGB.
            prompts: One or more in pixels of the image, which is then not cut into crops. None: the grids.

        Returns:
            By descending predicted IoU; with crops, from the smallest crops to the whole image; with
            ``min_mask_region_area``, the masks that it changed come last.

        Raises:
            ValueError: The image is of another type or shape.
            ConfigError: ``amg.prompts`` is set, and none are given.
            ImageError: The model's outputs are not finite, or memory ran out.
        """
        return self.find_encoded(crop for _, crop in self.encode([image], prompts))

    @torch.no_grad()
    def find_encoded(self, encoded: Iterable[EncodedCrop]) -> list[FoundMask]:
        """Find the masks of one image, all of whose crops are given; see `find`."""
        if is_queued(self.model.device):
            queued = self.queue(encoded)
            queued.draw()
            return self.finish(queued)
        batches, crops, tally = [], [], Tally()
        for crop in encoded:
            batch, counted, num_at_once = search_crop(self.model, crop, self.config, self.points_per_batch)
            self.points_per_batch = min(self.points_per_batch, num_at_once)
            tally += counted
            batches.append(batch)
            crops.append(crop.crop)
        batch = nms_between_crops(batches, crops, self.config.crop_nms_thresh)
        boxes = [_as_box(box) for box in batch.boxes_xyxy.tolist()]
        return self._found(batch, boxes, draw_masks(self.model, batch, crops), crops, tally)

    def begin(self, image: Image, prompts: Prompts | None = None) -> QueuedImage:
        """Queue an image's encoding, on a device that `is_queued`; its steps and `finish` come next.

        Raises:
            ValueError: As `find`.
            ImageError: There is no memory to encode it.
        """
        encoded = self.encode([image], prompts)
        first = next(encoded)
        return self.queue(crop for _, crop in itertools.chain([first], encoded))

    def queue(self, encoded: Iterable[EncodedCrop]) -> QueuedImage:
        """Return an image whose crops are, or are going to be, encoded."""
        return QueuedImage(self.model, self.config, encoded, self.points_per_batch)

    @torch.no_grad()
    def finish(self, queued: QueuedImage) -> list[FoundMask]:
        """Return the masks of an image that are drawn, as `find` does."""
        batch, runs = queued.found()
        self.points_per_batch = min(self.points_per_batch, queued.points_per_batch)
        size = queued.crops[0].image_size
        # The boxes are those of the masks as drawn: what was measured is the same only up to rounding.
        boxes = [box_of(runs[row], size) for row in range(len(batch))]
        return self._found(batch, boxes, runs, queued.crops, queued.tally)

    def encode(
        self, images: Sequence[Image], prompts: Prompts | None = None
    ) -> Iterator[tuple[int, EncodedCrop]]:
        """Yield image number and embedding of every crop, image by image, encoding several together.

        Args:
            images: (H, W, 3) uint8 RGB.
            prompts: As of `find`, for a single image.

        Raises:
            ValueError: An image is of another type or shape; nothing was encoded then.
            ConfigError: As `find`.
            ImageError: There is no memory to encode one.
        """
        for image in images:
            check_image(image)
        if self.config.prompts is not None and prompts is None:
            raise ConfigError("amg.prompts is read by pipelines.auto_annotate alone; give prompts to find()")
        return self._encode(images, prompts)

    @torch.no_grad()
    def _encode(self, images: Sequence[Image], prompts: Prompts | None) -> Iterator[tuple[int, EncodedCrop]]:
        """See `encode`."""
        jobs = [
            (number, crop) for number, image in enumerate(images) for crop in self._crops_of(image, prompts)
        ]
        at_once = ENCODED_AT_ONCE.get(self.model.device.type, 1)
        for start in range(0, len(jobs), at_once):
            group = jobs[start : start + at_once]
            embeddings = self._encode_pixels([crop.of(images[number]) for number, crop in group])
            for (number, crop), embedding in zip(group, embeddings, strict=True):
                yield number, EncodedCrop(crop=crop, embedding=embedding)

    def _crops_of(self, image: Image, prompts: Prompts | None) -> list[Crop]:
        """Return the whole image and its crops."""
        size, config = (image.shape[0], image.shape[1]), self.config
        num_layers = config.crop_n_layers if prompts is None else 0
        boxes, layers = generate_crop_boxes(size, num_layers, config.crop_overlap_ratio)
        transform, crops = ResizeLongestSide(self.model.image_size), []
        for index, (box, layer) in enumerate(zip(boxes, layers, strict=True)):
            height, width = box[3] - box[1], box[2] - box[0]
            frame = LogitFrame(
                image_size=self.model.image_size,
                input_size=transform.target_size((height, width)),
                original_size=(height, width),
            )
            given = prompts
            if given is None:
                given = np.asarray(self.point_grids[layer], dtype=np.float64) * (width, height)
            crops.append(Crop(index=index, box=box, image_size=size, frame=frame, given=given))
        return crops

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

    def _found(
        self,
        batch: MaskBatch,
        boxes_xyxy: Sequence[Box],
        runs: Mapping[int, Runs],
        crops: Sequence[Crop],
        tally: Tally,
    ) -> list[FoundMask]:
        """Return the masks of one image, after the clean-up; note it if there are none."""
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
            corners = crop.given[prompt_index].reshape(-1, 2) + crop.box[:2]
            masks.append(
                FoundMask(
                    runs=runs[row],
                    box_xyxy=box,
                    predicted_iou=predicted_iou,
                    stability_score=stability_score,
                    point_coords=tuple((float(x), float(y)) for x, y in corners),
                    crop_box=crop.box,
                )
            )
        config = self.config
        if config.min_mask_region_area > 0:
            masks = clean_up_masks(
                masks,
                crops[0].image_size,
                min_area=config.min_mask_region_area,
                drop_small=config.drop_small_masks,
                nms_thresh=max(config.box_nms_thresh, config.crop_nms_thresh),
            )
        if not masks:
            self.nothing_found += NothingFound(num_images=1, tally=tally)
        return masks


def batch_of(model: Segmenter, points_per_batch: int) -> int:
    """Return how many prompts to decode at once: as the setting says, or on a device in proportion more.

    An operation takes the host as long for many prompts as for few, and a device is done with few before the
    host has queued the next. What suits it is decoded where the setting is the default; a model may say what
    that is, in ``prompts_at_once``.
    """
    suited: int = getattr(model, "prompts_at_once", 0) if is_queued(model.device) else 0
    return max(points_per_batch, min(suited, suited * points_per_batch // AmgConfig.points_per_batch))


def thresholds_of(model: Segmenter | None) -> Thresholds:
    """Return what a model recommends; SAM's thresholds for one that says nothing or is not there yet."""
    recommended: Thresholds = getattr(model, "thresholds", Thresholds())
    return recommended


def _as_box(corners: Sequence[int]) -> Box:
    """Return a list of four as a tuple."""
    left, top, right, bottom = corners
    return left, top, right, bottom
