"""Images inside a tar, a Parquet file or a video are listed and read like files."""

import io
import os
import pickle
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam_engine.config import DecodeConfig
from sam_engine.dataset.manifest import build_manifest
from sam_engine.errors import ImageError, InputError
from sam_engine.images.decode import decode_image
from sam_engine.inputs.open import open_input
from sam_engine.inputs.source import InputSource
from sam_engine.structures import ImageStatus, ManifestEntry

DEFAULT = DecodeConfig()


def entries(source: InputSource) -> list[ManifestEntry]:
    manifest = build_manifest(source.iter_files())
    return manifest.entries(0, len(manifest))


def read_status(source: InputSource, entry: ManifestEntry) -> ImageStatus:
    with pytest.raises(ImageError) as caught:
        source.read(entry, DEFAULT)
    return caught.value.status


def refusal(path: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        open_input(str(path)).list_files()
    return str(caught.value)


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


@pytest.mark.parametrize("column", ["struct", "binary"])
def test_parquet_bytes_are_images(tmp_path, column):
    """Rows of a bytes column, plain or in Hugging Face's struct, are read across row groups."""
    images = [b"image %d" % row for row in range(5)]
    values = [{"bytes": image, "path": "same.jpg"} for image in images] if column == "struct" else images
    pq.write_table(pa.table({"label": range(5), "image": values}), tmp_path / "x.parquet", row_group_size=2)
    source = pickle.loads(pickle.dumps(open_input(str(tmp_path / "x.parquet"))))

    assert [entry.path for entry in entries(source)] == [b"x.parquet#%09d" % row for row in range(5)]
    assert [source.read(entry, DEFAULT) for entry in entries(source)] == images


def test_parquet_null_is_a_row(tmp_path):
    """A row without bytes fails alone."""
    pq.write_table(pa.table({"image": pa.array([b"one", None])}), tmp_path / "x.parquet")
    source = open_input(str(tmp_path / "x.parquet"))

    assert read_status(source, entries(source)[1]) is ImageStatus.UNREADABLE


def test_parquet_paths_are_relative_to_it(tmp_path):
    """A column of paths names files, also missing ones."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.jpg").write_bytes(b"image")
    pq.write_table(pa.table({"file_name": ["d/a.jpg", "d/b.jpg"]}), tmp_path / "x.parquet")
    source = open_input(str(tmp_path / "x.parquet"))
    first, second = entries(source)

    assert source.read(first, DEFAULT) == b"image"
    assert read_status(source, second) is ImageStatus.VANISHED


def test_parquet_without_images_is_refused(tmp_path):
    """The message names the columns found and those looked for."""
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")

    assert "has columns x; images are looked for" in refusal(tmp_path / "x.parquet")


def test_video_frames_are_images(tmp_path):
    """Every frame is a PNG, the same one in any order of reading."""
    path = tmp_path / "x.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    for level in range(0, 200, 10):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    source = open_input(str(path))
    frames = entries(source)
    order = [*range(19, -1, -1), *range(20)]
    means = [decode_image(source.read(frames[index], DEFAULT), DEFAULT).pixels.mean() for index in order]

    assert frames[3].path == b"x.avi#000003"
    assert len(frames) == 20
    assert np.allclose(means, [10 * index for index in order], atol=3)  # MJPEG is lossy


def test_video_with_an_odd_name_is_refused(tmp_path):
    """OpenCV is never given a path that it could crash on."""
    path = tmp_path / os.fsdecode(b"bad\xff.mp4")
    path.touch()

    assert "rename the video" in refusal(path)
