"""Packed training data."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from sam_engine.errors import InputError
from sam_engine.formats.open import open_source
from sam_engine.training.config import DataConfig, TrainConfig
from sam_engine.training.data.packed import PackedDataset
from sam_engine.training.data.packing import pack
from sam_engine.training.data.selection import matches_licence
from sam_engine.training.process import open_images
from tests.helpers.drawn_data import read_all, write_folder


def test_pack_keeps_images_and_masks(drawn_tar: Path, tmp_path: Path):
    """Unpacked masks equal the tar's; unpacked images equal them within JPEG noise."""
    pack(DataConfig(sources=[str(drawn_tar)], short_side=96, jpeg_quality=98), tmp_path / "packed.npz")

    dataset = PackedDataset(tmp_path / "packed.npz")

    samples = read_all(open_source(drawn_tar))
    assert dataset.image_ids.tolist() == [sample.image_id for sample in samples]
    for index, sample in enumerate(samples):
        assert dataset.num_masks(index) == len(sample.masks)
        for number, mask in enumerate(sample.masks):
            np.testing.assert_array_equal(dataset.mask(index, number), mask)
        difference = np.asarray(dataset.image(index), float) - sample.pixels
        assert np.abs(difference).mean() < 3


def test_pack_reduces_to_the_short_side(drawn_tar: Path, tmp_path: Path):
    """Images and masks shrink together, and masks keep their share of the image."""
    pack(DataConfig(sources=[str(drawn_tar)], short_side=48), tmp_path / "packed.npz")

    dataset = PackedDataset(tmp_path / "packed.npz")

    [first, *_] = read_all(open_source(drawn_tar))
    assert dataset.image(0).size == (48, 48)
    assert dataset.mask(0, 0).shape == (48, 48)
    assert dataset.mask(0, 0).mean() == pytest.approx(first.masks[0].mean(), abs=0.01)


def test_licences_keep_only_matching_images(drawn_tar: Path, tmp_path: Path):
    """Images whose row in the table has another licence, or none, are not packed."""
    table = tmp_path / "sources.csv"
    table.write_text(
        "image_id,licence\n100,CC0\n101,image CC BY 2.0; annotations CC BY 4.0\n"
        "102,image CC BY-NC 2.0; annotations CC BY 4.0\n103,CC BY-SA 4.0\n"
    )
    config = DataConfig(
        sources=[str(drawn_tar)], short_side=96, sources_csv=str(table), licences=["CC0", "CC BY", "CC BY-SA"]
    )
    pack(config, tmp_path / "packed.npz")

    assert PackedDataset(tmp_path / "packed.npz").image_ids.tolist() == [100, 101, 103]


def test_other_processes_open_the_file_themselves(drawn_tar: Path, tmp_path: Path):
    """A pickle holds no images: to send them to each of many loaders would take longer than to read them."""
    pack(DataConfig(sources=[str(drawn_tar)] * 2), tmp_path / "packed.npz")
    dataset = PackedDataset(tmp_path / "packed.npz", (1.0, 0.0))
    sent = pickle.dumps(dataset)
    opened = pickle.loads(sent)

    assert len(sent) < 1000
    assert np.array_equal(opened.mask(1, 0), dataset.mask(1, 0))
    drawn = [{one.draw(np.random.default_rng(i)) for i in range(30)} for one in (dataset, opened)]
    assert drawn[0] == drawn[1]


def test_licences_hold_for_images_without_their_annotations(drawn_tar: Path, tmp_path: Path):
    """What serves with regions of even colour needs its licence like the rest."""
    table = tmp_path / "sources.csv"
    table.write_text("image_id,licence\n100,CC0\n101,CC BY-NC 2.0\n")
    config = DataConfig(region_sources=[str(drawn_tar)], sources_csv=str(table), licences=["CC0"])
    pack(config, tmp_path / "packed.npz")

    assert PackedDataset(tmp_path / "packed.npz").image_ids.tolist() == [100]


def test_small_masks_are_left_out(drawn_tar: Path, tmp_path: Path):
    """Of pixels at the size of training; an image without others goes with them."""
    masks = [[m.sum() for m in sample.masks] for sample in read_all(open_source(drawn_tar))]
    limit = int(np.median(masks))
    pack(DataConfig(sources=[str(drawn_tar)], min_mask_pixels=limit), tmp_path / "packed.npz")
    dataset = PackedDataset(tmp_path / "packed.npz")
    found = [[dataset.mask(i, n).sum() for n in range(dataset.num_masks(i))] for i in range(len(dataset))]

    assert found == [kept for areas in masks if (kept := [area for area in areas if area >= limit])]


def test_a_run_draws_by_its_weights(drawn_tar: Path, tmp_path: Path):
    """Those of the settings, not those that the file was made with: they may change when a run goes on."""
    data = DataConfig(
        sources=[str(drawn_tar), str(write_folder(tmp_path / "folder", 2))],
        weights=[1.0, 9.0],
        packed=str(tmp_path / "packed.npz"),
    )
    pack(data, tmp_path / "packed.npz")
    images, rng = open_images(TrainConfig(data=data)), np.random.default_rng(0)

    assert np.mean([images.draw(rng) >= 8 for _ in range(500)]) == pytest.approx(0.9, abs=0.05)


@pytest.mark.parametrize(
    ("text", "wanted", "expected"),
    [
        ("image CC BY 2.0; annotations CC BY 4.0", "CC BY", True),
        ("image CC BY-NC 2.0; annotations CC BY 4.0", "CC BY", False),
        ("image CC BY-ND 2.0; annotations CC BY 4.0", "CC BY-SA", False),
        ("CC0", "CC0", True),
    ],
)
def test_licence_terms_are_whole(text: str, wanted: str, expected: bool):
    """CC BY does not admit CC BY-NC, and the licence of annotations does not speak for the image."""
    assert matches_licence(text, [wanted]) is expected


def test_other_files_are_no_packed_data(tmp_path: Path):
    """An .npz of something else is named."""
    np.savez(tmp_path / "other.npz", a=np.zeros(3))

    with pytest.raises(InputError, match=r"other\.npz"):
        PackedDataset(tmp_path / "other.npz")
