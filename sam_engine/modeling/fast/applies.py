"""Whether the fast decoder may stand in for the calls of decoder and prompt encoder.

It reads their weights and does not call them: whatever was put there by others (LoRA in the place of a
projection, a hook, a forward of one's own, a wrapper, quantised weights) would have no effect. So it is used
only where every module below them is of exactly the type, in exactly the place, that it knows.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from sam_engine.modeling.as_built import is_as_built
from sam_engine.modeling.common import LayerNorm2d, MLPBlock
from sam_engine.modeling.mask_decoder import MLP, MaskDecoder
from sam_engine.modeling.prompt_encoder import PositionEmbeddingRandom, PromptEncoder
from sam_engine.modeling.transformer import Attention, TwoWayAttentionBlock, TwoWayTransformer

Kind = type[nn.Module]
Parts = Mapping[str, Any]
"""By name: a type; a tuple of types, those of a Sequential; a list of one type, all those of a ModuleList."""

_ATTENTION: Parts = dict.fromkeys(("q_proj", "k_proj", "v_proj", "out_proj"), nn.Linear)
_DOWNSCALING = (nn.Conv2d, LayerNorm2d, nn.GELU, nn.Conv2d, LayerNorm2d, nn.GELU, nn.Conv2d)
_UPSCALING = (nn.ConvTranspose2d, LayerNorm2d, nn.GELU, nn.ConvTranspose2d, nn.GELU)
PARTS: dict[Kind, Parts] = {
    MaskDecoder: {
        "transformer": TwoWayTransformer,
        "iou_token": nn.Embedding,
        "mask_tokens": nn.Embedding,
        "output_upscaling": _UPSCALING,
        "output_hypernetworks_mlps": [MLP],
        "iou_prediction_head": MLP,
        "map_to_image": nn.Linear,
        "map_heads": [nn.Linear],
        "shape_heads": [MLP],
    },
    TwoWayTransformer: {
        "layers": [TwoWayAttentionBlock],
        "final_attn_token_to_image": Attention,
        "norm_final_attn": nn.LayerNorm,
    },
    TwoWayAttentionBlock: {
        "self_attn": Attention,
        "cross_attn_token_to_image": Attention,
        "cross_attn_image_to_token": Attention,
        "mlp": MLPBlock,
        **dict.fromkeys(("norm1", "norm2", "norm3", "norm4"), nn.LayerNorm),
    },
    Attention: _ATTENTION,
    MLPBlock: {"lin1": nn.Linear, "lin2": nn.Linear, "act": nn.ReLU},
    MLP: {"layers": [nn.Linear]},
    PromptEncoder: {
        "pe_layer": PositionEmbeddingRandom,
        "point_embeddings": [nn.Embedding],
        "not_a_point_embed": nn.Embedding,
        "mask_downscaling": _DOWNSCALING,
        "no_mask_embed": nn.Embedding,
    },
}
"""What is below each module that has others below it. Only decoders with prompt maps have the last three."""
_METHODS = {
    MaskDecoder: ("forward", "predict_masks", "image_prior", "mask_prior", "score_masks", "_upscale"),
    TwoWayTransformer: ("forward",),
    TwoWayAttentionBlock: ("forward",),
    Attention: ("forward", "_separate_heads", "_recombine_heads"),
    MLPBlock: ("forward",),
    MLP: ("forward",),
    PromptEncoder: ("forward", "get_dense_pe", "_embed_points", "_embed_boxes", "_embed_masks"),
    PositionEmbeddingRandom: ("forward",),
    LayerNorm2d: ("forward",),
}
_AS_WRITTEN = {kind: {name: getattr(kind, name) for name in names} for kind, names in _METHODS.items()}
_PLAIN_TENSORS = (nn.Parameter, torch.Tensor)
_WITHOUT_BIAS = ("map_to_image",)


def why_not_fast(decoder: nn.Module, prompt_encoder: nn.Module, dtype: torch.dtype) -> str | None:
    """Return what stands in the way of the fast decoder, in words; None if nothing does.

    Args:
        decoder: What should be a `MaskDecoder`.
        prompt_encoder: What should be a `PromptEncoder`.
        dtype: Of the embedding; every weight must have it.
    """
    for kind, methods in _AS_WRITTEN.items():
        for name, method in methods.items():
            if getattr(kind, name) is not method:
                return f"{kind.__name__}.{name} was replaced"
    reason = _first_change("mask_decoder", decoder, MaskDecoder, dtype) or _first_change(
        "prompt_encoder", prompt_encoder, PromptEncoder, dtype
    )
    return reason or _odd_settings(cast(MaskDecoder, decoder))


def _first_change(path: str, module: nn.Module, kind: Kind, dtype: torch.dtype) -> str | None:
    """Return the first thing at or below a module that is not as it was built, or None."""
    if not is_as_built(module, kind):
        how = "has a hook or a forward of its own" if type(module) is kind else f"is a {_type_name(module)}"
        return f"{path} {how}"
    own = vars(module)
    for name in _METHODS.get(kind, ()):
        if name in own:
            return f"{path} has a {name} of its own"
    for name, parameter in module._parameters.items():
        if parameter is None:
            if path.rpartition(".")[2] not in _WITHOUT_BIAS:
                return f"{path} has no {name}"
        elif parameter.dtype != dtype or type(parameter) not in _PLAIN_TENSORS:
            return f"{path}.{name} is a {type(parameter).__name__} of {parameter.dtype}"
    if not module._modules:
        return None
    parts = PARTS[kind]
    for name, child in module._modules.items():
        part, place = parts.get(name), f"{path}.{name}"
        if child is None or part is None:
            return f"{place} is new"
        reason = (
            _first_change(place, child, part, dtype)
            if isinstance(part, type)
            else _change_in_row(place, child, part, dtype)
        )
        if reason:
            return reason
    return None


def _type_name(module: nn.Module) -> str:
    """Return where a module's type comes from, and its name: PEFT's Linear is not torch's."""
    return f"{type(module).__module__.partition('.')[0]} {type(module).__qualname__}"


def _change_in_row(path: str, row: nn.Module, kinds: Any, dtype: torch.dtype) -> str | None:
    """Return the first change at or below a Sequential (of a tuple of kinds) or ModuleList (of one kind)."""
    is_list = isinstance(kinds, list)
    if not is_as_built(row, nn.ModuleList if is_list else nn.Sequential):
        return f"{path} is a {type(row).__name__}, or has a hook or a forward of its own"
    children = row._modules
    expected = kinds * len(children) if is_list else kinds
    if len(expected) != len(children):
        return f"{path} has {len(children)} parts, not {len(expected)}"
    for (name, child), kind in zip(children.items(), expected, strict=True):
        if child is None:
            return f"{path}.{name} is missing"
        reason = _first_change(f"{path}.{name}", child, kind, dtype)
        if reason:
            return reason
    return None


def _odd_settings(decoder: MaskDecoder) -> str | None:
    """Return what is set otherwise in modules that are as they were built, or None."""
    for i, layer in enumerate(decoder.transformer.layers):
        if layer.skip_first_layer_pe != (i == 0):
            return f"mask_decoder.transformer.layers.{i}.skip_first_layer_pe is {layer.skip_first_layer_pe}"
    for i, layer in enumerate(decoder.output_upscaling):
        if isinstance(layer, nn.GELU) and layer.approximate != "none":
            return f"mask_decoder.output_upscaling.{i}.approximate is {layer.approximate!r}"
        if isinstance(layer, nn.ConvTranspose2d) and (
            layer.kernel_size != (2, 2)
            or layer.stride != (2, 2)
            or layer.padding != (0, 0)
            or layer.groups != 1
        ):
            return f"mask_decoder.output_upscaling.{i} is {layer}"
    return None
