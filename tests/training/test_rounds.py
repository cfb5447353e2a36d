"""The interactive rounds of a step."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sam_engine.build_sam import build_architecture
from sam_engine.catalogue import Architecture
from sam_engine.modeling.image_encoder import ImageEncoderViT
from sam_engine.training.config import DataConfig, TrainConfig
from sam_engine.training.data.batches import Batch, sample_batch
from sam_engine.training.data.packed import PackedDataset
from sam_engine.training.data.packing import pack
from sam_engine.training.drop_path import drop_path
from sam_engine.training.rounds import PromptRounds
from sam_engine.training.trainer import Trainer
from tests.helpers.reference_models import SMALL, SMALL_TINY, randomise


@pytest.fixture(scope="module")
def dataset(drawn_tar: Path, tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    path = tmp_path_factory.mktemp("packed") / "packed.npz"
    pack(DataConfig(sources=[str(drawn_tar)], short_side=96), path)
    return PackedDataset(path)


class Recording(PromptRounds):
    """Remembers the labels, mask prompts and answers of every round; logits may be made larger."""

    logit_scale = 1.0

    def __init__(self, architecture: Architecture, config: TrainConfig) -> None:
        super().__init__(build_architecture(architecture), config)
        self.labels: list[list[list[float]]] = []
        self.had_mask: list[bool] = []
        self.masks: list[Tensor | None] = []
        self.answers: list[tuple[Tensor, Tensor]] = []

    def _decode(self, *args):
        _, _, _, labels, _, mask_input = args
        self.labels.append(labels.tolist())
        self.had_mask.append(mask_input is not None)
        self.masks.append(mask_input)
        logits, predicted_iou = super()._decode(*args)
        self.answers.append((self.logit_scale * logits, predicted_iou))
        return self.answers[-1]


def make_batch(dataset: PackedDataset, config: TrainConfig) -> Batch:
    return sample_batch(dataset, config, 0, range(config.images_per_step))


def test_eleven_rounds_as_in_the_paper(dataset: PackedDataset):
    """A first prompt, eight clicks, one round in between and the last without a new one."""
    config = TrainConfig(
        image_size=64, images_per_step=3, prompts_per_image=2, max_rounds=11, clickless_rounds=True
    )
    rounds = Recording(SMALL_TINY, config)
    with torch.no_grad():
        losses = rounds(make_batch(dataset, config), 11)
    last = torch.tensor(rounds.labels[-1])

    assert len(losses) == 11
    assert rounds.had_mask == [False] + 10 * [True]
    assert [len(labels[0]) for labels in rounds.labels] == [*range(1, 11), 10]
    assert (last == -1).sum(dim=1).tolist() == 6 * [1]
    assert not (last[:, 0] == -1).any()
    assert torch.equal(last[0] == -1, last[1] == -1)
    assert len({tuple(row) for row in (last == -1).tolist()}) > 1  # a round of its own for each image


def test_every_round_brings_a_click_unless_asked(dataset: PackedDataset):
    """Without ``clickless_rounds``, and in fewer than four rounds."""
    for num_rounds, clickless in ((5, False), (3, True)):
        config = TrainConfig(
            image_size=64, images_per_step=1, prompts_per_image=2, clickless_rounds=clickless
        )
        rounds = Recording(SMALL_TINY, config)
        with torch.no_grad():
            rounds(make_batch(dataset, config), num_rounds)

        assert [len(labels[0]) for labels in rounds.labels] == [*range(1, num_rounds + 1)]
        assert -1 not in [label for row in rounds.labels[-1] for label in row]


def test_an_annotator_sees_what_the_model_ranks_first(dataset: PackedDataset):
    """Of three answers that of the highest predicted IoU, of a box and later the one; clipped to 32."""
    config = TrainConfig(image_size=64, images_per_step=4, prompts_per_image=2, box_fraction=0.5)
    rounds = Recording(SMALL_TINY, config)
    rounds.logit_scale = 1000.0
    batch = make_batch(dataset, config)
    with torch.no_grad():
        rounds(batch, 3)

    assert 0 < batch.is_box.sum() < 8
    for number, (logits, predicted_iou) in enumerate(rounds.answers[:2]):
        shown = rounds.masks[number + 1]
        assert shown is not None
        for prompt in range(8):
            best = 0 if number or batch.is_box[prompt] else 1 + int(predicted_iou[prompt, 1:].argmax())
            assert torch.equal(shown[prompt, 0], logits[prompt, best].clamp(-32, 32))


def test_a_box_is_asked_for_without_its_click(dataset: PackedDataset):
    """Prompts that start from a box do not know the point, the others do not know the box."""
    config = TrainConfig(image_size=64, images_per_step=2, prompts_per_image=2)
    batch = make_batch(dataset, config)
    rounds = Recording(SMALL_TINY, config)
    for is_box in (True, False):
        same = replace(batch, is_box=torch.full_like(batch.is_box, is_box))
        moved = replace(same, **({"points": batch.points / 2} if is_box else {"boxes": batch.boxes / 2}))
        asked = replace(same, **({"boxes": batch.boxes / 2} if is_box else {"points": batch.points / 2}))
        with torch.no_grad():
            one, other, third = (rounds(b, 1)[0].mask for b in (same, moved, asked))

        assert torch.equal(one, other)
        assert not torch.allclose(one, third)


def test_later_rounds_train_one_answer_and_no_earlier_round(dataset: PackedDataset):
    """With several prompts there is one mask; what an annotator saw is no way for gradients."""
    config = TrainConfig(image_size=64, images_per_step=2, prompts_per_image=2, box_fraction=0.0)
    rounds = PromptRounds(build_architecture(SMALL_TINY), config)
    first, second = rounds(make_batch(dataset, config), 2)
    heads = rounds.sam.mask_decoder.output_hypernetworks_mlps
    trained = []
    for losses in (first, second):
        rounds.zero_grad()
        losses.mask.sum().backward(retain_graph=True)
        gradients = [next(head.parameters()).grad for head in heads]
        trained.append([g is not None and bool(g.any()) for g in gradients])

    assert not trained[0][0]
    assert any(trained[0][1:])
    assert trained[1] == [True, False, False, False]


def test_a_vit_is_fine_tuned_by_the_same_code(dataset: PackedDataset, tmp_path: Path):
    """With SAM's recipe a reduced ViT learns: its whole encoder moves, and the loss of one batch falls."""
    config = TrainConfig(
        output=str(tmp_path),
        image_size=SMALL.image_size,
        images_per_step=2,
        prompts_per_image=2,
        total_steps=20,
        warmup_steps=1,
        interactive_from_step=0,
        extra_round_fraction=1.0,
        loss="focal_dice",
        schedule="step",
        trunk_learning_rate=1e-3,
        layer_decay=0.8,
        drop_path=0.2,
        box_fraction=0.5,
    )
    torch.manual_seed(0)
    sam = build_architecture(SMALL)
    before = {name: parameter.detach().clone() for name, parameter in sam.named_parameters()}
    trainer = Trainer(sam, config)
    batch = make_batch(dataset, config)
    losses = [trainer.train_step(iter([batch]))[0]["loss"] for _ in range(10)]
    moved = {name for name, parameter in sam.named_parameters() if not torch.equal(parameter, before[name])}

    assert losses[-1] < losses[0]
    assert {name for name in before if name.startswith("image_encoder.")} <= moved
    assert "mask_decoder.mask_tokens.weight" in moved


def encode(encoder: ImageEncoderViT, images: Tensor, rate: float, seeds: list[int]) -> Tensor:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    with torch.no_grad(), drop_path(encoder, rate, generators):
        return encoder(images)


def test_dropped_paths_are_drawn_for_each_image():
    """By its own generator, so that company does not matter; afterwards nothing is dropped."""
    sam = build_architecture(replace(SMALL, depth=4))
    randomise(sam, seed=0)
    encoder = sam.double().image_encoder
    assert isinstance(encoder, ImageEncoderViT)
    size = sam.image_size
    images = torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain = encode(encoder, images, 0.0, [1, 2])
    both = encode(encoder, images, 0.9, [1, 2])

    assert torch.allclose(both[1:], encode(encoder, images[1:], 0.9, [2]))
    assert not torch.allclose(both, encode(encoder, images, 0.9, [3, 4]))
    assert torch.equal(encode(encoder, images, 0.0, [1, 2]), plain)
    assert not torch.allclose(both, plain)


def test_predicted_iou_counts_by_its_weight(dataset: PackedDataset):
    """Every round's loss is that of the masks plus ``iou_weight`` times the error of predicted IoU."""
    config = TrainConfig(image_size=64, images_per_step=2, prompts_per_image=2, iou_weight=3.0)
    rounds = PromptRounds(build_architecture(SMALL_TINY), config)
    with torch.no_grad():
        losses = rounds(make_batch(dataset, config), 2)

    assert [torch.allclose(loss.total, loss.mask + 3 * loss.iou_error) for loss in losses] == [True, True]


def test_chances_to_drop_a_path_grow_with_depth():
    """From 0 in the first block to the rate in the last, for attention and perceptron by themselves."""
    encoder = build_architecture(replace(SMALL, depth=4)).image_encoder
    assert isinstance(encoder, ImageEncoderViT)
    seeds = range(20)
    draws = torch.stack([torch.rand(4, 2, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    with drop_path(encoder, 0.6, [torch.Generator().manual_seed(seed) for seed in seeds]):
        scales = [block.branch_scale for block in encoder.blocks]

    for i, (scale, chance) in enumerate(zip(scales, (0, 0.2, 0.4, 0.6), strict=True)):
        assert isinstance(scale, Tensor)
        torch.testing.assert_close(scale[:, :, 0, 0, 0].T, (draws[:, i] >= chance) / (1 - chance))
    assert [block.branch_scale for block in encoder.blocks] == 4 * [None]


def test_paths_are_dropped_in_training(dataset: PackedDataset):
    """The rate of the settings reaches the encoder."""
    config = TrainConfig(image_size=SMALL.image_size, images_per_step=2, prompts_per_image=2)
    batch = make_batch(dataset, config)
    torch.manual_seed(0)
    sam = build_architecture(SMALL)
    with torch.no_grad():
        plain, dropped = (
            PromptRounds(sam, replace(config, drop_path=rate))(batch, 1)[0].mask for rate in (0.0, 0.9)
        )

    assert not torch.equal(plain, dropped)
