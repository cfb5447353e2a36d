"""What every image encoder is, of whatever family."""

from typing import Any, ClassVar, Self

from torch import Tensor, nn

from sam_engine.catalogue import Architecture, Family

SkipFeatures = tuple[Tensor, Tensor]
"""Maps at strides 4 and 8, (B, C/8, S/4, S/4) and (B, C/4, S/8, S/8), added in the mask decoder."""


class ImageEncoder(nn.Module):
    """What `Sam` needs of an image encoder, of any family."""

    family: ClassVar[Family]
    img_size: int
    """Side S of the square input, in pixels."""

    @classmethod
    def from_architecture(cls, architecture: Architecture) -> Self:
        """Return an untrained encoder of these sizes."""
        raise NotImplementedError

    def forward_features(self, x: Tensor) -> tuple[Tensor, SkipFeatures | None]:
        """Map normalised images (B, 3, S, S) to embeddings (B, C, S/16, S/16) and, if any, skip features."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (B, 3, S, S) to embeddings (B, C, S/16, S/16)."""
        return self.forward_features(x)[0]


def unwrapped(encoder: nn.Module) -> Any:
    """Return what `torch.nn.DataParallel` and its like wrap, or the encoder itself."""
    return getattr(encoder, "module", encoder)


def has_skip_features(encoder: nn.Module) -> bool:
    """Return whether an encoder, of ours or not, wrapped or not, has skip features by `forward_features`."""
    family = getattr(unwrapped(encoder), "family", None)
    return isinstance(family, Family) and family.has_skip_features
