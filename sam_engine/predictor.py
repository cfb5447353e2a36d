"""One image, any prompts: the interactive interface of ``segment_anything``, and the same without a state."""

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sam_engine.compute.device import upload
from sam_engine.modeling.any_encoder import SkipFeatures
from sam_engine.modeling.check_prompts import check_prompts
from sam_engine.modeling.sam import Sam
from sam_engine.modeling.segmenter import ImageEmbedding, Segmenter
from sam_engine.ops.pixels import check_image
from sam_engine.ops.resize import ResizeLongestSide, threshold_in_parts, upscale_logits

IMAGE_FORMATS = ("RGB", "BGR")


class SamPredictor:
    """Encode an image once with `set_image`, then ask for masks as often as wanted.

    Attributes:
        model: The model.
        transform: Maps images, points and boxes to the model's input frame.
        is_image_set: Whether prompts can be answered.
        features: (1, C, h, w) image embedding; None if no image is set. Assigned, ``skip_features`` are None.
        skip_features: Finer maps of models that have them.
        original_size: (H, W) of the image.
        input_size: (H, W) of the image in the model's input frame.
        orig_h, orig_w, input_h, input_w: The same, one by one; only to be read.

    An embedding computed earlier is put back by assigning ``features``, ``original_size``, ``input_size``
    (and ``skip_features`` for tiny) and setting ``is_image_set``. Without any state: `encode` gives an
    embedding, and `predict` takes it; several threads may do both at once with one predictor.
    """

    def __init__(self, sam_model: Segmenter) -> None:
        self.model = sam_model
        self.transform = ResizeLongestSide(sam_model.image_size)
        self.reset_image()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def features(self) -> Tensor | None:
        """The (1, C, h, w) image embedding."""
        return self._features

    @features.setter
    def features(self, features: Tensor | None) -> None:
        """Take an embedding; the skip features of another image are none of its own."""
        self._features = features
        self.skip_features: SkipFeatures | None = None

    def reset_image(self) -> None:
        """Forget the image."""
        self.is_image_set = False
        self.features = None
        self.original_size: tuple[int, int] | None = None
        self.input_size: tuple[int, int] | None = None
        self.orig_h: int | None = None
        self.orig_w: int | None = None
        self.input_h: int | None = None
        self.input_w: int | None = None

    def set_image(self, image: NDArray[np.uint8], image_format: str = "RGB") -> None:
        """Encode an image.

        Args:
            image: (H, W, 3) uint8.
            image_format: Order of its channels, RGB or BGR.

        Raises:
            ValueError: The format is unknown, or the image is of another type or shape.
        """
        if not isinstance(self.model, Sam):
            self._set_embedding(self.encode(image, image_format))
            return
        image = _in_order(image, image_format, self.model.image_format)
        resized = upload(self.transform.apply_image(image), self.device).permute(2, 0, 1).contiguous()
        self.set_torch_image(resized[None], (image.shape[0], image.shape[1]))

    def encode(self, image: NDArray[np.uint8], image_format: str = "RGB") -> ImageEmbedding:
        """Encode an image for `predict`, whatever image is set, and leave that as it is.

        `save_embedding` and `load_embedding` keep it in a file.

        Args:
            image: As of `set_image`.
            image_format: As of `set_image`.

        Raises:
            ValueError: As `set_image`.
        """
        return self.model.encode([_in_order(image, image_format, "RGB")])[0]

    @torch.no_grad()
    def set_torch_image(self, transformed_image: Tensor, original_image_size: tuple[int, ...]) -> None:
        """Encode an image that is already in the model's input frame.

        Args:
            transformed_image: (1, 3, H, W) RGB in [0, 255], resized by ``transform``.
            original_image_size: (H, W) before it was resized.

        Raises:
            ValueError: The image is of another shape, or its longer side is not the model's.
            TypeError: The model is not a `Sam`.
        """
        side = self.model.image_size
        shape = tuple(transformed_image.shape)
        if len(shape) != 4 or shape[:2] != (1, 3) or max(shape[2:]) != side:
            raise ValueError(
                f"transformed_image has shape {shape}; wanted is (1, 3, H, W) with a longer side of {side}, "
                "as transform.apply_image_torch makes it"
            )
        if not isinstance(self.model, Sam):
            raise TypeError(f"set_torch_image needs a Sam, not a {type(self.model).__name__}; use set_image")
        features, skips = self.model.encode_inputs(self.model.preprocess(transformed_image))
        height, width = original_image_size
        self._set_embedding(
            ImageEmbedding(
                features=features,
                skip_features=skips,
                input_size=(shape[2], shape[3]),
                original_size=(height, width),
            )
        )

    def predict(
        self,
        point_coords: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        *,
        embedding: ImageEmbedding | None = None,
    ) -> tuple[NDArray[np.generic], NDArray[np.float32], NDArray[np.float32]]:
        """Return masks for one prompt on the image, or for several boxes.

        Args:
            point_coords: (N, 2) points (x, y) in pixels of the image.
            point_labels: (N,): 1 foreground, 0 background.
            box: (4,) XYXY in pixels of the image. Or (P, 4), two or more, each a prompt of its own: points,
                labels and mask_input, where given too, then have an axis P before the others.
            mask_input: (1, 4h, 4w) logits of a previous round, its third result.
            multimask_output: Return three alternatives, which suits a single click, instead of one mask.
            return_logits: Return float32 logits instead of bool masks.
            embedding: Of the image, from `encode`, instead of the one that is set.

        Returns:
            Masks (M, H, W) in the image's size; predicted IoU (M,); low-resolution logits (M, 4h, 4w). Of
            several boxes with an axis P before the others.

        Raises:
            RuntimeError: No image is set, and no embedding given.
            ValueError: Prompts do not fit together; see `check_prompts`. Or the embedding is another model's.
        """
        original_size = (embedding or self._embedding()).original_size
        is_batch = box is not None and np.ndim(box) > 1 and np.shape(box) != (1, 4)
        check_prompts(
            point_coords, point_labels, box, mask_input, mask_size=self._mask_size(), is_batch=is_batch
        )
        coords_torch = labels_torch = box_torch = mask_torch = None
        if point_coords is not None:
            coords_torch = self._float(self.transform.apply_coords(np.asarray(point_coords), original_size))
            labels_torch = torch.as_tensor(
                np.ascontiguousarray(point_labels), dtype=torch.int, device=self.device
            )
        if box is not None:
            box_torch = self._float(self.transform.apply_boxes(np.asarray(box), original_size))
        if mask_input is not None:
            mask_torch = self._float(mask_input)
        if not is_batch:
            coords_torch, labels_torch, mask_torch = (
                None if x is None else x[None] for x in (coords_torch, labels_torch, mask_torch)
            )
        outputs = self.predict_torch(
            coords_torch,
            labels_torch,
            box_torch,
            mask_torch,
            multimask_output,
            return_logits=return_logits,
            # A predict_torch of segment_anything's signature may stand in.
            **({} if embedding is None else {"embedding": embedding}),
        )
        masks, predicted_iou, low_res_logits = ((x if is_batch else x[0]).cpu().numpy() for x in outputs)
        return masks, predicted_iou, low_res_logits

    @torch.no_grad()
    def predict_torch(
        self,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        *,
        embedding: ImageEmbedding | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return masks for P prompts on the image, which are already in the model's input frame.

        Args:
            point_coords: (P, N, 2) points (x, y), mapped by ``transform``.
            point_labels: (P, N): 1 foreground, 0 background, -1 not a point.
            boxes: (P, 4) XYXY, mapped by ``transform``.
            mask_input: (P, 1, 4h, 4w) logits of a previous round.
            multimask_output: Return three alternatives for each prompt instead of one mask.
            return_logits: Return float32 logits instead of bool masks, which takes four times the memory.
            embedding: Of the image, from `encode`, instead of the one that is set.

        Returns:
            Masks (P, M, H, W) in the image's size; predicted IoU (P, M); low-resolution logits
            (P, M, 4h, 4w).

        Raises:
            RuntimeError: No image is set, and no embedding given.
            ValueError: Prompts do not fit together; see `check_prompts`. Or the embedding is another model's.
        """
        if embedding is None:
            embedding = self._embedding()
        else:
            self._check_embedding(embedding)
        check_prompts(point_coords, point_labels, boxes, mask_input, mask_size=self._mask_size())
        low_res_logits, predicted_iou = self.model.decode(
            embedding,
            point_coords=point_coords,
            point_labels=point_labels,
            boxes=boxes,
            mask_input=mask_input,
            multimask_output=multimask_output,
        )
        sizes = embedding.input_size, embedding.original_size

        def upscale(logits: Tensor) -> Tensor:
            if isinstance(self.model, Sam):
                return self.model.postprocess_masks(logits, *sizes)
            return upscale_logits(logits, self.model.image_size, *sizes)

        if return_logits:
            masks = upscale(low_res_logits)
        else:
            pixels = max(self.model.image_size**2, math.prod(embedding.original_size))
            masks = threshold_in_parts(upscale, low_res_logits, self.model.mask_threshold, pixels)
        return masks, predicted_iou, low_res_logits

    def get_image_embedding(self) -> Tensor:
        """Return the (1, C, h, w) embedding of the image.

        Raises:
            RuntimeError: No image is set.
        """
        return self._embedding().features

    def _check_embedding(self, embedding: ImageEmbedding) -> None:
        """Raise `ValueError` unless an embedding has the shape of this model's, and lies on its device."""
        encoder = getattr(self.model, "prompt_encoder", None)
        if encoder is not None and hasattr(encoder, "image_embedding_size"):
            wanted = (1, encoder.embed_dim, *encoder.image_embedding_size)
            if tuple(embedding.features.shape) != wanted:
                raise ValueError(
                    f"the embedding has shape {tuple(embedding.features.shape)}; this model's is {wanted}"
                )
        if embedding.features.device != self.device:
            raise ValueError(
                f"the embedding is on {embedding.features.device}, the model on {self.device}; "
                "load_embedding takes a device"
            )

    def _float(self, values: ArrayLike) -> Tensor:
        """Return float32 on the model's device."""
        return torch.as_tensor(np.ascontiguousarray(values), dtype=torch.float32, device=self.device)

    def _mask_size(self) -> tuple[int, int] | None:
        """Return the (h, w) of masks that the model takes, if it says so."""
        size: tuple[int, int] | None = getattr(
            getattr(self.model, "prompt_encoder", None), "mask_input_size", None
        )
        return size

    def _set_embedding(self, embedding: ImageEmbedding) -> None:
        """Take over a new image."""
        self.features = embedding.features
        self.skip_features = embedding.skip_features
        self.original_size = embedding.original_size
        self.input_size = embedding.input_size
        self.orig_h, self.orig_w = embedding.original_size
        self.input_h, self.input_w = embedding.input_size
        self.is_image_set = True

    def _embedding(self) -> ImageEmbedding:
        """Return what the attributes say of the image, or raise `RuntimeError`."""
        if (
            not self.is_image_set
            or self.features is None
            or self.original_size is None
            or self.input_size is None
        ):
            raise RuntimeError("no image is set: call set_image first")
        return ImageEmbedding(
            features=self.features,
            skip_features=self.skip_features,
            original_size=self.original_size,
            input_size=self.input_size,
        )


def _in_order(image: NDArray[np.uint8], image_format: str, wanted: str) -> NDArray[np.uint8]:
    """Return an image with its channels in the order that is wanted.

    Raises:
        ValueError: The format is unknown, or the image is of another type or shape.
    """
    if image_format not in IMAGE_FORMATS:
        raise ValueError(f"image_format is {image_format!r}; choose from {', '.join(IMAGE_FORMATS)}")
    check_image(image)
    return np.ascontiguousarray(image if image_format == wanted else image[..., ::-1])
