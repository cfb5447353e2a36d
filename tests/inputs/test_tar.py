"""Images inside a tar are listed and read like files."""

import io
import os
import pickle
import tarfile
from pathlib import Path

from sam_engine.config import DecodeConfig
from sam_engine.inputs.open import open_input
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
