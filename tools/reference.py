"""The ``segment_anything`` 1.0 package beside ours: its model with our sizes, its generator with our model.

Tests and `tools.equivalence` compare with it, and `tools.bench` times it. Of torchvision it uses two
functions and the resizing of images; a stand-in serves where torchvision is not installed, which does the
same on a CPU.
"""

import copy
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from sam_engine.amg.mask_finder import thresholds_of
from sam_engine.catalogue import Architecture
from sam_engine.config import AmgConfig
from sam_engine.errors import ConfigError
from sam_engine.modeling.sam import Sam
from sam_engine.modeling.segmenter import ImageEmbedding, Segmenter

Pixels = NDArray[np.uint8]
"""(H, W, 3) RGB."""


def import_segment_anything(device: torch.device | str = "cpu") -> ModuleType:
    """Return the package.

    Raises:
        ConfigError: It is not installed, or the device is not the CPU and torchvision is not installed.
    """
    if importlib.util.find_spec("segment_anything") is None:
        raise ConfigError("the reference is not installed: pip install segment-anything==1.0")
    if has_torchvision():
        return importlib.import_module("segment_anything")
    if torch.device(device).type != "cpu":
        raise ConfigError(f"the reference on {device} needs torchvision: pip install torchvision")
    with _stand_in_importable():
        return importlib.import_module("segment_anything")


def has_torchvision() -> bool:
    """Return whether the reference runs with torchvision and not with the stand-in."""
    return importlib.util.find_spec("torchvision") is not None


@contextmanager
def _stand_in_importable() -> Iterator[None]:
    """Only while the reference is imported: other packages look in sys.modules for a real torchvision."""
    modules = stand_in_modules()
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


def build_reference(package: ModuleType, architecture: Architecture) -> Any:
    """Return the reference's model of these sizes, in eval mode."""
    modeling = package.modeling
    size, channels = architecture.image_size, architecture.prompt_embed_dim
    return modeling.Sam(
        image_encoder=modeling.ImageEncoderViT(
            img_size=size,
            embed_dim=architecture.embed_dim,
            depth=architecture.depth,
            num_heads=architecture.num_heads,
            out_chans=channels,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=architecture.window_size,
            global_attn_indexes=architecture.global_attn_indexes,
        ),
        prompt_encoder=modeling.PromptEncoder(
            embed_dim=channels,
            image_embedding_size=(size // 16, size // 16),
            input_image_size=(size, size),
            mask_in_chans=16,
        ),
        mask_decoder=modeling.MaskDecoder(
            transformer_dim=channels,
            transformer=modeling.TwoWayTransformer(
                depth=2,
                embedding_dim=channels,
                num_heads=architecture.decoder_heads,
                mlp_dim=architecture.decoder_mlp_dim,
            ),
            iou_head_hidden_dim=architecture.iou_head_hidden_dim,
        ),
        pixel_mean=architecture.pixel_mean,
        pixel_std=architecture.pixel_std,
    ).eval()


class PredictorOverSegmenter:
    """What the reference's generator asks of its predictor, answered by a `Segmenter`."""

    def __init__(self, model: Segmenter, package: ModuleType) -> None:
        self.model = model
        self.device = model.device
        self.transform = package.utils.transforms.ResizeLongestSide(model.image_size)

    def set_image(self, image: Pixels) -> None:
        """Encode an (H, W, 3) image."""
        self.embedding = self.model.encode([image])[0]

    def reset_image(self) -> None:
        """Forget the image."""
        del self.embedding

    def predict_torch(
        self, point_coords: Tensor, point_labels: Tensor, multimask_output: bool, return_logits: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits of three masks for each prompt in the image's size, scores, low-resolution logits."""
        assert multimask_output
        assert return_logits
        logits, scores = self.model.decode(
            self.embedding, point_coords=point_coords, point_labels=point_labels
        )
        side, (height, width) = self.model.image_size, self.embedding.input_size
        square = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
        size = self.embedding.original_size
        masks = F.interpolate(square[..., :height, :width], size, mode="bilinear", align_corners=False)
        return masks, scores, logits


def reference_generator(package: ModuleType, model: Segmenter, **settings: Any) -> Any:
    """Return the reference's generator, asking ``model``."""
    stand_in = SimpleNamespace(image_encoder=SimpleNamespace(img_size=model.image_size), device=model.device)
    generator = package.SamAutomaticMaskGenerator(stand_in, **settings)
    generator.predictor = PredictorOverSegmenter(model, package)
    return generator


class SlowTwin:
    """A `Segmenter`: our model in fp32, decoding by the operations of the released model in their order."""

    def __init__(self, sam: Sam) -> None:
        self.sam = copy.copy(sam)
        self.sam.precision = "fp32"
        self.mask_threshold = sam.mask_threshold
        self.image_size = sam.image_size
        self.device = sam.device

    def encode(self, images: Sequence[Pixels]) -> list[ImageEmbedding]:
        """See `Segmenter.encode`."""
        return self.sam.encode(images)

    @torch.no_grad()
    def decode(
        self,
        embedding: ImageEmbedding,
        *,
        point_coords: Tensor | None = None,
        point_labels: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        """See `Segmenter.decode`; only points, three masks each."""
        assert point_coords is not None
        assert point_labels is not None
        points = (point_coords, point_labels)
        sparse, dense = self.sam.prompt_encoder(points, None, None)
        places = self.sam.prompt_encoder.places(points, None)
        pe, skips = self.sam.prompt_encoder.get_dense_pe(), embedding.skip_features
        logits, scores = self.sam.mask_decoder(embedding.features, pe, sparse, dense, True, skips, places)
        return logits, scores


def drive_reference(
    package: ModuleType, sam: Sam, architecture: Architecture, config: AmgConfig, output_mode: str
) -> Any:
    """Return the reference's generator with our weights: on its own model, else on our slow twin.

    The weights are shared, so that there is no second copy of them in memory.
    """
    config = config.with_thresholds(thresholds_of(sam))
    settings = {name: getattr(config, name) for name in REFERENCE_SETTINGS}
    if architecture.family.has_skip_features:  # which the package's decoder does not know
        return reference_generator(package, SlowTwin(sam), output_mode=output_mode, **settings)
    model = build_reference(package, architecture)
    model.load_state_dict(sam.state_dict(), assign=True)
    model.to(sam.device)
    return package.SamAutomaticMaskGenerator(model, output_mode=output_mode, **settings)


REFERENCE_SETTINGS = (
    "points_per_side",
    "points_per_batch",
    "pred_iou_thresh",
    "stability_score_thresh",
    "stability_score_offset",
    "box_nms_thresh",
    "crop_n_layers",
    "crop_nms_thresh",
    "crop_overlap_ratio",
    "crop_n_points_downscale_factor",
    "min_mask_region_area",
)


COORDINATE_TRICK_MAX_NUMEL = 4000
"""Above this ``boxes.numel()``, torchvision's CPU path of batched_nms takes the classes one by one."""


def box_area(boxes: Tensor) -> Tensor:
    """Return the areas of XYXY boxes (N, 4); pixels on the far edges do not count."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Return indices of the boxes kept, by descending score.

    Ties keep their order, and the 0 / 0 of degenerate boxes suppresses nothing.
    """
    order = scores.sort(descending=True, stable=True).indices
    boxes, areas = boxes[order], box_area(boxes)[order]
    alive = torch.ones(len(boxes), dtype=torch.bool)
    for i in range(len(boxes)):
        if not alive[i]:
            continue
        rest = boxes[i + 1 :]
        sides = torch.minimum(boxes[i, 2:], rest[:, 2:]) - torch.maximum(boxes[i, :2], rest[:, :2])
        overlap = sides.clamp(min=0).prod(dim=1)
        iou = overlap / (areas[i] + areas[i + 1 :] - overlap)
        # torchvision's CPU kernel compares the float32 IoU with the threshold as a double.
        alive[i + 1 :] &= ~(iou.double() > iou_threshold)
    return order[alive]


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Return what `nms` keeps within each class, by descending score."""
    if boxes.numel() == 0:
        return torch.empty(0, dtype=torch.int64)
    if boxes.numel() <= COORDINATE_TRICK_MAX_NUMEL:
        shift = idxs.to(boxes) * (boxes.max() + 1)
        return nms(boxes + shift[:, None], scores, iou_threshold)
    keep = torch.zeros(len(boxes), dtype=torch.bool)
    for label in idxs.unique():
        members = torch.where(idxs == label)[0]
        keep[members[nms(boxes[members], scores[members], iou_threshold)]] = True
    kept = torch.where(keep)[0]
    return kept[scores[kept].sort(descending=True).indices]


def to_pil_image(image: np.ndarray) -> Image.Image:
    """Wrap (H, W, 3) uint8."""
    return Image.fromarray(image)


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize to (H, W) with Pillow's bilinear filter."""
    return image if image.size == size[::-1] else image.resize(size[::-1], Image.Resampling.BILINEAR)


def stand_in_modules() -> dict[str, ModuleType]:
    """Return modules by name that hold the few torchvision functions that the reference uses."""
    contents = {
        "torchvision": {},
        "torchvision.ops": {},
        "torchvision.ops.boxes": {"box_area": box_area, "nms": nms, "batched_nms": batched_nms},
        "torchvision.transforms": {},
        "torchvision.transforms.functional": {"resize": resize, "to_pil_image": to_pil_image},
    }
    modules = {name: ModuleType(name) for name in contents}
    for name, members in contents.items():
        modules[name].__dict__.update(members)
    return modules
