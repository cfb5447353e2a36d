"""Architectures by name, and the build functions of ``segment_anything``."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from sam_engine.checkpoints.resolve import Checkpoint, check_state_dict, load_state_dict, resolve_checkpoint
from sam_engine.config import ModelConfig
from sam_engine.errors import ConfigError
from sam_engine.modeling.image_encoder import ImageEncoderViT
from sam_engine.modeling.mask_decoder import MaskDecoder
from sam_engine.modeling.prompt_encoder import PromptEncoder
from sam_engine.modeling.sam import Sam
from sam_engine.modeling.tiny_encoder import TinyEncoder
from sam_engine.modeling.transformer import TwoWayTransformer


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The sizes of a model. Anything may be made smaller: tests build models of a few hundred kB."""

    encoder: str = "vit"
    """vit, or tiny: the convolutional encoder with skip features, and a decoder with prompt maps."""
    image_size: int = 1024
    """Side of the square input, in pixels; a multiple of 32 for tiny and of 16 for vit."""
    embed_dim: int = 768
    """Channels of the ViT."""
    depth: int = 12
    """Blocks of the ViT."""
    num_heads: int = 12
    """Attention heads of the ViT."""
    global_attn_indexes: tuple[int, ...] = ()
    """Blocks that attend to the whole map; the others to windows."""
    window_size: int = 14
    """Side of a window, in tokens."""
    trunk_width: float = 1.0
    """Channels of the tiny trunk, relative to MobileNetV2 1.0."""
    prompt_embed_dim: int = 256
    """Channels of image embedding, prompts and decoder; a multiple of 8 * decoder_heads / 4."""
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    iou_head_hidden_dim: int = 256
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """RGB, in [0, 255]."""
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)


ARCHITECTURES = {
    "tiny": Architecture(
        encoder="tiny",
        image_size=512,
        prompt_embed_dim=128,
        decoder_mlp_dim=512,
        iou_head_hidden_dim=128,
        pixel_mean=(127.5, 127.5, 127.5),
        pixel_std=(127.5, 127.5, 127.5),
    ),
    "vit_b": Architecture(embed_dim=768, depth=12, num_heads=12, global_attn_indexes=(2, 5, 8, 11)),
    "vit_l": Architecture(embed_dim=1024, depth=24, num_heads=16, global_attn_indexes=(5, 11, 17, 23)),
    "vit_h": Architecture(embed_dim=1280, depth=32, num_heads=16, global_attn_indexes=(7, 15, 23, 31)),
}


RANDOM_WEIGHTS_SEED = 0
"""Of ``checkpoint=random``, so that every worker has the same weights."""


def build_architecture(architecture: Architecture) -> Sam:
    """Return a model of these sizes with untrained weights, on the CPU, in eval mode."""
    size, channels = architecture.image_size, architecture.prompt_embed_dim
    grid = size // 16
    encoder: ImageEncoderViT | TinyEncoder
    if architecture.encoder == "tiny":
        encoder = TinyEncoder(img_size=size, out_chans=channels, width=architecture.trunk_width)
    else:
        encoder = ImageEncoderViT(
            img_size=size,
            embed_dim=architecture.embed_dim,
            depth=architecture.depth,
            num_heads=architecture.num_heads,
            out_chans=channels,
            window_size=architecture.window_size,
            global_attn_indexes=architecture.global_attn_indexes,
        )
    sam = Sam(
        image_encoder=encoder,
        prompt_encoder=PromptEncoder(
            embed_dim=channels,
            image_embedding_size=(grid, grid),
            input_image_size=(size, size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            transformer=TwoWayTransformer(
                depth=2,
                embedding_dim=channels,
                num_heads=architecture.decoder_heads,
                mlp_dim=architecture.decoder_mlp_dim,
            ),
            transformer_dim=channels,
            iou_head_hidden_dim=architecture.iou_head_hidden_dim,
            has_prompt_maps=architecture.encoder == "tiny",
        ),
        pixel_mean=architecture.pixel_mean,
        pixel_std=architecture.pixel_std,
    )
    return sam.eval()


def load_model(config: ModelConfig, checkpoint: Checkpoint | None = None) -> Sam:
    """Return the configured model with its weights, on its device, in eval mode.

    Args:
        config: Which network, where and how precise.
        checkpoint: From `resolve_checkpoint`, if that was done already, as by a driver for its workers.

    Raises:
        CheckpointError: The weights cannot be had, or do not fit.
        ConfigError: This machine has no such device, or the device no such precision.
    """
    device = choose_device(config)
    checkpoint = checkpoint or resolve_checkpoint(config)
    architecture = ARCHITECTURES[config.name]
    if checkpoint.path is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_WEIGHTS_SEED)
            sam = build_architecture(architecture)
    else:
        sam = _build_with_weights(architecture, checkpoint)
    sam.precision = config.precision
    return sam.to(device)


def choose_device(config: ModelConfig) -> torch.device:
    """Return the device that a configuration names, or for ``auto`` the first CUDA device, else the CPU.

    Raises:
        ConfigError: This machine has no such device, or the device no such precision.
    """
    num_cuda = torch.cuda.device_count()
    name = config.device
    if name == "auto":
        name = "cuda" if num_cuda else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= num_cuda:
        raise ConfigError(f"model.device is {config.device!r}, but torch finds {num_cuda} CUDA devices here")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("model.device is 'mps', but torch finds no MPS device here")
    if config.precision == "tf32" and device.type != "cuda":
        raise ConfigError(f"model.precision is 'tf32', which only CUDA has; the device is {device.type!r}")
    return device


def build_sam_vit_h(checkpoint: str | os.PathLike[str] | None = None) -> Sam:
    """Return ViT-H SAM on the CPU; ``checkpoint``: path, URL or known name, None for untrained weights."""
    return _build_sam("vit_h", checkpoint)


def build_sam_vit_l(checkpoint: str | os.PathLike[str] | None = None) -> Sam:
    """Return ViT-L SAM on the CPU; ``checkpoint``: path, URL or known name, None for untrained weights."""
    return _build_sam("vit_l", checkpoint)


def build_sam_vit_b(checkpoint: str | os.PathLike[str] | None = None) -> Sam:
    """Return ViT-B SAM on the CPU; ``checkpoint``: path, URL or known name, None for untrained weights."""
    return _build_sam("vit_b", checkpoint)


def build_tiny(checkpoint: str | os.PathLike[str] | None = None) -> Sam:
    """Return tiny on the CPU; ``checkpoint``: path or URL, None for the weights that come with it."""
    return _build_sam("tiny", "tiny" if checkpoint is None else checkpoint)


build_sam = build_sam_vit_h

sam_model_registry: dict[str, Callable[..., Sam]] = {
    "default": build_sam_vit_h,
    "vit_h": build_sam_vit_h,
    "vit_l": build_sam_vit_l,
    "vit_b": build_sam_vit_b,
    "tiny": build_tiny,
}


def _build_sam(name: str, checkpoint: str | os.PathLike[str] | None) -> Sam:
    """Return the named model on the CPU, with fresh random weights if ``checkpoint`` is None."""
    if checkpoint is None:
        return build_architecture(ARCHITECTURES[name])
    return load_model(ModelConfig(name=name, checkpoint=os.fspath(checkpoint), device="cpu"))


def _build_with_weights(architecture: Architecture, checkpoint: Checkpoint) -> Sam:
    """Return a model whose parameters are the file's tensors; nothing is initialised only to be replaced."""
    assert checkpoint.path is not None
    state = load_state_dict(checkpoint.path)
    with torch.device("meta"):
        sam = build_architecture(architecture)
    check_state_dict(state, sam, checkpoint.path)
    sam.load_state_dict(state, assign=True)
    sam.set_normalisation(architecture.pixel_mean, architecture.pixel_std)  # in no checkpoint
    return sam
