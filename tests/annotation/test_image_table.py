"""Licence, attribution and address come from a table by the image's name."""

import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam_engine.annotation.card import CARD
from sam_engine.annotation.image_table import read_image_table
from sam_engine.annotation.repair import repair_dataset
from sam_engine.annotation.run import annotate_dataset
from sam_engine.dataset.reader import open_dataset
from sam_engine.dataset.schema import SCHEMA
from sam_engine.dataset.shards import shard_name
from sam_engine.dataset.verify import verify_dataset
from sam_engine.errors import ConfigError, FingerprintError
from sam_engine.inputs import tar as tar_module
from tests.helpers import fakes

TABLE = 'file_name,license,author\n001.png,"CC BY 4.0",Ann\n000.png,CC0,\nother.png,CC0,Bob\n'


def table_of(folder, text, name="images.csv"):
    (folder / name).write_text(text)
    return str(folder / name)


def run(tmp_path, image_table=None):
    if not (tmp_path / "in").exists():
        fakes.write_images(tmp_path / "in", 3)
    settings = fakes.run_settings(
        input=str(tmp_path / "in"), output=str(tmp_path / "out"), shard_size=1, image_table=image_table
    )
    return annotate_dataset(settings, make_model=fakes.make_disc_segmenter)


def told(tmp_path):
    records = open_dataset(tmp_path / "out").records()
    return [(record.path.decode(), record.licence, record.attribution) for record in records]


def test_rows_say_what_the_table_says(tmp_path):
    """Of images that are not in it, or of which it is silent, nothing is known."""
    run(tmp_path, table_of(tmp_path, TABLE))

    assert told(tmp_path) == [
        ("000.png", "CC0", None),
        ("001.png", "CC BY 4.0", "Ann"),
        ("002.png", None, None),
    ]
    assert open_dataset(tmp_path / "out").extras == ("licence", "attribution")
    assert verify_dataset(open_dataset(tmp_path / "out")).problems == []


def test_without_a_table_there_are_no_columns(tmp_path):
    """A dataset of plain files has the columns that it always had."""
    run(tmp_path)
    [table, *_] = open_dataset(tmp_path / "out").tables()

    assert table.column_names == SCHEMA.names


def test_a_run_is_resumed_and_repaired_without_the_table(tmp_path):
    """The dataset keeps what it was told: a shard that is made anew has the same bytes."""
    path = table_of(tmp_path, TABLE)
    run(tmp_path, path)
    before = fakes.shard_bytes(tmp_path / "out")
    (tmp_path / "images.csv").unlink()
    (tmp_path / "out" / shard_name(1)).unlink()
    run(tmp_path, path)
    resumed = fakes.shard_bytes(tmp_path / "out")
    damaged = tmp_path / "out" / shard_name(2)
    damaged.write_bytes(damaged.read_bytes()[:-9])
    repair_dataset(open_dataset(tmp_path / "out"), make_model=fakes.make_disc_segmenter)

    assert resumed == before == fakes.shard_bytes(tmp_path / "out")


@pytest.mark.parametrize("other", [None, TABLE.replace("Ann", "Eve")])
def test_another_table_or_none_is_another_dataset(tmp_path, other):
    """What a row says never depends on when it was made."""
    run(tmp_path, table_of(tmp_path, TABLE))

    with pytest.raises(FingerprintError, match="image_table_sha256 is"):
        run(tmp_path, other and table_of(tmp_path, other))


def test_the_card_counts_licences(tmp_path):
    """By image, and what is unknown is said to be."""
    run(tmp_path, table_of(tmp_path, TABLE))
    card = (tmp_path / "out" / CARD).read_text()

    assert "license: unknown\n" in card
    assert "| CC BY 4.0 | 1 |\n| CC0 | 1 |\n| unknown | 1 |" in card
    assert "attribution of 1 of 3 images" in card


@pytest.mark.parametrize(
    ("licences", "word"),
    [
        (["CC BY 4.0"] * 3, "cc-by-4.0"),
        (["CC0"] * 3, "cc0-1.0"),
        (["CC0", "MIT", "MIT"], "other"),
        (["mine"] * 3, "other"),
    ],
)
def test_the_front_matter_has_the_licence_of_all(tmp_path, licences, word):
    """Where one is that of every image, in the Hub's word for it."""
    rows = "".join(f"00{number}.png,{licence}\n" for number, licence in enumerate(licences))
    run(tmp_path, table_of(tmp_path, f"file_name,licence\n{rows}"))

    assert f"\nlicense: {word}\n" in (tmp_path / "out" / CARD).read_text()


def test_parquet_is_as_good(tmp_path):
    """With integers for keys, and names as text or as bytes."""
    for names in (["000.png", "b"], [b"000.png", b"b"]):
        pq.write_table(pa.table({"path": names, "id": [5, 6], "url": ["u", None]}), tmp_path / "t.parquet")
        table = read_image_table(str(tmp_path / "t.parquet"))

        assert table.paths.to_pylist() == [b"000.png", b"b"]
        assert table.columns["source_key"].to_pylist() == ["5", "6"]
        assert table.columns["source_url"].to_pylist() == ["u", None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,caption\na,b\n", "has columns file_name, caption; wanted is a .csv or .parquet table"),
        ("name,licence\na,b\n", "wanted is a .csv or .parquet table with a column file_name"),
        ("file_name,licence\na,b\na,c\n", "a is named more than once"),
        ("file_name,licence\n", "has no rows"),
        ("file_name,licence\n,b\n", "row 1 names no image"),
        ("file_name,licence\nx/000.png,CC0\n", "none of its 1 names is an image of the input"),
    ],
)
def test_a_table_that_tells_nothing_is_refused(tmp_path, text, message):
    """Before anything is made."""
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, table_of(tmp_path, text))

    assert not (tmp_path / "out").exists()


def test_another_kind_of_file_is_refused(tmp_path):
    """And one that is not there."""
    with pytest.raises(ConfigError, match=r"wanted is a \.csv or \.parquet"):
        run(tmp_path, table_of(tmp_path, TABLE, "images.xlsx"))
    with pytest.raises(ConfigError, match="cannot be read"):
        run(tmp_path, str(tmp_path / "nothing.csv"))


def test_a_dataset_begun_without_keys_goes_on_without_them(tmp_path, monkeypatch):
    """Its own manifest decides on its columns, also where a later program reads more from its input."""
    photos = fakes.write_images(tmp_path / "photos", 2)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for path in sorted(photos.iterdir()):
            tar.add(path, path.name)
    settings = fakes.run_settings(input=str(tmp_path / "x.tar"), output=str(tmp_path / "out"), shard_size=1)
    with monkeypatch.context() as patch:
        patch.setattr(tar_module, "webdataset_key", lambda path: None)
        annotate_dataset(settings, make_model=fakes.make_disc_segmenter)
    before = fakes.shard_bytes(tmp_path / "out")
    (tmp_path / "out" / shard_name(1)).unlink()
    events = []
    annotate_dataset(settings, events.append, make_model=fakes.make_disc_segmenter)
    dataset = open_dataset(tmp_path / "out")

    assert (fakes.shard_bytes(tmp_path / "out"), dataset.extras) == (before, ())
    assert events[0].notes == []
