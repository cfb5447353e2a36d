"""The mask generator in the steps of ``segment_anything``, for subclasses that replace one of them.

The same masks in the same order, made slowly: every mask in full resolution, through a predictor.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sam_engine.config import is_on
from sam_engine.ops.boxes import (
    CropBox,
    box_area,
    box_nms,
    generate_crop_boxes,
    is_box_near_crop_edge,
    uncrop_boxes_xyxy,
    uncrop_points,
)
from sam_engine.ops.masks import (
    batched_mask_to_box,
    calculate_stability_score,
    remove_small_regions,
    uncrop_masks,
)
from sam_engine.utils.amg import mask_to_rle_pytorch, rle_to_mask
from sam_engine.utils.mask_data import MaskData, batch_iterator

log = logging.getLogger(__name__)

STEPS = ("_generate_masks", "_process_crop", "_process_batch", "postprocess_small_regions")


class Stepwise:
    """The steps. Settings, ``predictor`` and ``point_grids`` are those of the generator that inherits it."""

    predictor: Any
    point_grids: Sequence[NDArray[np.floating]]
    points_per_batch: Any
    pred_iou_thresh: Any
    stability_score_thresh: Any
    stability_score_offset: Any
    box_nms_thresh: Any
    crop_n_layers: Any
    crop_nms_thresh: Any
    crop_overlap_ratio: Any
    max_mask_area_fraction: Any

    def replaced_step(self) -> str | None:
        """Return the name of a step that a subclass, or the generator itself, replaces; None if none is."""
        for name in STEPS:
            if getattr(type(self), name) is not getattr(Stepwise, name) or name in vars(self):
                return name
        return None

    def _generate_masks(self, image: NDArray[np.uint8]) -> MaskData:
        """Return the masks of all crops of an (H, W, 3) image without duplicates, as arrays.

        Columns: ``rles``, ``boxes`` (XYXY), ``iou_preds``, ``points``, ``stability_score``, ``crop_boxes``.
        """
        size = image.shape[:2]
        crop_boxes, layers = generate_crop_boxes(size, self.crop_n_layers, self.crop_overlap_ratio)
        data = MaskData()
        for crop_box, layer in zip(crop_boxes, layers, strict=True):
            data.cat(self._process_crop(image, crop_box, layer, size))
        if len(crop_boxes) > 1:
            scores = 1 / box_area(data["crop_boxes"])
            data.filter(box_nms(data["boxes"], scores.to(data["boxes"].device), self.crop_nms_thresh))
        data.to_numpy()
        return data

    def _process_crop(
        self, image: NDArray[np.uint8], crop_box: CropBox, crop_layer_idx: int, orig_size: tuple[int, ...]
    ) -> MaskData:
        """Return the masks of one crop, in the image's frame, by descending predicted IoU."""
        left, top, right, bottom = crop_box
        cropped = image[top:bottom, left:right, :]
        size = cropped.shape[:2]
        self.predictor.set_image(cropped)
        points = self.point_grids[crop_layer_idx] * np.array(size)[None, ::-1]
        data = MaskData()
        for (batch,) in batch_iterator(self.points_per_batch, points):
            data.cat(self._process_batch(batch, size, crop_box, orig_size))
        self.predictor.reset_image()
        data.filter(box_nms(data["boxes"], data["iou_preds"], self.box_nms_thresh))
        data["boxes"] = uncrop_boxes_xyxy(data["boxes"], crop_box)
        data["points"] = uncrop_points(data["points"], crop_box)
        data["crop_boxes"] = torch.tensor([crop_box] * len(data["rles"])).reshape(-1, 4)
        return data

    def _process_batch(
        self,
        points: NDArray[np.floating],
        im_size: tuple[int, ...],
        crop_box: CropBox,
        orig_size: tuple[int, ...],
    ) -> MaskData:
        """Return those masks of some points (P, 2) of a crop that pass the filters; boxes are of the crop."""
        height, width = orig_size
        predictor = self.predictor
        coords = torch.as_tensor(predictor.transform.apply_coords(points, im_size), device=predictor.device)
        labels = torch.ones(len(coords), dtype=torch.int, device=coords.device)
        masks, iou_preds, _ = predictor.predict_torch(
            coords[:, None, :], labels[:, None], multimask_output=True, return_logits=True
        )
        data = MaskData(
            masks=masks.flatten(0, 1),
            iou_preds=iou_preds.flatten(0, 1),
            points=torch.as_tensor(points.repeat(masks.shape[1], axis=0)),
        )
        del masks
        finite = data["iou_preds"].isfinite() & data["masks"].sum(dim=(-2, -1)).isfinite()
        if not finite.all():
            log.warning("%d of %d masks are not finite; they were dropped", (~finite).sum(), len(finite))
            data.filter(finite)
        if is_on(self.pred_iou_thresh):
            data.filter(data["iou_preds"] > self.pred_iou_thresh)
        threshold = predictor.model.mask_threshold
        data["stability_score"] = calculate_stability_score(
            data["masks"], threshold, self.stability_score_offset
        )
        if is_on(self.stability_score_thresh):
            data.filter(data["stability_score"] >= self.stability_score_thresh)
        data["masks"] = data["masks"] > threshold
        if self.max_mask_area_fraction < 1:
            data.filter(data["masks"].sum(dim=(-2, -1)) < self.max_mask_area_fraction * height * width)
        data["boxes"] = batched_mask_to_box(data["masks"])
        data.filter(~is_box_near_crop_edge(data["boxes"], crop_box, (0, 0, width, height)))
        data["masks"] = uncrop_masks(data["masks"], crop_box, height, width)
        data["rles"] = mask_to_rle_pytorch(data["masks"])
        del data["masks"]
        return data

    @staticmethod
    def postprocess_small_regions(mask_data: MaskData, min_area: int, nms_thresh: float) -> MaskData:
        """Fill small holes, remove small islands, then drop the duplicates that this made; edits in place."""
        if len(mask_data["rles"]) == 0:
            return mask_data
        masks, scores = [], []
        for rle in mask_data["rles"]:
            mask, filled = remove_small_regions(rle_to_mask(rle), min_area, mode="holes")
            mask, cleared = remove_small_regions(mask, min_area, mode="islands")
            masks.append(torch.as_tensor(mask)[None])
            scores.append(float(not filled and not cleared))
        boxes = torch.cat([batched_mask_to_box(mask) for mask in masks])
        kept = box_nms(boxes, torch.tensor(scores), nms_thresh)
        for row in kept.tolist():
            if scores[row] == 0:
                mask_data["rles"][row] = mask_to_rle_pytorch(masks[row])[0]
                mask_data["boxes"][row] = boxes[row]
        mask_data.filter(kept)
        return mask_data
