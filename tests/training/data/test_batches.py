"""Training batches."""

from collections import Counter
from copy import copy
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sam_engine.errors import InputError
from sam_engine.training.config import DataConfig, TrainConfig
from sam_engine.training.data.batches import Batch, sample_batch
from sam_engine.training.data.mixture import Mixture
from sam_engine.training.data.packed import PackedDataset
from sam_engine.training.data.packing import pack
from tests.helpers import queued_device


@pytest.fixture(scope="module")
def dataset(drawn_tar: Path, tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    path = tmp_path_factory.mktemp("packed") / "packed.npz"
    pack(DataConfig(sources=[str(drawn_tar)], short_side=96), path)
    return PackedDataset(path)


def draw(dataset: PackedDataset, step: int, **changes: object) -> Batch:
    config = TrainConfig(image_size=64, images_per_step=4, prompts_per_image=3, seed=7, **changes)
    return sample_batch(dataset, config, step, range(4))


def test_a_step_has_one_batch(dataset: PackedDataset):
    """The same seed and step give the same batch, another step another."""
    first, again, other = draw(dataset, 3), draw(dataset, 3), draw(dataset, 4)

    for name, tensor in vars(first).items():
        assert torch.equal(tensor, getattr(again, name))
    assert not torch.equal(first.images, other.images)


def test_a_batch_goes_to_a_device_without_waiting(dataset: PackedDataset):
    """From pinned memory; the seeds stay where they are read, and a CPU copies nothing."""
    batch = draw(dataset, 3)
    with queued_device.watch() as events:
        there = batch.to(queued_device.DEVICE)

    assert (events.reads, events.waits) == ([], [])
    assert there.images.device == queued_device.DEVICE
    assert there.seeds is batch.seeds
    assert batch.to(torch.device("cpu")).images.data_ptr() == batch.images.data_ptr()


def test_another_seed_gives_other_batches(dataset: PackedDataset):
    """Runs that differ in their seed alone see other crops."""
    config = TrainConfig(image_size=64, images_per_step=2, prompts_per_image=2, seed=7)
    one, other = (sample_batch(dataset, replace(config, seed=seed), 3, range(2)) for seed in (7, 8))

    assert not torch.equal(one.images, other.images)


def whole_images(dataset: PackedDataset, **changes: object) -> Batch:
    """Return sixty images as they are, but for colours and flips."""
    data = {"whole_image_fraction": 1.0, **{k: changes.pop(k) for k in list(changes) if k in DATA}}
    config = TrainConfig(image_size=64, prompts_per_image=4, data=DataConfig(**data), **changes)
    return sample_batch(dataset, config, 0, range(60))


DATA = {field.name for field in fields(DataConfig)}


def test_half_of_the_images_are_mirrored(dataset: PackedDataset):
    """The yellow disc, drawn on the left, is on the right in half of them."""
    images = whole_images(dataset).images
    is_left = (images[:, 0] - images[:, 2]).clamp(min=0)[..., :32].mean(dim=(1, 2)) > 8

    assert 15 < is_left.sum() < 45


def test_colours_are_jittered(dataset: PackedDataset):
    """The brightest red, drawn as 250, differs from image to image."""
    brightest = whole_images(dataset).images[:, 0].amax(dim=(1, 2))

    assert brightest.std() > 5


def test_zoom_follows_the_settings(dataset: PackedDataset):
    """Whole images fill the crop; enlarged ones show larger masks, reduced ones are padded."""
    whole = whole_images(dataset)
    large = whole_images(dataset, whole_image_fraction=0.0, max_zoom=4.0)
    small = whole_images(dataset, whole_image_fraction=0.0, min_zoom=0.25, max_zoom=1.0)
    is_padded = [
        (batch.images == 127.5).all(dim=1)[:, -4, -4].float().mean() for batch in (whole, large, small)
    ]

    assert is_padded[:2] == [0, 0]
    assert is_padded[2] > 0.8
    assert whole.targets.mean(dim=(1, 2)).max() < 0.2
    assert large.targets.mean(dim=(1, 2)).max() > 0.3


def test_as_many_prompts_as_asked_for_start_from_boxes(dataset: PackedDataset):
    """``box_fraction`` of them."""
    shares = [whole_images(dataset, box_fraction=share).is_box.float().mean() for share in (0.0, 0.2, 1.0)]

    assert (shares[0], shares[2]) == (0, 1)
    assert 0.1 < shares[1] < 0.3


def test_things_are_pasted_on_images(dataset: PackedDataset):
    """Drawn images have two masks each; with ``copy_paste_fraction`` some have more, others still two."""

    def num_masks(fraction: float) -> set[int]:
        targets = whole_images(dataset, copy_paste_fraction=fraction).targets.unflatten(0, (60, 4))
        return {len(masks.unique(dim=0)) for masks in targets}

    assert num_masks(0.0) == {2}
    assert max(num_masks(0.5)) > 2
    assert 2 in num_masks(0.5)


def test_an_image_is_the_same_in_any_company(dataset: PackedDataset):
    """The images of a step are a function of their slots, not of the batch they are drawn in."""
    config = TrainConfig(image_size=64, images_per_step=4, prompts_per_image=3, seed=7)

    whole = sample_batch(dataset, config, 5, range(4))
    parts = [sample_batch(dataset, config, 5, slots) for slots in ([0], [1, 2], [3])]

    for name, tensor in vars(whole).items():
        assert torch.equal(tensor, torch.cat([getattr(part, name) for part in parts]))


def test_clicks_lie_in_their_targets(dataset: PackedDataset):
    """Whatever crop, zoom and flip were drawn, the click's cell or a neighbour is touched by the mask."""
    for step in range(20):
        batch = draw(dataset, step)
        for target, point in zip(batch.targets, batch.points, strict=True):
            x, y = ((point + 0.5) / 4).floor().int().tolist()
            around = target[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
            assert around.max() > 0


def test_targets_follow_the_image(dataset: PackedDataset):
    """Drawn shapes are brighter than the ground: so are the pixels of full cells."""
    for step in range(10):
        batch = draw(dataset, step)
        for i, image in enumerate(batch.images):
            covered = batch.targets[i * 3 : i * 3 + 3].amax(dim=0)
            large = torch.nn.functional.interpolate(covered[None, None], scale_factor=4)[0, 0]
            assert image.mean(dim=0)[large == 1].mean() > 1.3 * 60


def test_boxes_hold_their_clicks(dataset: PackedDataset):
    """A box, noise and all, spans the click's surroundings in the same frame."""
    batch = draw(dataset, 0)

    slack = 0.1 * (batch.boxes[:, 2:] - batch.boxes[:, :2]) + 1.5
    assert (batch.points >= batch.boxes[:, :2] - slack).all()
    assert (batch.points <= batch.boxes[:, 2:] + slack).all()


def test_weights_balance_the_sources():
    """A source of weight 3 is drawn three times as often as one of weight 1, whatever their sizes."""
    mixture, rng = Mixture([3, 0, 13], [3.0, 9.0, 1.0]), np.random.default_rng(0)

    draws = [mixture.draw(rng) for _ in range(4000)]

    assert Counter(source for source, _ in draws)[0] == pytest.approx(3000, abs=100)  # 3.6 deviations
    assert {image for source, image in draws if source == 2} == set(range(13))
    assert {source for source, _ in draws} == {0, 2}


def test_without_weights_every_image_has_the_same_chance():
    """Sources are drawn by their sizes, empty ones never."""
    mixture, rng = Mixture([1, 3, 0], []), np.random.default_rng(0)

    draws = Counter(mixture.draw(rng) for _ in range(4000))

    assert sorted(draws) == [(0, 0), (1, 0), (1, 1), (1, 2)]
    assert min(draws.values()) > 900


def test_data_without_a_usable_mask_are_refused(dataset: PackedDataset):
    """If no crop ever shows a mask, the search ends with the names of the data."""
    config = TrainConfig(image_size=64, data=DataConfig(whole_image_fraction=1.0))

    class Maskless(PackedDataset):
        def num_masks(self, index: int) -> int:
            return 0

    dataset = copy(dataset)
    dataset.__class__ = Maskless
    with pytest.raises(InputError, match=r"drawn from drawn, none has a mask"):
        sample_batch(dataset, config, 0, [0])
