"""From a row of the catalogue to a network, and the build functions of ``segment_anything``."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from sam_engine.catalogue import ARCHITECTURES, MODELS, NO_MODEL, TINY, VIT, Architecture
from sam_engine.checkpoints.resolve import Checkpoint, fitting_state_dict, load_state_dict, resolve_checkpoint
from sam_engine.config import ModelConfig
from sam_engine.errors import ConfigError
from sam_engine.modeling.any_encoder import ImageEncoder
from sam_engine.modeling.image_encoder import ImageEncoderViT
from sam_engine.modeling.mask_decoder import MaskDecoder
from sam_engine.modeling.prompt_encoder import PromptEncoder
from sam_engine.modeling.sam import Sam
from sam_engine.modeling.tiny_encoder import TinyEncoder
from sam_engine.modeling.transformer import TwoWayTransformer

ENCODERS: dict[str, type[ImageEncoder]] = {
    VIT: ImageEncoderViT,
    TINY: TinyEncoder,
}
"""The network of each of `sam_engine.catalogue.FAMILIES`."""

RANDOM_WEIGHTS_SEED = 0
"""Of ``checkpoint=random``, so that every worker has the same weights."""


def build_architecture(architecture: Architecture) -> Sam:
    """Return a model of these sizes with untrained weights, on the CPU, in eval mode."""
    size, channels = architecture.image_size, architecture.prompt_embed_dim
    grid = size // 16
    sam = Sam(
        image_encoder=ENCODERS[architecture.encoder].from_architecture(architecture),
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
            has_prompt_maps=architecture.family.has_prompt_maps,
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
    if config.name == NO_MODEL:
        raise ConfigError(f"model.name={NO_MODEL} finds no masks; choose a model")
    device = choose_device(config)
    checkpoint = checkpoint or resolve_checkpoint(config)
    architecture = checkpoint.architecture
    assert architecture is not None  # there is a model
    if checkpoint.path is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_WEIGHTS_SEED)
            sam = build_architecture(architecture)
    else:
        sam = _build_with_weights(architecture, checkpoint.path)
    sam.precision = config.precision
    sam.thresholds = checkpoint.thresholds
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
    if device.type == "mps" and not _lists_flags(device):
        raise ConfigError(
            f"model.device is 'mps', for which torch {torch.__version__} lacks nonzero_static; versions "
            "since the spring of 2026 have it: update torch, or use model.device=cpu"
        )
    if config.precision == "tf32" and device.type != "cuda":
        raise ConfigError(f"model.precision is 'tf32', which only CUDA has; the device is {device.type!r}")
    return device


def _lists_flags(device: torch.device) -> bool:
    """Return whether a device has what the mask generator lists set flags with."""
    try:
        torch.nonzero_static(torch.zeros(1, dtype=torch.bool, device=device), size=1)
    except NotImplementedError:
        return False
    return True


def build_model(name: str, checkpoint: str | os.PathLike[str] | None = None) -> Sam:
    """Return a model of the catalogue on the CPU.

    Args:
        name: One of `sam_engine.catalogue.MODELS`.
        checkpoint: Path, URL or known name. None: the weights that come with the package, or fresh random
            ones if none do, as in ``segment_anything``.
    """
    if checkpoint is None and MODELS[name].bundled is None:
        sam = build_architecture(ARCHITECTURES[name])
        sam.thresholds = MODELS[name].thresholds
        return sam
    given = None if checkpoint is None else os.fspath(checkpoint)
    return load_model(ModelConfig(name=name, checkpoint=given, device="cpu"))


def build_sam_vit_h(checkpoint: str | os.PathLike[str] | None = None) -> Sam:
    """Return ViT-H SAM on the CPU; ``checkpoint``: path, URL or known name, None for untrained weights."""
    return build_model("vit_h", checkpoint)


def build_sam_vit_l(checkpoint: str | os.PathLike[str] | None = None) -> Sam:
    """Return ViT-L SAM on the CPU; ``checkpoint``: path, URL or known name, None for untrained weights."""
    return build_model("vit_l", checkpoint)


def build_sam_vit_b(checkpoint: str | os.PathLike[str] | None = None) -> Sam:
    """Return ViT-B SAM on the CPU; ``checkpoint``: path, URL or known name, None for untrained weights."""
    return build_model("vit_b", checkpoint)


def build_tiny(checkpoint: str | os.PathLike[str] | None = None) -> Sam:
    """Return tiny on the CPU; ``checkpoint``: path or URL, None for the weights that come with it."""
    return build_model("tiny", checkpoint)


build_sam = build_sam_vit_h

sam_model_registry: dict[str, Callable[..., Sam]] = {
    "default": build_sam_vit_h,
    "vit_h": build_sam_vit_h,
    "vit_l": build_sam_vit_l,
    "vit_b": build_sam_vit_b,
    "tiny": build_tiny,
}
sam_model_registry |= {name: partial(build_model, name) for name in MODELS if name not in sam_model_registry}


def _build_sam(
    encoder_embed_dim: int,
    encoder_depth: int,
    encoder_num_heads: int,
    encoder_global_attn_indexes: Sequence[int],
    checkpoint: str | os.PathLike[str] | None = None,
) -> Sam:
    """Return a SAM with a ViT of these sizes, on the CPU; ``checkpoint`` is a path or None."""
    architecture = Architecture(
        embed_dim=encoder_embed_dim,
        depth=encoder_depth,
        num_heads=encoder_num_heads,
        global_attn_indexes=tuple(encoder_global_attn_indexes),
    )
    if checkpoint is None:
        return build_architecture(architecture)
    return _build_with_weights(architecture, Path(checkpoint))


def _build_with_weights(architecture: Architecture, path: Path) -> Sam:
    """Return a model whose parameters are the file's tensors; nothing is initialised only to be replaced."""
    state = load_state_dict(path)
    with torch.device("meta"), _NothingDrawn():
        sam = build_architecture(architecture)
    sam.load_state_dict(fitting_state_dict(state, sam, path), assign=True)
    sam.set_normalisation(architecture.pixel_mean, architecture.pixel_std)  # in no checkpoint
    return sam


class _NothingDrawn(TorchFunctionMode):
    """Leaves out the draws of initial weights: on "meta" they load torch's compiler, 1.3 CPU seconds."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] = MappingProxyType({}),
    ) -> Any:
        """Return what was to be drawn as it is."""
        if func is torch.Tensor.normal_:
            return args[0]
        return kwargs["tensor"] if func is torch.nn.init.normal_ else func(*args, **kwargs)
