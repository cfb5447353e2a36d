"""Many containers are one input, whether a folder, a glob or a range in braces names them."""

import io
import os
import pickle
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam_engine.config import DecodeConfig
from sam_engine.inputs.folder import expand_braces
from sam_engine.inputs.open import open_input
from sam_engine.inputs.source import Account, ListingRules
from sam_engine.structures import ImageStatus
from tests.helpers.inputs import entries, read_status, refusal

DEFAULT = DecodeConfig()


def put_tar(path, *names, mode="w") -> None:
    """Write a tar whose members hold its name and theirs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            data = f"{path.name} {name}".encode()
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def contents(spec) -> dict[bytes, bytes]:
    """Read everything that an input lists, as a worker does that got it as a pickle."""
    source = pickle.loads(pickle.dumps(open_input(str(spec))))
    return {entry.path: source.read(entry, DEFAULT) for entry in entries(source)}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for unpacked tars."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    "spec", ["in", "in/*.tar", "in/sa_{0..1}.tar", "in/sa_{0,1}.tar", "in/**/sa_[01].tar"]
)
def test_tars_of_a_folder_are_one_input(tmp_path, spec):
    """Members are named by their tar; one of the tars is gzip under a plain name, as SA-1B has it."""
    put_tar(tmp_path / "in" / "sa_0.tar", "a.jpg", "a.json")
    put_tar(tmp_path / "in" / "sa_1.tar", "./d/a.jpg", mode="w:gz")

    assert contents(tmp_path / spec) == {
        b"sa_0.tar/a.jpg": b"sa_0.tar a.jpg",
        b"sa_1.tar/d/a.jpg": b"sa_1.tar ./d/a.jpg",
    }


def test_parquet_files_and_zips_are_one_input(tmp_path):
    """Below any folder; a zip without images is counted."""
    (tmp_path / "in" / "b").mkdir(parents=True)
    pq.write_table(pa.table({"image": [b"one", b"two"]}), tmp_path / "in" / "b" / "x.parquet")
    with zipfile.ZipFile(tmp_path / "in" / "c.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("d/y.png", b"three")
    with zipfile.ZipFile(tmp_path / "in" / "empty.zip", "w") as archive:
        archive.writestr("notes.txt", b"")
    account = Account()
    list(open_input(str(tmp_path / "in")).iter_files(account))

    assert contents(tmp_path / "in") == {
        b"b/x.parquet#000000000": b"one",
        b"b/x.parquet#000000001": b"two",
        b"c.zip/d/y.png": b"three",
    }
    assert account.left_out["containers without images"] == 1


def test_containers_beside_images_are_counted_only(tmp_path):
    """A folder of photographs with an archive of them has each photograph once."""
    put_tar(tmp_path / "in" / "x.tar", "a.jpg")
    (tmp_path / "in" / "a.jpg").write_bytes(b"photo")
    account = Account()
    files = list(open_input(str(tmp_path / "in")).iter_files(account))

    assert [file.path for file in files] == [b"a.jpg"]
    assert account.left_out == {"other files (.tar)": 1}


def test_a_range_with_a_gap_is_refused(tmp_path):
    """The message counts what is missing and names the first."""
    put_tar(tmp_path / "sa_000.tar", "a.jpg")

    assert "2 of 3 are not there" in refusal(tmp_path / "sa_{000..002}.tar")
    assert "sa_001.tar" in refusal(tmp_path / "sa_{000..002}.tar")


def test_folders_of_a_range_are_one_input(tmp_path):
    """As SA-1B's tars lie when they were unpacked, a folder each."""
    for name in ("sa_000000", "sa_000001"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(name.encode())

    assert contents(tmp_path / "sa_{000000..000001}") == {
        b"sa_000000/a.jpg": b"sa_000000",
        b"sa_000001/a.jpg": b"sa_000001",
    }


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("a{08..11}b", ["a08b", "a09b", "a10b", "a11b"]),
        ("a{2..0}", ["a2", "a1", "a0"]),
        ("{a,b}/{1..2}", ["a/1", "a/2", "b/1", "b/2"]),
        ("a{b}{", ["a{b}{"]),
    ],
)
def test_braces_are_those_of_a_shell(spec, expected):
    """Leading zeros give all numbers one width."""
    assert expand_braces(spec) == expected


def test_a_damaged_member_of_a_zip_is_its_own_error(tmp_path):
    """The checksum tells, and the others are read."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.png", b"sound")
        archive.writestr("b.png", b"damaged")
    data = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(data.replace(b"damaged", b"demaged", 1))
    source = open_input(str(tmp_path / "x.zip"))
    sound, damaged = entries(source)

    assert source.read(sound, DEFAULT) == b"sound"
    assert read_status(source, damaged) is ImageStatus.UNREADABLE


def test_a_cut_zip_is_refused(tmp_path):
    """Its directory lies at its end."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.png", bytes(1000))
    os.truncate(tmp_path / "x.zip", 900)

    assert "not whole" in refusal(tmp_path / "x.zip")


def zip_of(*names: str) -> bytes:
    """Return a zip whose members hold their names."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, name)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "problem", "whole"),
    [
        (zip_of("a.png", "b.png") + zip_of("c.png"), "perhaps another zip, lie before", [b"c.png"]),
        (
            zip_of("a.png").replace(b"\1\0\1\0", b"\4\0\4\0"),
            "has 1 files of the 4 that it states",
            [b"a.png"],
        ),
    ],
    ids=["joined", "short directory"],
)
def test_a_zip_that_is_not_whole_is_refused(tmp_path, data, problem, whole):
    """Or taken as far as its directory goes."""
    (tmp_path / "x.zip").write_bytes(data)
    account = Account()
    source = open_input(str(tmp_path / "x.zip"), ListingRules(accept_incomplete=True))

    assert problem in refusal(tmp_path / "x.zip")
    assert [file.path for file in source.iter_files(account)] == whole
    assert problem in account.incomplete[0]


def test_a_program_in_front_of_a_zip_is_no_damage(tmp_path):
    """As in archives that unpack themselves; nor is a comment at the end."""
    (tmp_path / "x.zip").write_bytes(b"#!/bin/sh\n" + zip_of("a.png", "b.png"))
    with zipfile.ZipFile(tmp_path / "x.zip", "a") as archive:
        archive.comment = b"made today"

    assert contents(tmp_path / "x.zip") == {b"a.png": b"a.png", b"b.png": b"b.png"}


@pytest.mark.parametrize(("name", "mode"), [("x.zip", "w"), ("y.zip", "w:gz"), ("d/z.zip", "w:xz")])
def test_a_tar_under_the_name_of_a_zip_is_read(tmp_path, name, mode):
    """The first bytes tell, as they do of a zip under the name of a tar."""
    put_tar(tmp_path / "in" / name, "a.jpg", mode=mode)

    assert list(contents(tmp_path / "in" / name)) == [b"a.jpg"]
    assert list(contents(tmp_path / "in")) == [name.encode() + b"/a.jpg"]
