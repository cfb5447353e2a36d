"""Every mask of an image, in the form of ``segment_anything``: a facade over `amg.mask_finder`."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from sam_engine.amg.found_mask import FoundMask
from sam_engine.amg.in_turn import find_in_turn
from sam_engine.amg.mask_batch import Image
from sam_engine.amg.mask_finder import MaskFinder, PointGrids, point_grids_of, thresholds_of
from sam_engine.config import AmgConfig
from sam_engine.errors import ConfigError
from sam_engine.modeling.sam import Sam
from sam_engine.modeling.segmenter import Segmenter
from sam_engine.ops.rle import Runs, decode_runs, runs_to_counts
from sam_engine.predictor import SamPredictor
from sam_engine.utils.amg import area_from_rle
from sam_engine.utils.stepwise import Stepwise

log = logging.getLogger(__name__)

OUTPUT_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")

Record = dict[str, Any]


class _Setting:
    """A field of the generator's config, read and set as an attribute of the generator; checked when set."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, generator: "SamAutomaticMaskGenerator | None", owner: type) -> Any:
        return self if generator is None else getattr(generator.config, self.name)

    def __set__(self, generator: "SamAutomaticMaskGenerator", value: Any) -> None:
        config = replace(generator.config, **{self.name: value})
        generator.config = config.with_thresholds(thresholds_of(getattr(generator, "model", None)))


class SamAutomaticMaskGenerator(Stepwise):
    """Find the masks of whole images. Arguments, defaults and records are those of ``segment_anything`` 1.0.

    A mask whose logits or predicted IoU are not finite is dropped, and a warning logged. If a crop yields
    nothing else, the model is at fault: `ImageError` with status ``model_nonfinite`` is raised.

    Where memory runs out, half as many prompts are decoded at once, and again, until they fit; from then on
    ``points_per_batch`` is what fitted, and a warning says so. If not one fits, `ImageError` with status
    ``oom`` is raised. The masks found stay the same up to rounding.

    Where a subclass replaces one of the steps of segment_anything (`Stepwise`), or ``predictor`` is assigned,
    the masks are made in these steps and through that predictor, slowly.

    Attributes:
        model: The model.
        predictor: A `SamPredictor` over the same model; of use for prompts of one's own.
        config: The settings; each is also an attribute of its own, as in segment_anything.
        point_grids: For the whole image and each layer of crops, (P, 2) points as fractions of the crop.
        output_mode: What a record's ``segmentation`` is.
    """

    config = AmgConfig()
    _predictor: Any = None
    _is_assigned = False
    """Whether the predictor was assigned."""
    _is_slow_said = False
    _fitted: tuple[AmgConfig, int] | None = None
    """The settings of the last images, and how many prompts were decoded at once in the end."""

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
        pred_iou_thresh: float | None = None,
        stability_score_thresh: float | None = None,
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

        ``pred_iou_thresh`` and ``stability_score_thresh`` belong to the model: None is what it recommends,
        0.88 and 0.95 for ``vit_*``, as in segment_anything.

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
        config = AmgConfig(
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
        self._set_up(model, config, point_grids, output_mode)

    @classmethod
    def from_config(cls, model: Segmenter, config: AmgConfig, output_mode: str = "coco_rle") -> Self:
        """Return a generator that keeps ``config`` as it is; a subclass's ``__init__`` is not called.

        Raises:
            ConfigError: A layer of crops is left without points, or the mode is unknown.
        """
        generator = cls.__new__(cls)
        generator._set_up(model, config, None, output_mode)
        return generator

    def _set_up(
        self, model: Segmenter, config: AmgConfig, point_grids: PointGrids | None, output_mode: str
    ) -> None:
        """Take all that a generator is made of."""
        if output_mode not in OUTPUT_MODES:
            raise ConfigError(f"output_mode is {output_mode!r}; choose from {', '.join(OUTPUT_MODES)}")
        if point_grids is not None:
            point_grids = _checked_grids(point_grids, config.crop_n_layers)
        self.model = model
        self.config = config.with_thresholds(thresholds_of(model))
        self.output_mode = output_mode
        self.point_grids: PointGrids = point_grids_of(config) if point_grids is None else point_grids
        self._predictor, self._is_assigned = None, False

    @property
    def predictor(self) -> Any:
        """A predictor over the same model, made on first use, or whatever was assigned."""
        if self._predictor is None:
            self._predictor = SamPredictor(self.model)
        return self._predictor

    @predictor.setter
    def predictor(self, predictor: Any) -> None:
        self._predictor, self._is_assigned = predictor, True

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
        return self._generate_stepwise(image) if self._is_slow() else self._generate_fast([image])[0]

    def generate_batch(self, images: Sequence[Image]) -> list[list[Record]]:
        """Find the masks of several images of any sizes, encoding images and crops together.

        The records are those that `generate` finds: on a CPU to the last bit, elsewhere up to the rounding of
        an encoder that is given several images (`amg.mask_finder.ENCODED_AT_ONCE`).

        Raises:
            ValueError: As `generate`.
            ImageError: As `generate`, for the first image that it befalls.
        """
        return [self.generate(image) for image in images] if self._is_slow() else self._generate_fast(images)

    def _generate_fast(self, images: Sequence[Image]) -> list[list[Record]]:
        """See `generate_batch`."""
        finder = MaskFinder(self.model, self.config, self.point_grids)
        if self._fitted is not None and self._fitted[0] == self.config:
            finder.points_per_batch = min(finder.points_per_batch, self._fitted[1])
        try:
            found = list(find_in_turn(finder, images))
        finally:
            if finder.points_per_batch < self.config.points_per_batch:
                self.points_per_batch = finder.points_per_batch
                log.warning("memory ran out: points_per_batch is %d from now on", self.points_per_batch)
            self._fitted = self.config, finder.points_per_batch
        empty = finder.nothing_found
        if empty.num_images:
            log.warning(
                "no mask in %d of %d images: %s", empty.num_images, len(images), empty.reason(finder.config)
            )
        return [
            [self._record(mask, (image.shape[0], image.shape[1])) for mask in masks]
            for image, masks in zip(images, found, strict=True)
        ]

    def _is_slow(self) -> bool:
        """Return whether masks are made in the steps of segment_anything; the first time, say why."""
        reason = self._replaced()
        if reason is not None and not self._is_slow_said:
            self._is_slow_said = True
            log.warning("%s is replaced: masks are made as in segment_anything, more slowly", reason)
        return reason is not None

    def _replaced(self) -> str | None:
        """Return what of the generator, or of its predictor, is not ours any more."""
        predictor, step = self._predictor, self.replaced_step()
        if isinstance(self.model, Sam) and _has_own_postprocessing(self.model):
            return "postprocess_masks"
        if step is not None or predictor is None:
            return step
        is_ours = type(predictor) is SamPredictor and predictor.model is self.model
        if is_ours and not self._is_assigned and not vars(predictor).keys() & vars(SamPredictor).keys():
            return None
        return "predictor"

    def _generate_stepwise(self, image: Image) -> list[Record]:
        """See `generate`; in the steps of segment_anything."""
        if self.config.drop_small_masks:
            raise ConfigError(f"drop_small_masks is not possible while {self._replaced()} is replaced")
        with torch.no_grad():
            data = self._generate_masks(image)
            if self.config.min_mask_region_area > 0:
                nms_thresh = max(self.config.box_nms_thresh, self.config.crop_nms_thresh)
                data = self.postprocess_small_regions(data, self.config.min_mask_region_area, nms_thresh)
        columns = zip(
            *(data[name] for name in ("boxes", "iou_preds", "points", "stability_score", "crop_boxes")),
            strict=True,
        )
        return [
            {
                "segmentation": self._segmentation(
                    np.asarray(rle["counts"], dtype=np.int64), (rle["size"][0], rle["size"][1])
                ),
                "area": area_from_rle(rle),
                "bbox": _xywh(box.tolist()),
                "predicted_iou": predicted_iou.item(),
                "point_coords": [point.tolist()],
                "stability_score": stability_score.item(),
                "crop_box": _xywh(crop_box.tolist()),
            }
            for rle, (box, predicted_iou, point, stability_score, crop_box) in zip(
                data["rles"], columns, strict=True
            )
        ]

    def _record(self, mask: FoundMask, size: tuple[int, int]) -> Record:
        """Return the mask in segment_anything's form."""
        return {
            "segmentation": self._segmentation(mask.runs, size),
            "area": mask.area,
            "bbox": list(mask.bbox_xywh),
            "predicted_iou": mask.predicted_iou,
            "point_coords": [list(point) for point in mask.point_coords],
            "stability_score": mask.stability_score,
            "crop_box": list(mask.crop_box_xywh),
        }

    def _segmentation(self, runs: Runs, size: tuple[int, int]) -> Any:
        """Return a mask of (H, W) as ``output_mode`` says."""
        if self.output_mode == "binary_mask":
            return decode_runs(runs, size, max_pixels=size[0] * size[1])
        if self.output_mode == "coco_rle":
            return {"size": list(size), "counts": runs_to_counts(runs)}
        return {"size": list(size), "counts": runs.tolist()}


_POSTPROCESS_MASKS = Sam.postprocess_masks


def _has_own_postprocessing(model: Sam) -> bool:
    """Return whether a subclass, or whoever set it on this model, replaced `Sam.postprocess_masks`."""
    is_set = "postprocess_masks" in vars(model)
    return is_set or getattr(type(model), "postprocess_masks", None) is not _POSTPROCESS_MASKS


def _xywh(box_xyxy: Sequence[float]) -> list[float]:
    """Return [x, y, x1 - x0, y1 - y0]."""
    left, top, right, bottom = box_xyxy
    return [left, top, right - left, bottom - top]


def _checked_grids(point_grids: PointGrids, crop_n_layers: int) -> PointGrids:
    """Return grids as arrays; raise `ConfigError` unless the image and each layer have one with points."""
    try:
        grids = [np.asarray(grid, dtype=np.float64) for grid in point_grids]
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"point_grids holds no numbers: {error}; wanted is one (P, 2) array for each layer"
        ) from error
    for layer, grid in enumerate(grids):
        if grid.ndim != 2 or grid.shape[1] != 2 or len(grid) == 0:
            raise ConfigError(
                f"point_grids[{layer}] has shape {grid.shape}; wanted is (P, 2) with a point or more"
            )
        inside = np.isfinite(grid) & (grid >= 0) & (grid <= 1)
        if not inside.all():
            place = grid[~inside.all(axis=1)][0].tolist()
            raise ConfigError(
                f"point_grids[{layer}] holds the point {place}; points are fractions of the crop, in [0, 1]: "
                "divide pixels by its width and height"
            )
    if len(point_grids) <= crop_n_layers:
        raise ConfigError(
            f"crop_n_layers={crop_n_layers} needs {crop_n_layers + 1} point_grids: one for the whole "
            f"image and one for each layer; {len(point_grids)} were given"
        )
    return grids
