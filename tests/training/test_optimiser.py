"""Learning rates by step, by layer and by kind of parameter."""

from dataclasses import replace

import pytest
import torch

from sam_engine.build_sam import build_architecture
from sam_engine.errors import ConfigError
from sam_engine.training.config import TrainConfig
from sam_engine.training.optimiser import (
    freeze,
    learning_rate_scale,
    num_trunk_layers,
    parameter_groups,
    trunk_layer,
)
from tests.helpers.reference_models import SMALL, SMALL_TINY


def test_learning_rate_warms_up_and_decays():
    """Linearly to the peak, then along a cosine to a hundredth."""
    config = TrainConfig(total_steps=100, warmup_steps=10)

    assert [learning_rate_scale(step, config) for step in (0, 9, 10)] == [0.1, 1.0, 1.0]
    assert learning_rate_scale(55, config) == pytest.approx(0.505)
    assert learning_rate_scale(100, config) == pytest.approx(0.01)


def test_learning_rate_falls_in_steps():
    """By ten at each of the given parts of the run, as SAM's at 60,000 and 86,666 of 90,000."""
    config = TrainConfig(total_steps=90_000, warmup_steps=250, schedule="step")
    steps = (249, 59_999, 60_000, 86_600, 86_700)

    assert [learning_rate_scale(step, config) for step in steps] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_layers_of_a_vit_learn_the_slower_the_earlier_they_are():
    """Patches and positions with the first block; neck, prompts and decoder at the full rate."""
    sam = build_architecture(replace(SMALL, depth=3))
    config = TrainConfig(learning_rate=1.0, trunk_learning_rate=0.5, layer_decay=0.8, weight_decay=0.1)
    names = {id(parameter): name for name, parameter in sam.named_parameters()}
    rates = {
        names[id(parameter)]: (group["peak_lr"], group["weight_decay"])
        for group in parameter_groups(sam, config)
        for parameter in group["params"]
    }

    assert num_trunk_layers(sam) == 3
    assert rates.keys() == set(names.values())
    assert rates["image_encoder.blocks.2.attn.qkv.weight"] == (0.5, 0.1)
    assert rates["image_encoder.blocks.2.attn.qkv.bias"] == (0.5, 0)
    assert rates["image_encoder.blocks.1.mlp.lin1.weight"] == (pytest.approx(0.4), 0.1)
    assert rates["image_encoder.pos_embed"] == (pytest.approx(0.32), 0)
    assert rates["image_encoder.patch_embed.proj.weight"][0] == rates["image_encoder.pos_embed"][0]
    assert rates["image_encoder.neck.0.weight"] == (1.0, 0.1)
    assert rates["mask_decoder.mask_tokens.weight"] == (1.0, 0)


def test_frozen_layers_are_left_out():
    """They get no gradient, all after them do, and the optimiser does not hold them."""
    sam = build_architecture(SMALL_TINY)
    config = TrainConfig(frozen_layers=7)
    freeze(sam, config)
    features, skips = sam.image_encoder.forward_features(torch.zeros(1, 3, 64, 64))
    assert skips is not None
    (features.sum() + skips[0].sum() + skips[1].sum()).backward()
    held = {id(p) for group in parameter_groups(sam, config) for p in group["params"]}
    for name, parameter in sam.image_encoder.named_parameters():
        layer = trunk_layer(f"image_encoder.{name}")
        is_frozen = layer is not None and layer < 7
        assert (parameter.grad is None) == is_frozen, name
        assert (id(parameter) not in held) == is_frozen, name


def test_all_but_the_trained_parts_stay():
    """Of one part only its parameters learn, and where a layer of it is frozen, only the others."""
    sam = build_architecture(SMALL_TINY)
    config = TrainConfig(trained_parts=["mask_decoder.shape_heads", "image_encoder.trunk"], frozen_layers=17)
    freeze(sam, config)
    learning = {name for name, parameter in sam.named_parameters() if parameter.requires_grad}

    assert {name.rpartition(".")[0].rpartition(".")[0] for name in learning} == {
        *(f"mask_decoder.shape_heads.{i}.layers" for i in range(4)),
        "image_encoder.trunk.17.conv",
        *(f"image_encoder.trunk.17.conv.{i}" for i in range(2)),
    }


def test_training_nothing_is_an_error():
    """Not hours in which nothing is learnt."""
    config = TrainConfig(trained_parts=["decoder"])
    with pytest.raises(ConfigError, match=r"trained_parts=\['decoder'\] names nothing of tiny to train"):
        freeze(build_architecture(SMALL_TINY), config)
