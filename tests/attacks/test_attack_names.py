"""File names and archive members of strangers: they name rows, and nothing else."""

import gzip
import io
import json
import os
import re
import tarfile

import pytest

from pipelines.auto_annotate import run
from sam_engine.dataset.reader import open_dataset
from sam_engine.dataset.verify import verify_dataset
from sam_engine.errors import InputError
from sam_engine.formats.export import export_dataset
from sam_engine.inputs import unpack
from sam_engine.inputs.open import open_input
from sam_engine.inputs.source import sorted_files
from tests.corpus.image_corpus import cases, encode, photo
from tests.helpers import fakes
from tests.helpers.dataset_builder import image, rectangle_mask, write_dataset

EVIL_NAMES = (
    b"-rf.jpg",
    b"a.jpg\nerror: you are owned.jpg",
    b"a\r\x1b[2J\x1b]0;title\x07.jpg",
    b"<img src=x onerror=alert(1)>.jpg",
    b"](http:..evil) ![x.jpg",
    b"---\nlicense: evil\n---.jpg",
    b"'; DROP TABLE images;--.jpg",
    b"${oc.env:HOME}.jpg",
    b"%2e%2e%2fetc.jpg",
    b"bad\xff\xfe.jpg",
    "‮gpj.exe.jpg".encode(),
    b"x" * 251 + b".jpg",
    "日本語 😀.jpg".encode(),
)
EVIL_MEMBERS = (
    "../../escaped.jpg",
    "/tmp/escaped.jpg",
    "a/../../escaped.jpg",
    "evil\n.jpg",
    "C:\\escaped.jpg",
)


def test_odd_names_are_rows_and_nothing_else(tmp_path, capfd):
    """Every name comes back as its bytes; none starts a line of a log or a tag of the card."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number, name in enumerate(EVIL_NAMES):
        data = encode(photo(), "JPEG") if number % 2 else cases()["half.jpg"].data
        (folder / os.fsdecode(name)).write_bytes(data)
    config = fakes.run_settings(
        input=str(folder), output=str(tmp_path / "out"), max_failed_fraction=1.0, previews=8
    )
    run(config, fakes.make_disc_segmenter)
    output, error = capfd.readouterr()
    dataset = open_dataset(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    failures = [json.loads(line) for line in (tmp_path / "out/_meta/errors.jsonl").read_text().splitlines()]

    assert [record.path for record in dataset.records()] == sorted(EVIL_NAMES)
    assert verify_dataset(dataset).problems == []
    assert len(failures) == sum(record.status.is_failure for record in dataset.records())
    assert "\x1b" not in output + error
    assert not re.search(r"owned|evil|onerror|\nerror", output + error + card)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_exports_name_files_by_id(tmp_path):
    """No name of an input becomes the name of a file, in a folder or in a tar."""
    mask = rectangle_mask(24, 32, 2, 3, 10, 6)
    names = sorted(
        (*EVIL_NAMES, b"../../escaped.jpg", b"/tmp/escaped.jpg", b"photo.json", b"pipe:touch x.pyd")
    )
    write_dataset(tmp_path / "in", [image(number, name, [mask]) for number, name in enumerate(names)])
    dataset = open_dataset(tmp_path / "in")
    export_dataset(dataset, tmp_path / "flat", to="sa1b")
    export_dataset(dataset, tmp_path / "tars", to="sa1b", tar=True)
    export_dataset(dataset, tmp_path / "coco.json", to="coco")
    members = []
    for path in (tmp_path / "tars").iterdir():
        with tarfile.open(path) as tar:
            members += tar.getmembers()

    assert all(re.fullmatch(r"sa_\d+\.json", path.name) for path in (tmp_path / "flat").iterdir())
    assert all(re.fullmatch(r"sa_\d+\.json", member.name) and member.isreg() for member in members)
    assert {(member.mode, member.uid, member.mtime) for member in members} == {(0o644, 0, 0)}
    assert len(json.loads((tmp_path / "coco.json").read_text())["images"]) == len(names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["coco.json", "flat", "in", "tars"]


def evil_tar(path):
    """Write a tar of members that lead out of it, links and devices, and one sound image."""
    with tarfile.open(path, "w") as tar:
        for name in EVIL_MEMBERS:
            member = tarfile.TarInfo(name)
            data = encode(photo(), "PNG")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for kind, target in (
            (tarfile.SYMTYPE, "/etc/passwd"),
            (tarfile.LNKTYPE, "../x"),
            (tarfile.FIFOTYPE, ""),
        ):
            member = tarfile.TarInfo(f"link{ord(kind)}.jpg")
            member.type, member.linkname = kind, target
            tar.addfile(member)


def test_tar_members_are_never_unpacked(tmp_path):
    """A naive extract writes outside of its folder; a run on the tar writes its dataset alone."""
    (tmp_path / "deep" / "naive").mkdir(parents=True)
    evil_tar(tmp_path / "in.tar")
    with tarfile.open(tmp_path / "in.tar") as tar:
        member = tar.getmember(EVIL_MEMBERS[0])
        tar.extract(member, tmp_path / "deep" / "naive", filter="fully_trusted")
    escaped = tmp_path / "escaped.jpg"
    was_naive = escaped.exists()
    escaped.unlink()
    config = fakes.run_settings(input=str(tmp_path / "in.tar"), output=str(tmp_path / "out"))
    run(config, fakes.make_disc_segmenter)
    records = list(open_dataset(tmp_path / "out").records())

    assert was_naive
    assert [record.path.decode() for record in records] == sorted(EVIL_MEMBERS)
    assert {str(record.status) for record in records} == {"ok"}
    assert not escaped.exists()
    assert not os.path.exists("/tmp/escaped.jpg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "in.tar", "out"]


def test_huge_tar_member_is_refused(tmp_path):
    """A member that claims a tera of bytes is a damaged archive, found without reading."""
    member = tarfile.TarInfo("huge.jpg")
    member.size = 2**40
    (tmp_path / "in.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))

    with pytest.raises(InputError, match=r"cut short|not a readable"):
        sorted_files(open_input(str(tmp_path / "in.tar")))


@pytest.mark.parametrize("name", ["in.zip", "in.tar.gz", "in.tgz", "in.tar.xz"])
def test_garbage_under_an_archives_name_is_refused(tmp_path, name):
    """Half a zip is an error that names the file."""
    (tmp_path / name).write_bytes(b"PK\x03\x04" + bytes(100))

    with pytest.raises(InputError, match=f"{name}' is not a readable zip"):
        sorted_files(open_input(str(tmp_path / name)))


def test_a_gzip_bomb_is_refused(tmp_path, monkeypatch):
    """A few bytes that become very many are not unpacked to their end."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(unpack, "BOMB_BYTES", 2**20)
    (tmp_path / "x.tar").write_bytes(gzip.compress(bytes(2**24)))

    with pytest.raises(InputError, match="images do not compress so well"):
        sorted_files(open_input(str(tmp_path / "x.tar")))
    assert not list((tmp_path / "cache").rglob("*.tar*"))


@pytest.mark.parametrize("line", ["http://169.254.169.254/a.jpg", "file:///etc/passwd", "a\0b.jpg"])
def test_lists_name_paths_only(tmp_path, line):
    """A list of a stranger makes nobody fetch anything."""
    (tmp_path / "list.txt").write_bytes(line.encode() + b"\n")

    with pytest.raises(InputError, match="is not a path"):
        sorted_files(open_input(str(tmp_path / "list.txt")))
