"""Images inside a tar are listed and read like files."""

import io
import os
import pickle
import tarfile
from pathlib import Path

import pytest

from sam_engine.config import DecodeConfig
from sam_engine.inputs.open import open_input
from sam_engine.inputs.source import Account, ListingRules
from sam_engine.structures import ImageStatus
from tests.helpers.inputs import entries, read_status, refusal

DEFAULT = DecodeConfig()


def write_tar(path: Path, members: dict[bytes, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(os.fsdecode(name))
            info.size, info.mtime = len(data), 1_700_000_000
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)


def test_tar_members_are_images(tmp_path):
    """Members are listed by name and read at random; links and other files are not."""
    members = {
        b"./sa_1.jpg": b"one",
        b"sa_1.json": b"{}",
        b"d/._sa_1.jpg": b"fork",
        b"d/bad\xff.jpg": b"two",
        b"../up.png": b"three",
    }
    write_tar(tmp_path / "x.tar", members)
    source = pickle.loads(pickle.dumps(open_input(str(tmp_path / "x.tar"))))

    assert {entry.path: source.read(entry, DEFAULT) for entry in entries(source)} == {
        b"sa_1.jpg": b"one",
        b"d/bad\xff.jpg": b"two",
        b"../up.png": b"three",
    }


def test_changed_tar_is_told(tmp_path):
    """A tar that was rewritten since the listing gives no bytes of another image."""
    write_tar(tmp_path / "x.tar", {b"a.jpg": b"one", b"b.jpg": b"two"})
    source = open_input(str(tmp_path / "x.tar"))
    first, second = entries(source)
    write_tar(tmp_path / "x.tar", {b"a.jpg": b"longer"})
    os.utime(tmp_path / "x.tar", ns=(1, 1))

    assert read_status(source, first) is ImageStatus.CHANGED
    assert read_status(source, second) is ImageStatus.VANISHED


def test_cut_tar_is_refused(tmp_path):
    """Half a download is no input."""
    write_tar(tmp_path / "x.tar", {b"a.jpg": bytes(50_000)})
    os.truncate(tmp_path / "x.tar", 20_000)

    assert "x.tar" in refusal(tmp_path / "x.tar")


def problem_of(path: Path) -> tuple[list[bytes], list[str]]:
    """Return what is listed of an incomplete tar that is accepted, and what is said of it."""
    account = Account()
    source = open_input(str(path), ListingRules(accept_incomplete=True))
    return [file.path for file in source.iter_files(account)], account.incomplete


def make_damaged(path: Path, damage: str) -> None:
    """Write a tar of three images, a block each, and damage it."""
    write_tar(path, {b"a.jpg": bytes(512), b"b.jpg": bytes(512), b"c.jpg": bytes(512)})
    data = bytearray(path.read_bytes())
    if damage == "header":
        data[1024 + 100] ^= 1
    elif damage == "between":
        del data[2048:]
    elif damage == "inside":
        del data[2048 + 600 :]
    elif damage == "joined":
        data = data * 2
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "byte", "whole"),
    [
        ("header", "byte 1,024", [b"a.jpg"]),
        ("between", "byte 2,048", [b"a.jpg", b"b.jpg"]),
        ("inside", "byte 2,048", [b"a.jpg", b"b.jpg"]),
        ("joined", "byte 10,240", [b"a.jpg", b"b.jpg", b"c.jpg"]),
    ],
)
def test_a_tar_that_is_not_whole_is_refused(tmp_path, damage, byte, whole):
    """Or taken as far as it is whole, and that is said: file, byte and number."""
    make_damaged(tmp_path / "x.tar", damage)
    message = refusal(tmp_path / "x.tar")
    paths, [problem] = problem_of(tmp_path / "x.tar")

    assert byte in message
    assert "x.tar" in message
    assert f"{len(whole)} whole" in message
    assert "input_incomplete=accept" in message
    assert paths == whole
    assert problem in message


def test_hard_links_are_the_files_that_they_name(tmp_path):
    """Also of a file with another suffix; links to nothing, symbolic ones and other files are counted."""
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("a.jpg", "b.data"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(name[:3].encode()))
        links = [("hard.jpg", tarfile.LNKTYPE, "a.jpg"), ("odd.jpg", tarfile.LNKTYPE, "b.data")]
        links += [("lost.jpg", tarfile.LNKTYPE, "nothing"), ("soft.jpg", tarfile.SYMTYPE, "a.jpg")]
        for name, kind, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    account = Account()
    source = open_input(str(tmp_path / "x.tar"))
    list(source.iter_files(account))

    assert {entry.path: source.read(entry, DEFAULT) for entry in entries(source)} == {
        b"a.jpg": b"a.j",
        b"hard.jpg": b"a.j",
        b"odd.jpg": b"b.d",
    }
    assert account.left_out == {
        "hard links to what is not in the tar": 1,
        "links": 1,
        "other files (.data)": 1,
    }


def put_links(path: Path, *members: tuple[str, str | None]) -> None:
    """Write a tar of files that hold their names, and of hard links to others."""
    with tarfile.open(path, "w") as tar:
        for name, target in members:
            info = tarfile.TarInfo(name)
            if target is None:
                info.size = len(name)
            else:
                info.type, info.linkname = tarfile.LNKTYPE, target
            tar.addfile(info, io.BytesIO(name.encode()))


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([("a.jpg", None), ("b.jpg", "a.jpg"), ("c.jpg", "b.jpg")], "a.jpg"),  # a link to a link
        ([("c.jpg", "b.jpg"), ("b.jpg", "a.bin"), ("a.bin", None)], "a.bin"),  # before what they name
        ([("a.jpg", None), ("c.jpg", None), ("c.jpg", "a.jpg")], "a.jpg"),  # the later one is the link
        ([("a.jpg", None), ("c.jpg", "a.jpg"), ("c.jpg", None)], "c.jpg"),  # or the file
        ([("c.jpg", None), ("c.jpg", "c.jpg")], "c.jpg"),  # as GNU tar writes a file that is given twice
    ],
)
def test_hard_links_lead_where_they_would_when_unpacked(tmp_path, members, expected):
    """By way of other links, and of equal names the last counts."""
    put_links(tmp_path / "x.tar", *members)
    source = open_input(str(tmp_path / "x.tar"))
    contents = {entry.path: source.read(entry, DEFAULT) for entry in entries(source)}

    assert contents[b"c.jpg"] == expected.encode()


@pytest.mark.parametrize("name", ["ä" * 80 + ".jpg", "a.jpg"])
def test_a_damaged_extended_header_is_refused(tmp_path, name):
    """Python's tarfile would go on with another name, or another size, and say nothing."""
    with tarfile.open(
        tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x"}
    ) as tar:
        tar.addfile(tarfile.TarInfo(name))
    data = (tmp_path / "x.tar").read_bytes()
    record = b" path=" if len(name) > 80 else b" comment="
    (tmp_path / "x.tar").write_bytes(data.replace(record, b"x" + record[1:], 1))

    assert "a damaged extended header at byte 0" in refusal(tmp_path / "x.tar")
