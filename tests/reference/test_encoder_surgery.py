"""What people do to the image encoder gives what it gives with that of ``segment_anything`` 1.0.

Each change is made to both encoders, which have the same random weights. In float64, so that a wrong number
cannot hide behind rounding.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam_engine.build_sam import build_architecture
from tests.helpers.reference_models import SMALL, randomise
from tools.reference import build_reference

pytestmark = pytest.mark.reference

TOLERANCE = 1e-9
"""Of the largest value."""


def cellpose(encoder: Any) -> None:
    """Cellpose-SAM: patches of half the side, every other position, attention to all tokens everywhere."""
    weight = encoder.patch_embed.proj.weight.detach()
    proj = nn.Conv2d(3, weight.shape[0], kernel_size=8, stride=8)
    proj.weight.data, proj.bias.data = weight[:, :, ::2, ::2], encoder.patch_embed.proj.bias.detach()
    encoder.patch_embed.proj = proj
    encoder.pos_embed = nn.Parameter(encoder.pos_embed[:, ::2, ::2])
    for block in encoder.blocks:
        block.window_size = 0


def all_global(encoder: Any) -> None:
    """Attention to all tokens, with tables made for windows."""
    for block in encoder.blocks:
        block.window_size = 0


def other_windows(encoder: Any) -> None:
    """Windows of another side than the tables are made for."""
    for block in encoder.blocks:
        block.window_size = 3


def no_positions(encoder: Any) -> None:
    """No absolute positions: any size goes."""
    encoder.pos_embed = None


def larger_positions(encoder: Any) -> None:
    """SAM-Adapter, SAMed: positions interpolated for a larger image."""
    table = encoder.pos_embed.detach().permute(0, 3, 1, 2)
    encoder.pos_embed = nn.Parameter(F.interpolate(table, (20, 20), mode="bilinear").permute(0, 2, 3, 1))


def no_relative_positions(encoder: Any) -> None:
    """The tables are left unread."""
    for block in encoder.blocks:
        block.attn.use_rel_pos = False


class LoraQkv(nn.Module):
    """SAMed: low-rank changes of queries and values beside a projection that is left as it is."""

    def __init__(self, qkv: nn.Linear) -> None:
        super().__init__()
        self.qkv = qkv
        generator = torch.Generator().manual_seed(1)
        self.down = torch.randn(2, 4, qkv.in_features, generator=generator, dtype=torch.float64)
        self.up = torch.randn(2, qkv.in_features, 4, generator=generator, dtype=torch.float64) / 10

    def forward(self, x: Tensor) -> Tensor:
        """Add to the first and last third."""
        qkv = self.qkv(x)
        dim = x.shape[-1]
        qkv[:, :, :, :dim] += x @ self.down[0].T @ self.up[0].T
        qkv[:, :, :, -dim:] += x @ self.down[1].T @ self.up[1].T
        return qkv


def lora(encoder: Any) -> None:
    """Every projection is replaced."""
    for block in encoder.blocks:
        block.attn.qkv = LoraQkv(block.attn.qkv)


class Adapted(nn.Module):
    """Medical SAM Adapter: a module of one's own round the attention, which is given windows."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        """Add something of the whole window."""
        y: Tensor = self.attention(x)
        return y + x.mean(dim=(1, 2), keepdim=True)


def adapter(encoder: Any) -> None:
    """Every attention is wrapped."""
    for block in encoder.blocks:
        block.attn = Adapted(block.attn)


def hooks(encoder: Any) -> None:
    """A hook changes what attention gives for padded tokens too."""
    for block in encoder.blocks:
        block.attn.register_forward_hook(
            lambda module, args, output: output + args[0].amax(dim=(1, 2))[:, None, None]
        )


CASES: dict[str, tuple[Callable[[Any], None], tuple[int, int]]] = {
    "cellpose": (cellpose, (64, 64)),
    "attention to all tokens": (all_global, (256, 256)),
    "other windows": (other_windows, (256, 256)),
    "rectangular": (no_positions, (160, 96)),
    "smaller": (no_positions, (112, 112)),
    "larger": (larger_positions, (320, 320)),
    "without relative positions": (no_relative_positions, (256, 256)),
    "lora": (lora, (256, 256)),
    "adapter": (adapter, (256, 256)),
    "hooks": (hooks, (256, 256)),
}


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_a_changed_encoder_is_the_originals(segment_anything: ModuleType, case: str) -> None:
    """The same embedding."""
    change, size = CASES[case]
    reference = build_reference(segment_anything, SMALL).double()
    randomise(reference, seed=0)
    ours = build_architecture(SMALL).double()
    ours.load_state_dict(reference.state_dict())
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for model in (ours, reference):
        change(model.image_encoder)
    expected, found = reference.image_encoder(image), ours.image_encoder(image)

    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()
