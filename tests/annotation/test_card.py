"""The dataset card is one that the Hub and `datasets` understand."""

import pytest

from pipelines.auto_annotate import run
from sam_engine.annotation.card import dataset_card
from sam_engine.annotation.report import Totals
from sam_engine.dataset.run_info import RunInfo
from tests.helpers import fakes

yaml = pytest.importorskip("yaml")


def card(num_images=3, random_weights=False):
    info = RunInfo(
        settings={"amg.points_per_side": 32, "model.architecture": {"depth": 3}},
        selection={},
        random_weights=random_weights,
        num_images=num_images,
        num_shards=1,
        versions={"torch": "2"},
    )
    totals = Totals(
        num_images=num_images, num_masks=7, num_bytes=1, statuses={"corrupt": 1, "ok": num_images - 1}
    )
    return dataset_card(
        name="birds",
        info=info,
        totals=totals,
        passed_over=["left out of the input: 2 other files (.txt)"],
        checkpoint="tiny",
        previews=["previews/1.jpg"],
    ).decode()


@pytest.mark.parametrize(
    ("num_images", "category"),
    [
        (3, "n<1K"),
        (1_000, "1K<n<10K"),
        (99_999, "10K<n<100K"),
        (11_000_000, "10M<n<100M"),
        (2 * 10**9, "n>1B"),
    ],
)
def test_front_matter_names_files_size_and_no_licence(num_images, category):
    """The licence is the images' and was not given: it is not guessed."""
    front = yaml.safe_load(card(num_images).split("---\n")[1])

    assert front["license"] == "unknown"
    assert front["size_categories"] == [category]
    assert front["configs"] == [{"config_name": "default", "data_files": "annotations/*.parquet"}]


def test_text_has_counts_settings_and_pictures():
    """Where the masks came from, in words and numbers."""
    text = card()

    for expected in (
        "3 images, 7 masks (3.5 per annotated image)",
        "| corrupt | 1 |",
        "| `amg.points_per_side` | `32` |",
        "![Masks over an image](previews/1.jpg)",
    ):
        assert expected in text
    assert "depth" not in text
    assert "random weights" not in text


def test_random_weights_are_said_first():
    """Nobody takes such masks for annotations."""
    text = card(random_weights=True)

    assert text.index("Made with random weights") < text.index("3 images")


def test_datasets_loads_the_folder_by_its_card(tmp_path, monkeypatch):
    """load_dataset(OUT) finds the shards through the front matter; rows have SA-1B's fields."""
    datasets = pytest.importorskip("datasets")
    fakes.write_images(tmp_path / "in", 3)
    run(
        fakes.run_settings(input=str(tmp_path / "in"), output=str(tmp_path / "out"), shard_size=2),
        fakes.make_disc_segmenter,
    )
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))

    assert rows["image_id"][:] == [0, 1, 2]
    assert set(rows[0]["annotations"][0]) >= {"segmentation", "bbox", "area", "predicted_iou", "point_coords"}
