"""From points, boxes and masks to the tokens and maps that the mask decoder reads."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam_engine.modeling.common import LayerNorm2d
from sam_engine.modeling.prompt_maps import PromptPlaces


class PositionEmbeddingRandom(nn.Module):
    """Fourier features of positions under a fixed random projection.

    Source: Tancik et al. 2020, "Fourier Features Let Networks Learn High Frequency Functions". The
    projection is part of every checkpoint.
    """

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, num_pos_feats: int = 64, scale: float | None = None) -> None:
        """Draw the projection, of deviation ``scale`` if that is above 0, else 1."""
        super().__init__()
        deviation = scale if scale is not None and scale > 0 else 1.0
        matrix = torch.empty(2, num_pos_feats).normal_(std=deviation)
        self.register_buffer("positional_encoding_gaussian_matrix", matrix)

    def _pe_encoding(self, coords: Tensor) -> Tensor:
        """Map (x, y) in [0, 1], (..., 2), to (..., 2 * num_pos_feats)."""
        matrix = self.positional_encoding_gaussian_matrix
        angles = 2 * math.pi * ((2 * coords.to(matrix.dtype) - 1) @ matrix)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def forward(self, size: tuple[int, int]) -> Tensor:
        """Return the encoding of the pixel centres of an (h, w) map, (C, h, w)."""
        height, width = size
        matrix = self.positional_encoding_gaussian_matrix
        y = (torch.arange(height, device=matrix.device, dtype=matrix.dtype) + 0.5) / height
        x = (torch.arange(width, device=matrix.device, dtype=matrix.dtype) + 0.5) / width
        grid = torch.stack([x[None, :].expand(height, width), y[:, None].expand(height, width)], dim=-1)
        return self._pe_encoding(grid).permute(2, 0, 1)

    def forward_with_coords(self, coords_input: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Map (x, y) in pixels of an (H, W) image, (..., 2), to (..., 2 * num_pos_feats)."""
        # Divided before the cast: the generator's coordinates are float64, as in the original.
        return self._pe_encoding(in_unit_square(coords_input, image_size))


def in_unit_square(coords: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Map (x, y) in pixels of an (H, W) image to [0, 1]."""
    height, width = image_size
    # By numbers: a tensor of them would be a copy from the host, for which a device's queue is emptied.
    return torch.stack([coords[..., 0] / width, coords[..., 1] / height], dim=-1)


class PromptEncoder(nn.Module):
    """Encode prompts given in pixels of the model's input."""

    def __init__(
        self,
        embed_dim: int,
        image_embedding_size: tuple[int, int],
        input_image_size: tuple[int, int],
        mask_in_chans: int,
        activation: Callable[[], nn.Module] = nn.GELU,
    ) -> None:
        """Make one for embeddings and images of these sizes, (H, W)."""
        super().__init__()
        self.embed_dim = embed_dim
        self.input_image_size = input_image_size
        self.image_embedding_size = image_embedding_size
        self.mask_input_size = (4 * image_embedding_size[0], 4 * image_embedding_size[1])
        self.pe_layer = PositionEmbeddingRandom(embed_dim // 2)
        # In order: background point, foreground point, top left and bottom right corner of a box.
        self.num_point_embeddings = 4
        self.point_embeddings = nn.ModuleList(
            nn.Embedding(1, embed_dim) for _ in range(self.num_point_embeddings)
        )
        self.not_a_point_embed = nn.Embedding(1, embed_dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_in_chans // 4, 2, stride=2),
            LayerNorm2d(mask_in_chans // 4),
            activation(),
            nn.Conv2d(mask_in_chans // 4, mask_in_chans, 2, stride=2),
            LayerNorm2d(mask_in_chans),
            activation(),
            nn.Conv2d(mask_in_chans, embed_dim, 1),
        )
        self.no_mask_embed = nn.Embedding(1, embed_dim)

    def get_dense_pe(self) -> Tensor:
        """Return the positional encoding of the image embedding, (1, C, h, w)."""
        y: Tensor = self.pe_layer(self.image_embedding_size)
        return y[None]

    def forward(
        self,
        points: tuple[Tensor, Tensor] | None,
        boxes: Tensor | None,
        masks: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Encode P prompts; each may combine points, a box and a mask.

        Args:
            points: Coordinates (P, N, 2) as (x, y) in pixels of the model's input, and labels (P, N):
                1 foreground, 0 background, -1 not a point.
            boxes: (P, 4) XYXY in the same frame.
            masks: (P, 1, 4h, 4w) logits, such as a previous low-resolution output.

        Returns:
            Sparse embeddings (P, tokens, C), where tokens is 0 without points and boxes, and dense
            embeddings (P, C, h, w).
        """
        matrix = self.no_mask_embed.weight
        tokens = []
        if points is not None:
            tokens.append(self._embed_points(*points, pad=boxes is None))
        if boxes is not None:
            tokens.append(self._embed_boxes(boxes))
        batch = self._get_batch_size(points, boxes, masks)
        sparse = torch.cat(tokens, dim=1) if tokens else matrix.new_empty(batch, 0, self.embed_dim)
        if masks is not None:
            dense = self._embed_masks(masks)
        else:
            dense = matrix.reshape(1, -1, 1, 1).expand(batch, -1, *self.image_embedding_size)
        return sparse, dense

    def places(self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None) -> PromptPlaces:
        """Return where prompts are, given as to `forward`; without any, one prompt that is nowhere."""
        matrix = self.pe_layer.positional_encoding_gaussian_matrix
        coords, labels = [], []
        if points is not None:
            coords.append(points[0])
            labels.append(points[1].to(matrix.dtype))
        if boxes is not None:
            coords.append(boxes.reshape(-1, 2, 2))
            corners = torch.arange(2, 4, dtype=matrix.dtype, device=matrix.device)
            labels.append(corners.expand(len(boxes), 2))
        if not coords:
            return PromptPlaces(coords=matrix.new_zeros(1, 0, 2), labels=matrix.new_zeros(1, 0))
        pixels = torch.cat(coords, dim=1)
        return PromptPlaces(
            coords=in_unit_square(pixels + 0.5, self.input_image_size).to(matrix.dtype),
            labels=torch.cat(labels, dim=1),
        )

    def _embed_points(self, points: Tensor, labels: Tensor, pad: bool) -> Tensor:
        """Return (P, N, C); with ``pad``, a token that is not a point stands where a box would."""
        coords = points + 0.5  # to pixel centres
        if pad:
            coords = F.pad(coords, (0, 0, 0, 1))
            labels = F.pad(labels, (0, 1), value=-1)
        embedding = self.pe_layer.forward_with_coords(coords, self.input_image_size)
        is_point = (labels != -1)[..., None]
        embedding = torch.where(is_point, embedding, self.not_a_point_embed.weight)
        for value in (0, 1):
            chosen = (labels == value)[..., None]
            embedding = embedding + chosen * self._kind_embedding(value)
        return embedding

    def _embed_boxes(self, boxes: Tensor) -> Tensor:
        """Return (P, 2, C), one token for each of the two corners of boxes XYXY."""
        pixels = boxes.reshape(-1, 2, 2) + 0.5
        corners = self.pe_layer.forward_with_coords(pixels, self.input_image_size)
        return corners + torch.cat([self._kind_embedding(2), self._kind_embedding(3)])

    def _kind_embedding(self, index: int) -> Tensor:
        """Return the learned (1, C) of a kind of point, by its place in ``point_embeddings``."""
        return self.point_embeddings.get_parameter(f"{index}.weight")

    def _embed_masks(self, masks: Tensor) -> Tensor:
        """Return (P, C, h, w)."""
        embedding: Tensor = self.mask_downscaling(masks)
        return embedding

    def _get_batch_size(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> int:
        """Return the number of prompts, 1 if there is nothing at all."""
        given = points[0] if points is not None else boxes if boxes is not None else masks
        return 1 if given is None else len(given)

    def _get_device(self) -> torch.device:
        """Return where the weights are."""
        return self.no_mask_embed.weight.device
