"""Make a network with random weights find about as many masks as a trained one.

How long the mask generator takes depends on how many candidates pass its filters; of a random network none
does. In the published trace of segment-anything-fast (ViT-H, one photo), 68 % of the candidates pass the
filter on predicted IoU, and 42 % that on stability too. `calibrate` changes the decoder's last layers so that
one image comes out like that, separately for each of a prompt's three masks:

1. Upscaling weights are averaged over their 2 x 2 pixels: the noise gets the grain of tokens, which is nearer
   to the smooth masks of trained models than noise of single pixels is.
2. The bias of the last hypernetwork layer moves the logits so that a quarter of all pixels is foreground.
3. Their scale is searched for at which enough of the candidates are stable.
4. Weight and bias of the last layer of the IoU head move and stretch the predictions, so that the wanted
   quantile falls on the threshold, with a deviation of 0.05.

The candidates of one image still overlap more than those of trained models: fewer are left after NMS.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sam_engine.amg.measure import LogitFrame
from sam_engine.amg.measure_cpu import measure_masks
from sam_engine.build_sam import load_model
from sam_engine.config import AmgConfig, ModelConfig
from sam_engine.modeling.sam import Sam
from sam_engine.modeling.segmenter import ImageEmbedding
from sam_engine.ops.points import build_point_grid

SHARE_IOU = 0.68
SHARE_BOTH = 0.42
FOREGROUND = 0.25
IOU_DEVIATION = 0.05
POINTS_PER_SIDE = 8
SEARCH_STEPS = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Survival:
    """Shares of an image's candidates."""

    iou: float
    """That pass the filter on predicted IoU."""
    both: float
    """That pass the filter on stability too."""


def measure_survival(sam: Sam, embedding: ImageEmbedding, config: AmgConfig) -> Survival:
    """Return the shares for a grid of 8 x 8 points on an encoded image."""
    logits, predicted_iou = _decode_grid(sam, embedding)
    good = predicted_iou > config.thresholds.pred_iou_thresh
    stable = _stability(sam, embedding, logits[good], config.stability_score_offset)
    stable = stable >= config.thresholds.stability_score_thresh
    return Survival(iou=good.float().mean().item(), both=stable.sum().item() / good.numel())


def save_calibrated(
    model: str, image: NDArray[np.uint8], config: AmgConfig, path: Path, device: str = "cpu"
) -> None:
    """Write weights of a ViT of the releases that was never trained but finds masks on this image.

    On a CPU, whatever the device, vit_h would take minutes.
    """
    sam = load_model(ModelConfig(name=model, checkpoint="random", device=device))
    calibrate(sam, sam.encode([image])[0], config)
    torch.save(sam.cpu().state_dict(), path)


@torch.no_grad()
def calibrate(sam: Sam, embedding: ImageEmbedding, config: AmgConfig) -> None:
    """Change the decoder of a ViT model in place; the embedding is of an image encoded by this model."""
    decoder = sam.mask_decoder
    for layer in (decoder.output_upscaling[0], decoder.output_upscaling[3]):
        weight = layer.get_parameter("weight")
        weight.copy_(weight.mean(dim=(2, 3), keepdim=True).expand_as(weight))
    _, predicted_iou = _decode_grid(sam, embedding)
    _calibrate_iou_head(
        _last_layer(decoder.iou_prediction_head), predicted_iou, config.thresholds.pred_iou_thresh
    )

    logits, predicted_iou = _decode_grid(sam, embedding)
    mean_pixel = _mean_upscaled_pixel(sam, embedding)
    heads = [_last_layer(head) for head in decoder.output_hypernetworks_mlps][1:]
    for mask, head in enumerate(heads):
        visible = _visible(logits[:, mask], embedding, sam.image_size).flatten().cpu().numpy()
        shift = float(np.quantile(visible, 1 - FOREGROUND))
        head.bias.sub_(shift * mean_pixel / mean_pixel.square().sum())
    logits, _ = _decode_grid(sam, embedding)
    for mask, head in enumerate(heads):
        good = predicted_iou[:, mask] > config.thresholds.pred_iou_thresh
        scale = _search_scale(sam, embedding, logits[good, mask], config)
        head.weight.mul_(scale)
        head.bias.mul_(scale)


def _decode_grid(sam: Sam, embedding: ImageEmbedding) -> tuple[Tensor, Tensor]:
    """Return logits (P, 3, 4h, 4w) and predicted IoU (P, 3) of a grid of points."""
    height, width = embedding.input_size
    points = torch.from_numpy(build_point_grid(POINTS_PER_SIDE) * (width, height)).float().to(sam.device)
    labels = torch.ones(len(points), 1, dtype=torch.int, device=sam.device)
    with torch.no_grad():
        return sam.decode(embedding, point_coords=points[:, None], point_labels=labels)


def _calibrate_iou_head(layer: nn.Linear, predicted_iou: Tensor, threshold: float) -> None:
    """Stretch and move the predictions of mask tokens 1 to 3."""
    stretch = IOU_DEVIATION / predicted_iou.std(dim=0)
    quantile = predicted_iou.quantile(1 - SHARE_IOU, dim=0)
    layer.weight[1:].mul_(stretch[:, None])
    layer.bias[1:] = (layer.bias[1:] - quantile) * stretch + threshold


def _mean_upscaled_pixel(sam: Sam, embedding: ImageEmbedding) -> Tensor:
    """Return the mean (C / 8,) of the pixels that hypernetworks are multiplied with, over a few prompts."""
    embedding = sam.prepare(embedding)
    height, width = embedding.input_size
    points = torch.from_numpy(build_point_grid(2) * (width, height)).float().to(sam.device)
    labels = torch.ones(len(points), 1, dtype=torch.int, device=sam.device)
    decoded = sam.decode_prompts(embedding, point_coords=points[:, None], point_labels=labels)
    image = decoded.image.transpose(1, 2).unflatten(2, embedding.features.shape[-2:])
    upscaled: Tensor = sam.mask_decoder.output_upscaling(image)  # (P, C / 8, 4h, 4w)
    return _visible(upscaled, embedding, sam.image_size).mean(dim=(0, 2, 3))


def _visible(maps: Tensor, embedding: ImageEmbedding, image_size: int) -> Tensor:
    """Return the part of (..., 4h, 4w) maps that is image and not padding."""
    height, width = (max(1, maps.shape[-1] * side // image_size) for side in embedding.input_size)
    return maps[..., :height, :width]


def _search_scale(sam: Sam, embedding: ImageEmbedding, logits: Tensor, config: AmgConfig) -> float:
    """Return the factor for logits (N, 4h, 4w) at which the wanted share of them is stable."""
    low, high = -10.0, 20.0  # powers of two: scores rise with the scale
    for _ in range(SEARCH_STEPS):
        middle = (low + high) / 2
        # Stretching the logits by a factor narrows the two cuts by the same.
        stable = _stability(sam, embedding, logits, config.stability_score_offset / 2**middle)
        share = (stable >= config.thresholds.stability_score_thresh).float().mean().item()
        low, high = (middle, high) if share < SHARE_BOTH / SHARE_IOU else (low, middle)
    return float(2**high)


def _stability(sam: Sam, embedding: ImageEmbedding, logits: Tensor, offset: float) -> Tensor:
    """Return the stability scores (N,) of logits (N, 4h, 4w)."""
    frame = LogitFrame(
        image_size=sam.image_size, input_size=embedding.input_size, original_size=embedding.original_size
    )
    return measure_masks(logits, frame, sam.mask_threshold, offset).stability_score


def _last_layer(head: nn.Module) -> nn.Linear:
    """Return the last layer of a perceptron of the decoder."""
    layer = head.get_submodule("layers.2")
    assert isinstance(layer, nn.Linear)
    return layer
