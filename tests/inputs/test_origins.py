"""Containers and lists that say where their images come from are listened to."""

import io
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam_engine.errors import InputError
from sam_engine.inputs.open import open_input
from sam_engine.inputs.source import sorted_files
from sam_engine.inputs.tar import webdataset_key
from sam_engine.structures import UNKNOWN_ORIGIN, Origin


def origins(path):
    return [file.origin for file in sorted_files(open_input(str(path)))]


def parquet(file, **columns):
    pq.write_table(pa.table(columns), file)
    return file


@pytest.mark.parametrize(
    ("member", "key"),
    [
        (b"000123.jpg", "000123"),
        (b"a/b.c/sample.seg.png", "a/b.c/sample"),
        ("über.jpg".encode(), "über"),
        (b"bad\xff.jpg", None),
        (b"a/.jpg", None),
    ],
)
def test_a_key_is_what_webdataset_calls_the_sample(member, key):
    """``base_plus_ext`` of webdataset: up to the first dot of the last component."""
    assert webdataset_key(member) == key


def test_members_of_a_tar_have_keys(tmp_path):
    """Each its own, also below folders."""
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("a/1.img.jpg", "2.jpg"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())

    assert origins(tmp_path / "x.tar") == [Origin(source_key="2"), Origin(source_key="a/1")]


def test_columns_beside_the_bytes_of_a_parquet_are_kept(tmp_path):
    """In other spellings, as numbers and as dictionaries; what is null or empty stays unknown."""
    path = parquet(
        tmp_path / "x.parquet",
        image=[b"1", b"2", b"3"],
        License=pa.array(["CC0", None, "CC0"]).dictionary_encode(),
        author=["Ann", "", "Bob"],
        url=pa.array(["https://x/1", "https://x/2", None], pa.string_view()),
        id=[7, 8, 9],
        caption=["a", "b", "c"],
    )

    assert origins(path) == [
        Origin(licence="CC0", attribution="Ann", source_url="https://x/1", source_key="7"),
        Origin(source_url="https://x/2", source_key="8"),
        Origin(licence="CC0", attribution="Bob", source_key="9"),
    ]


def test_the_name_beside_bytes_is_the_key_where_there_is_no_other(tmp_path):
    """It is what the image was called before it was packed."""
    plain = parquet(tmp_path / "x.parquet", image=[b"1"], file_name=["holiday.jpg"])
    hugging_face = parquet(tmp_path / "y.parquet", image=[{"bytes": b"1", "path": "holiday.jpg"}])

    assert origins(plain) == origins(hugging_face) == [Origin(source_key="holiday.jpg")]


def test_columns_beside_paths_are_kept(tmp_path):
    """Of a Parquet of paths; the column of paths itself is no key."""
    path = parquet(tmp_path / "x.parquet", path=["a.jpg", "b.jpg"], url=["u1", "u2"])

    assert origins(path) == [Origin(source_url="u1"), Origin(source_url="u2")]


def test_a_parquet_of_images_alone_says_nothing(tmp_path):
    """As ever."""
    assert origins(parquet(tmp_path / "x.parquet", image=[b"1"])) == [UNKNOWN_ORIGIN]


def test_a_value_that_is_too_long_is_refused(tmp_path):
    """One long value in very many rows would not fit the memory."""
    path = parquet(tmp_path / "x.parquet", image=[b"1"], url=["u" * 5000])

    with pytest.raises(InputError, match="column 'url' has a value of 5000 bytes; at most 4096"):
        origins(path)


def test_a_list_may_have_columns(tmp_path):
    """A CSV with a header; names of digits stay what they are, and paths are relative to the list."""
    (tmp_path / "007").write_bytes(b"x")
    (tmp_path / "list.csv").write_text('file_name,url,license\n007,https://x/7,"CC BY 4.0"\n008,,\n')
    files = sorted_files(open_input(str(tmp_path / "list.csv")))

    assert [(file.path, file.size) for file in files] == [(b"007", 1), (b"008", 0)]
    assert [file.origin for file in files] == [
        Origin(source_url="https://x/7", licence="CC BY 4.0"),
        UNKNOWN_ORIGIN,
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "has columns a, b; the files are looked for in file_name, path"),
        ("", "is not a readable CSV file"),
        ("file_name\nhttps://x/1.jpg\n", "is not a path"),
        ("file_name,url\n,u\n", "a row of column 'file_name' names no file"),
    ],
)
def test_a_list_that_names_no_files_is_refused(tmp_path, text, message):
    """With what it has, and what would do."""
    (tmp_path / "list.csv").write_text(text)

    with pytest.raises(InputError, match=message):
        origins(tmp_path / "list.csv")
