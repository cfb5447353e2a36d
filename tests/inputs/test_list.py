"""Lists of paths as inputs."""

import os

import pytest

from sam_engine.config import DecodeConfig
from sam_engine.inputs.open import open_input
from sam_engine.structures import ImageStatus
from tests.helpers.inputs import entries, listed, put, read_failure, refusal

DEFAULT = DecodeConfig()


def test_list_file_keeps_its_paths(tmp_path):
    """A list holds any paths, relative to itself or absolute; missing ones get a row."""
    put(tmp_path, "a b.jpg", "sub/no_extension", "other/c.jpg")
    absolute = os.fsencode(tmp_path / "other" / "c.jpg")
    put(tmp_path, "lists/x.txt", data=b"../a b.jpg\r\n\n../sub/no_extension\n" + absolute + b"\nmissing.jpg")
    source = open_input(str(tmp_path / "lists" / "x.txt"))
    first, second, third, missing = sorted(entries(source), key=lambda entry: entry.path == b"missing.jpg")

    assert {first.path, second.path, third.path} == {b"../a b.jpg", b"../sub/no_extension", absolute}
    assert [source.read(entry, DEFAULT) for entry in (first, second, third)] == [b"image"] * 3
    assert read_failure(source, missing).status is ImageStatus.VANISHED
    assert source.name == "x"


def test_list_of_urls_is_refused(tmp_path):
    """URLs in a list are named by line."""
    put(tmp_path, "x.txt", data=b"a.jpg\nhttps://example.org/b.jpg\n")

    assert "line 2" in refusal(tmp_path / "x.txt")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_lists_of_other_systems_are_read(tmp_path, encoding):
    """With a mark at their beginning, and in the two bytes a letter that Windows likes."""
    put(tmp_path, "ä.jpg", "b c.jpg")
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    (tmp_path / "list.txt").write_bytes(f"{mark}ä.jpg\r\nb c.jpg\r\n".encode(encoding))

    assert listed(tmp_path / "list.txt") == sorted(["ä.jpg".encode(), b"b c.jpg"])


def test_a_list_that_only_begins_as_utf_16_is_refused(tmp_path):
    """Half a letter at its end is no name."""
    (tmp_path / "list.txt").write_bytes("\ufeffa.jpg".encode("utf-16-le") + b"\n")

    assert "begins as UTF-16 does" in refusal(tmp_path / "list.txt")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_of_spreadsheets_are_read(tmp_path, encoding, delimiter):
    """Where decimals have a comma, columns have semicolons between them."""
    put(tmp_path, "a, b.jpg", "c.jpg")
    rows = ("file_name", "licence"), ('"a, b.jpg"', "CC0"), ("c.jpg", "CC BY")
    text = "".join(delimiter.join(row) + "\r\n" for row in rows)
    (tmp_path / "list.csv").write_bytes(text.encode(encoding))
    [first, second] = open_input(str(tmp_path / "list.csv")).iter_files()

    assert (first.path, first.origin.licence) == (b"a, b.jpg", "CC0")
    assert (second.path, second.origin.licence) == (b"c.jpg", "CC BY")
