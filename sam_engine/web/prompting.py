"""The model that answers prompts on pages: images encoded once, masks decoded here where a browser cannot.

Knows nothing of HTTP. torch is imported when the first image is asked for.
"""

import base64
import binascii
import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sam_engine.checkpoints.resolve import Checkpoint, resolve_checkpoint
from sam_engine.config import AmgConfig, ModelConfig
from sam_engine.storage.embedding_cache import EmbeddingCache, EmbeddingKey, default_folder
from sam_engine.web.prompt_images import PromptImage

if TYPE_CHECKING:
    from sam_engine.modeling.segmenter import ImageEmbedding, Segmenter

log = logging.getLogger(__name__)
MAX_POINTS = 1000
MAX_COORDINATE = 1e6
"""In pixels."""
KEPT_IMAGES = 4
"""Embeddings, and masks of everything, that stay in memory."""
EVERYTHING = AmgConfig(points_per_side=16)
"""How all masks of an image are found: a person waits for them."""

_Kept = TypeVar("_Kept")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt, in pixels of the image."""

    point_coords: NDArray[np.float32]
    """(N, 2) as (x, y)."""
    point_labels: NDArray[np.int64]
    """(N,): 1 foreground, 0 background."""
    box: NDArray[np.float32] | None
    """(4,) XYXY."""
    mask_input: NDArray[np.float32] | None
    """(1, 4h, 4w) logits of a previous answer."""

    @property
    def is_clear(self) -> bool:
        """More than a click: one mask is meant."""
        return self.box is not None or len(self.point_labels) > 1 or self.mask_input is not None


class PromptModel:
    """A model with the images that it has encoded. Safe to use from several threads."""

    def __init__(
        self,
        config: ModelConfig,
        cache: EmbeddingCache,
        *,
        load: "Callable[[ModelConfig, Checkpoint], Segmenter] | None" = None,
    ) -> None:
        """Note what is to be loaded when first asked.

        Args:
            config: The model.
            cache: Of embeddings, shared with other programs.
            load: What makes the model; None: `load_model`.
        """
        self.config = config
        self.cache = cache
        self._load = load
        self._loading, self._encoding, self._keeping = threading.Lock(), threading.Lock(), threading.Lock()
        self._embeddings: OrderedDict[EmbeddingKey, ImageEmbedding] = OrderedDict()
        self._everything: OrderedDict[EmbeddingKey, list[dict[str, Any]]] = OrderedDict()
        self._ahead = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode-ahead")
        self._next: Future[bytes] | None = None

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The weights, found and checked."""
        return resolve_checkpoint(self.config)

    @cached_property
    def _model(self) -> "Segmenter":
        if self._load is not None:
            return self._load(self.config, self.checkpoint)
        from sam_engine.build_sam import load_model  # late: a viewer starts without torch

        return load_model(self.config, self.checkpoint)

    @property
    def model(self) -> "Segmenter":
        """The model, which is loaded once.

        Raises:
            CheckpointError: Its weights cannot be had, or do not fit.
            ConfigError: This machine has no such device.
        """
        with self._loading:
            return self._model

    @property
    def weights(self) -> str:
        """What tells the weights from others: the digest of their file."""
        return self.checkpoint.sha256 or f"random {self.config.name}"

    def about(self) -> dict[str, Any]:
        """Return what a page must know of the model, which is loaded for it."""
        model = self.model
        return {
            "name": self.config.name,
            "checkpoint": self.checkpoint.name,
            "is_random": self.checkpoint.sha256 is None,
            "image_size": model.image_size,
            "mask_threshold": model.mask_threshold,
        }

    def key_of(self, image: PromptImage) -> EmbeddingKey:
        """Return what an image's embedding is kept under."""
        return EmbeddingKey(
            image_sha256=image.sha256,
            weights=self.weights,
            precision=self.config.precision,
            view=image.view,
        )

    def embedding(self, image: PromptImage) -> bytes:
        """Return an image's embedding, maps in float16, as `embedding_to_bytes` makes it.

        It comes from the cache; an image that is not there is encoded and put there.

        Raises:
            ImageError: The image cannot be had.
        """
        key = self.key_of(image)
        data = self.cache.get(key)
        if data is not None:
            return data
        with self._encoding:
            data = self.cache.get(key)  # another thread was first
            return data if data is not None else self._encode(key, image)

    def _encode(self, key: EmbeddingKey, image: PromptImage) -> bytes:
        from sam_engine.modeling.embedding_file import embedding_to_bytes

        [embedding] = self.model.encode([image.pixels()])
        data = embedding_to_bytes(embedding, in_half=True)
        try:
            self.cache.put(key, data)
        except OSError as error:  # a full disk costs time, not the image
            log.warning("%s: the embedding is not kept: %s", self.cache.folder, error)
        return data

    def encode_ahead(self, image: PromptImage) -> None:
        """Encode an image in the background, if need be; of several that wait, the last is encoded."""
        with self._keeping:
            if self._next is not None:
                self._next.cancel()
            self._next = self._ahead.submit(self.embedding, image)

    def predict(self, image: PromptImage, prompt: Prompt) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return logits (M, 4h, 4w) and predicted IoU (M,) of a prompt.

        Three alternatives; for a prompt that `Prompt.is_clear`, the mask that is meant comes before them.

        Raises:
            ImageError: The image cannot be had.
            ValueError: The prompt does not fit the model.
        """
        import torch

        model = self.model
        embedding = self._embedding_in_memory(image)
        scale = np.divide(embedding.input_size[::-1], embedding.original_size[::-1])

        def tensor(values: NDArray[np.generic]) -> "torch.Tensor":
            return torch.from_numpy(np.ascontiguousarray(values))[None].to(model.device)

        box, has_points = prompt.box, len(prompt.point_labels) > 0
        decode = partial(
            model.decode,
            embedding,
            point_coords=tensor((prompt.point_coords * scale).astype(np.float32)) if has_points else None,
            point_labels=tensor(prompt.point_labels) if has_points else None,
            boxes=None if box is None else tensor((box * np.tile(scale, 2)).astype(np.float32)),
            mask_input=None if prompt.mask_input is None else tensor(prompt.mask_input),
        )
        with torch.no_grad():
            kinds = (False, True) if prompt.is_clear else (True,)
            found = [decode(multimask_output=kind) for kind in kinds]
        logits, scores = (torch.cat(parts, dim=1)[0].cpu().numpy() for parts in zip(*found, strict=True))
        return logits, scores

    def everything(self, image: PromptImage) -> list[dict[str, Any]]:
        """Return all masks of an image, as the mask generator's records.

        Raises:
            ImageError: The image cannot be had, or memory ran out.
        """
        key = self.key_of(image)
        with self._encoding:
            if key not in self._everything:
                from sam_engine.automatic_mask_generator import SamAutomaticMaskGenerator

                generator = SamAutomaticMaskGenerator.from_config(self.model, EVERYTHING)
                _keep(self._everything, key, generator.generate(image.pixels()))
            return self._everything[key]

    def close(self) -> None:
        """Let go of what waits."""
        self._ahead.shutdown(wait=False, cancel_futures=True)

    def _embedding_in_memory(self, image: PromptImage) -> "ImageEmbedding":
        """Return an embedding in float32, as a browser uses it."""
        import torch

        from sam_engine.modeling.embedding_file import embedding_from_bytes

        key = self.key_of(image)
        with self._keeping:
            if key in self._embeddings:
                self._embeddings.move_to_end(key)
                return self._embeddings[key]
        data = self.embedding(image)
        embedding = embedding_from_bytes(data, self.model.device).in_dtype(torch.float32)
        with self._keeping:
            _keep(self._embeddings, key, embedding)
        return embedding


def make_prompt_model(config: ModelConfig | None = None) -> PromptModel:
    """Return a model, by default the bundled one, that shares the embeddings of this machine's programs."""
    return PromptModel(config or ModelConfig(), EmbeddingCache(default_folder()))


def parse_prompt(document: Mapping[str, Any]) -> Prompt:
    """Return the prompt that a page sent.

    Args:
        document: ``points`` as [[x, y]], ``labels`` as [0 or 1], ``box`` as [x, y, x, y] or null,
            ``previous`` as base64 of float32, little endian, or null. There is a point or a box.

    Raises:
        ValueError: It is not of this form.
    """
    points, labels = document.get("points") or [], document.get("labels") or []
    box, previous = document.get("box"), document.get("previous")
    if not isinstance(points, list) or not isinstance(labels, list) or len(points) != len(labels):
        raise ValueError("points and labels are lists of one length")
    if len(points) > MAX_POINTS:
        raise ValueError(f"{len(points)} points are more than {MAX_POINTS}")
    if not all(isinstance(point, list) and len(point) == 2 and _are_numbers(point) for point in points):
        raise ValueError("points are pairs [x, y] of numbers")
    if not all(type(label) is int and label in (0, 1) for label in labels):
        raise ValueError("labels are 1 for foreground and 0 for background")
    if box is not None and not (isinstance(box, list) and len(box) == 4 and _are_numbers(box)):
        raise ValueError("box is [x, y, x, y], or null")
    if not points and box is None:
        raise ValueError("a prompt needs a point or a box")
    return Prompt(
        point_coords=np.array(points, np.float32).reshape(-1, 2),
        point_labels=np.array(labels, np.int64),
        box=None if box is None else np.array(box, np.float32),
        mask_input=None if previous is None else _parse_logits(previous),
    )


def _parse_logits(text: Any) -> NDArray[np.float32]:
    """Return (1, S, S) logits."""
    try:
        data = base64.b64decode(text, validate=True)
        values = np.frombuffer(data, "<f4").astype(np.float32)
    except (TypeError, ValueError, binascii.Error) as error:
        raise ValueError(f"previous is not float32 in base64: {error}") from error
    side = math.isqrt(len(values))
    if side * side != len(values) or not np.isfinite(values).all():
        raise ValueError(f"previous has {len(values)} numbers, which are no square, or not all are finite")
    return values.reshape(1, side, side)


def _are_numbers(values: list[Any]) -> bool:
    """Return whether all are numbers that a pixel could have: integers of JSON may be beyond a float."""
    return all(type(value) in (int, float) and abs(value) < MAX_COORDINATE for value in values)


def _keep(kept: "OrderedDict[EmbeddingKey, _Kept]", key: EmbeddingKey, value: _Kept) -> None:
    """Add a value, and forget the oldest beyond `KEPT_IMAGES`."""
    kept[key] = value
    while len(kept) > KEPT_IMAGES:
        kept.popitem(last=False)
