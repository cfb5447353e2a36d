"""The image encoder of ``tiny``: a MobileNetV2 trunk, attention over its coarsest map, and a neck, for CPUs.

Source of the trunk: Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks". Batch
normalisation is folded into the convolutions, and stride-2 convolutions pad at the bottom and right only,
which is how the ImageNet weights that it starts from were trained.
"""

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam_engine.catalogue import FAMILIES, TINY, Architecture
from sam_engine.modeling.any_encoder import ImageEncoder, SkipFeatures
from sam_engine.modeling.common import LayerNorm2d
from sam_engine.modeling.context import Context

# Expansion, output channels, repeats, stride of the first; MobileNetV2 table 2.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
TAPS = {4: 3, 8: 6, 16: 13, 32: 17}
"""Stride of the input -> index of the last trunk layer at that stride."""


class TinyEncoder(ImageEncoder):
    """A convolutional encoder to (B, out_chans, S/16, S/16), with skip features at strides 4 and 8."""

    family = FAMILIES[TINY]

    def __init__(self, *, img_size: int, out_chans: int = 128, width: float = 1.0) -> None:
        super().__init__()
        self.img_size = img_size
        self.trunk, channels = _build_trunk(width)
        self.lateral_16 = nn.Conv2d(channels[TAPS[16]], out_chans, 1)
        self.lateral_32 = nn.Conv2d(channels[TAPS[32]], out_chans, 1)
        self.neck = nn.Sequential(
            LayerNorm2d(out_chans),
            nn.Conv2d(out_chans, out_chans, 3, padding=1, bias=False),
            LayerNorm2d(out_chans),
        )
        self.skip_4 = nn.Conv2d(channels[TAPS[4]], out_chans // 8, 1)
        self.skip_8 = nn.Conv2d(channels[TAPS[8]], out_chans // 4, 1)
        wide, narrow = out_chans // 2, out_chans // 4
        self.top_down_8 = TopDown(out_chans, channels[TAPS[8]], wide, out_chans // 4)
        self.top_down_4 = TopDown(wide, channels[TAPS[4]], narrow, out_chans // 8)
        self.context = Context(channels[TAPS[32]], out_chans)

    @classmethod
    def from_architecture(cls, architecture: Architecture) -> Self:
        """Return an untrained encoder of these sizes."""
        return cls(
            img_size=architecture.image_size,
            out_chans=architecture.prompt_embed_dim,
            width=architecture.trunk_width,
        )

    def forward_features(self, x: Tensor) -> tuple[Tensor, SkipFeatures]:
        """Return embeddings (B, C, S/16, S/16) and the skips (B, C/8, S/4, S/4), (B, C/4, S/8, S/8)."""
        # Channels last: 1 x 1 convolutions, most of the work, are then matrix products as the pixels lie.
        x = x.contiguous(memory_format=torch.channels_last)
        taps: dict[int, Tensor] = {}
        for index, layer in enumerate(self.trunk):
            x = layer(x)
            taps[index] = x
        stride_32 = taps[TAPS[32]]
        deep = self.lateral_32(stride_32) + self.context(stride_32)
        deep = F.interpolate(deep, scale_factor=2.0, mode="nearest")
        features: Tensor = self.neck(self.lateral_16(taps[TAPS[16]]) + deep)
        stride_8, stride_4 = taps[TAPS[8]], taps[TAPS[4]]
        known_8, added_8 = self.top_down_8(features, stride_8)
        _, added_4 = self.top_down_4(known_8, stride_4)
        skips = (self.skip_4(stride_4) + added_4).contiguous(), (self.skip_8(stride_8) + added_8).contiguous()
        return features.contiguous(), skips


def _build_trunk(width: float) -> tuple[nn.ModuleList, list[int]]:
    """Return the layers, in the order of their torchvision names ``features.N``, and the channels of each."""

    def scaled(channels: int) -> int:
        return max(8, int(channels * width + 4) // 8 * 8)

    channels = [scaled(32)]
    layers: list[nn.Module] = [ConvReLU6(3, channels[0], 3, stride=2)]
    for expansion, out_channels, repeats, first_stride in STAGES:
        for i in range(repeats):
            stride = first_stride if i == 0 else 1
            layers.append(InvertedResidual(channels[-1], scaled(out_channels), stride, expansion))
            channels.append(scaled(out_channels))
    return nn.ModuleList(layers), channels


class TopDown(nn.Module):
    """What a coarse map and a fine one know together, at the stride of the fine one.

    A skip feature straight from an early layer knows edges and colours, but not which of them are a window's.
    Source: Lin et al. 2017, "Feature Pyramid Networks for Object Detection".
    """

    def __init__(self, coarse_chans: int, fine_chans: int, chans: int, out_chans: int) -> None:
        super().__init__()
        self.from_coarse = nn.Conv2d(coarse_chans, chans, 1)
        self.from_fine = nn.Conv2d(fine_chans, chans, 1)
        self.mix = nn.Conv2d(chans, chans, 3, padding=1)
        self.out = nn.Conv2d(chans, out_chans, 1)
        for parameter in self.out.parameters():  # no effect until it is trained
            nn.init.zeros_(parameter)

    def forward(self, coarse: Tensor, fine: Tensor) -> tuple[Tensor, Tensor]:
        """Merge (B, coarse_chans, h / 2, w / 2) and (B, fine_chans, h, w).

        Returns:
            (B, chans, h, w) to go on from, and (B, out_chans, h, w) to add to the skip feature.
        """
        merged = F.interpolate(self.from_coarse(coarse), scale_factor=2.0, mode="nearest")
        merged = F.relu(merged + self.from_fine(fine))
        merged = F.relu(self.mix(merged))
        return merged, self.out(merged)


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; added to its input where shapes allow."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.is_residual = stride == 1 and in_channels == out_channels
        widen = [ConvReLU6(in_channels, hidden, 1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *widen,
            ConvReLU6(hidden, hidden, 3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C', h / stride, w / stride)."""
        y: Tensor = self.conv(x)
        return x + y if self.is_residual else y


class ConvReLU6(nn.Module):
    """A convolution, padded so that the output is the input divided by the stride, and ReLU6.

    TensorFlow's SAME rule: kernel_size - stride pixels, the uneven one at the bottom and right.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        total = kernel_size - stride
        # Convolutions pad both sides alike for free; an uneven pixel costs a copy of the map.
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=total // 2, groups=groups
        )
        self.is_uneven = total % 2 == 1

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C', h / stride, w / stride); h and w are multiples of the stride."""
        if self.is_uneven:
            x = F.pad(x, (0, 1, 0, 1))
        if self.conv.groups > 1 and self.is_uneven and x.requires_grad and x.device.type == "cpu":
            # Every second output of stride 1: its gradient is the faster one, by five times.
            y = F.conv2d(x, self.conv.weight, self.conv.bias, groups=self.conv.groups)[:, :, ::2, ::2]
        else:
            y = self.conv(x)
        return F.relu6(y, inplace=True)
