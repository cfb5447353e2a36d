"""Training from sources directly: what is drawn is what a packed copy would give."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from sam_engine.errors import ConfigError, InputError
from sam_engine.training.config import DataConfig, TrainConfig
from sam_engine.training.data.batches import sample_batch
from sam_engine.training.data.packed import PackedDataset
from sam_engine.training.data.packing import pack
from sam_engine.training.data.streaming import StreamedDataset
from tests.helpers.drawn_data import draw, rle, write_coco, write_folder, write_our_dataset


def test_streamed_and_packed_batches_are_the_same(drawn_tar: Path, tmp_path: Path):
    """Targets and prompts are equal, pixels within JPEG's noise, at a reduced size and mixed by weight."""
    ours = write_our_dataset(tmp_path, 4)
    data = DataConfig(
        sources=[str(drawn_tar), str(ours)],
        region_sources=[str(drawn_tar)],
        weights=[1.0, 2.0, 1.0],
        short_side=64,
        jpeg_quality=98,
    )
    pack(data, tmp_path / "packed.npz")
    packed, streamed = PackedDataset(tmp_path / "packed.npz", data.weights), StreamedDataset(data)
    config = TrainConfig(image_size=64, prompts_per_image=3, data=data)

    assert packed.sources == streamed.sources == ["drawn", "dataset", "drawn regions"]
    assert len(packed) == len(streamed)
    for step in range(3):
        one, other = (sample_batch(dataset, config, step, range(8)) for dataset in (packed, streamed))
        for name in ("targets", "points", "boxes", "is_box", "seeds"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        assert (one.images - other.images).abs().mean() < 6  # other images differ by 50 and more


def test_an_image_that_cannot_be_read_is_left_out_and_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Another is drawn in its place; the log has one line for it."""
    folder = write_folder(tmp_path / "folder", 3)
    (folder / "sa_101.json").write_text("{")
    data = DataConfig(sources=[str(folder)], short_side=96)
    dataset = StreamedDataset(data)
    config = TrainConfig(image_size=64, data=data)

    with caplog.at_level(logging.WARNING):
        batch = sample_batch(dataset, config, 0, range(24))

    assert len(batch.images) == 24
    assert [record.getMessage().count("sa_101.json") for record in caplog.records] == [1]
    pack(data, tmp_path / "packed.npz")
    assert PackedDataset(tmp_path / "packed.npz").image_ids.tolist() == [100, 102]


def test_licences_of_the_source_itself_count(tmp_path: Path):
    """COCO names its licences: no table is needed, and what is not allowed is not trained on."""
    path = write_coco(tmp_path, [rle(mask) for mask in draw(0)[1]])
    settings = {"sources": [str(path)], "images": [str(tmp_path / "images")], "short_side": 96}

    allowed = StreamedDataset(DataConfig(licences=["CC BY-NC"], **settings))

    assert len(allowed) == 1
    np.testing.assert_array_equal(allowed.mask(0, 1), draw(0)[1][1])
    with pytest.raises(InputError, match=r"passes data\.licences"):
        StreamedDataset(DataConfig(licences=["CC BY"], **settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"data\.sources is empty"),
        ({"sources": ["a"], "weights": [1.0, 2.0]}, r"data\.weights must be 1, one for each source"),
        ({"sources": ["a"], "images": [None, None]}, r"data\.images must be 1, one for each source"),
        ({"sources": ["a"], "weights": [0.0]}, r"data\.weights must be above 0"),
    ],
)
def test_settings_that_do_not_fit_the_sources_are_refused(settings, message: str):
    """Before anything is read."""
    with pytest.raises(ConfigError, match=message):
        StreamedDataset(DataConfig(**settings))


def test_weights_must_fit_the_packed_file(drawn_tar: Path, tmp_path: Path):
    """On a machine without the sources, their number is known from the file."""
    pack(DataConfig(sources=[str(drawn_tar)]), tmp_path / "packed.npz")

    with pytest.raises(ConfigError, match=r"must be 1, one for each source in .*packed\.npz \(drawn\)"):
        PackedDataset(tmp_path / "packed.npz", [1.0, 2.0])
