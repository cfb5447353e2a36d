"""Everything that can be given as input= is listed completely, and read once, or refused with a reason."""

import os
import pickle
import time

import pytest

from sam_engine.config import DecodeConfig
from sam_engine.errors import InputError
from sam_engine.images.decode import decode_image
from sam_engine.inputs import folder as inputs
from sam_engine.inputs.open import open_input
from sam_engine.inputs.source import Account, sorted_files
from sam_engine.structures import ImageStatus
from tests.helpers.inputs import entries, listed, put, read_failure, refusal

DEFAULT = DecodeConfig()
ODD_NAMES = (
    b"a b.jpg",
    b"new\nline.jpg",
    "日本語.jpg".encode(),
    b"<img src=x onerror=alert(1)>.jpg",
    b"-rf.jpg",
    b"quote'\".jpg",
    b"%2e%2e%2fetc.jpg",
    b"tab\tx.jpg",
    b"bad\xff\xfe.jpg",
    b"a=b,c(d).jpg",
)


def test_folder_is_listed_recursively_and_sorted(tmp_path):
    """All image extensions in any case, at any depth, in the order of bytes."""
    put(
        tmp_path,
        "b.JPG",
        "a/z.jpeg",
        "a.png",
        "a/b/c.WebP",
        "B.bmp",
        "t.TIF",
        "u.tiff",
        "notes.txt",
        "x.gif",
        "y.heic",
    )

    assert listed(tmp_path) == sorted(
        [b"b.JPG", b"a/z.jpeg", b"a.png", b"a/b/c.WebP", b"B.bmp", b"t.TIF", b"u.tiff", b"x.gif", b"y.heic"]
    )


def test_hidden_files_and_folders_are_left_out(tmp_path):
    """Thumbnails, resource forks and version control are no input."""
    put(tmp_path, "a.jpg", ".hidden.jpg", "._a.jpg", ".git/b.jpg")

    assert listed(tmp_path) == [b"a.jpg"]


def test_equal_stems_and_equal_names_stay_apart(tmp_path):
    """a.jpg, a.png and b/a.jpg are three images."""
    put(tmp_path, "a.jpg", "a.png", "b/a.jpg")

    assert listed(tmp_path) == [b"a.jpg", b"a.png", b"b/a.jpg"]


def test_odd_names_are_listed_and_read(tmp_path):
    """Any bytes a file system allows in a name survive listing, manifest and reading."""
    put(tmp_path, *ODD_NAMES)
    source = open_input(str(tmp_path))

    assert [entry.path for entry in entries(source)] == sorted(ODD_NAMES)
    assert {source.read(entry, DEFAULT) for entry in entries(source)} == {b"image"}


@pytest.mark.parametrize("name", ["a=b, (c) 'é' [1]", "bad\udcff", "100%", "#"])
def test_odd_folders_simply_work(tmp_path, name):
    """A folder may be called anything; one that exists is never taken for a pattern."""
    put(tmp_path, os.path.join(name, "a.jpg"))
    source = open_input(str(tmp_path / name))

    assert sorted_files(source)[0].path == b"a.jpg"
    assert source.name.isprintable()


def test_size_and_time_are_listed(tmp_path):
    """The listing holds what later tells whether a file has changed."""
    put(tmp_path, "a.jpg", data=b"12345")
    os.utime(tmp_path / "a.jpg", ns=(1, 123_456_789))
    (file,) = sorted_files(open_input(str(tmp_path)))

    assert (file.size, file.mtime_ns) == (5, 123_456_789)


def test_links_to_folders_are_not_followed(tmp_path):
    """A loop of links neither hangs nor lists a file twice."""
    put(tmp_path, "a/x.jpg")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "a" / "loop.jpg").symlink_to(tmp_path)

    assert listed(tmp_path) == [b"a/x.jpg"]


def test_links_to_files_are_followed_inside_only(tmp_path, caplog):
    """A link out of the folder is left out with a warning, so that no input reaches foreign files."""
    put(tmp_path, "in/x.jpg", "input2/secret.jpg")
    (tmp_path / "in" / "inside.jpg").symlink_to("x.jpg")
    (tmp_path / "in" / "outside.jpg").symlink_to(tmp_path / "input2" / "secret.jpg")
    root = tmp_path / "in"

    assert listed(root) == [b"inside.jpg", b"x.jpg"]
    assert "1 links" in caplog.text


def test_broken_links_get_a_row(tmp_path):
    """A link to nothing and a link to itself are listed, and fail when they are read."""
    put(tmp_path, "x.jpg")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    (tmp_path / "nothing.jpg").symlink_to("nowhere.jpg")
    source = open_input(str(tmp_path))
    nothing, itself, _ = entries(source)

    assert read_failure(source, nothing).status is ImageStatus.VANISHED
    assert read_failure(source, itself).status is ImageStatus.UNREADABLE


def test_own_output_is_no_input(tmp_path):
    """Previews of a dataset written below its own input are not annotated again."""
    put(tmp_path, "a.jpg", "out/previews/p.jpg", "out/_meta/run.json", "made/_meta/b.jpg")

    assert listed(tmp_path) == [b"a.jpg", b"made/_meta/b.jpg"]
    assert "is a dataset made by this engine" in refusal(tmp_path / "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unlistable_folder_stops_the_run(tmp_path):
    """A subfolder without permission is named; its images are not silently missing."""
    put(tmp_path, "a.jpg", "closed/b.jpg")
    (tmp_path / "closed").chmod(0)
    try:
        assert "closed" in refusal(tmp_path)
    finally:
        (tmp_path / "closed").chmod(0o700)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file_is_a_row(tmp_path):
    """Permission denied on one file is that image's status."""
    put(tmp_path, "a.jpg")
    (tmp_path / "a.jpg").chmod(0)
    source = open_input(str(tmp_path))

    assert read_failure(source, entries(source)[0]).status is ImageStatus.UNREADABLE


def test_unlistable_folder_is_named(tmp_path, monkeypatch):
    """What the system says about a folder that cannot be listed reaches the user."""
    put(tmp_path, "a.jpg")

    def refuse(path: bytes) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)

    assert refusal(tmp_path) == f"input: cannot list {str(tmp_path)!r}: Permission denied"


def test_pipe_does_not_block(tmp_path):
    """A named pipe with an image's name fails at once instead of waiting for a writer."""
    os.mkfifo(tmp_path / "a.jpg")
    source = open_input(str(tmp_path))
    start = time.perf_counter()
    error = read_failure(source, entries(source)[0])

    assert error.status is ImageStatus.UNREADABLE
    assert "not a regular file" in str(error)
    assert time.perf_counter() - start < 5


def test_vanished_file_is_told(tmp_path):
    """A file, or the folder around it, that is gone since the listing."""
    put(tmp_path, "a.jpg", "b/c.jpg")
    source = open_input(str(tmp_path))
    first, second = entries(source)
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "b" / "c.jpg").unlink()
    (tmp_path / "b").rmdir()
    (tmp_path / "b").touch()

    assert read_failure(source, first).status is ImageStatus.VANISHED
    assert read_failure(source, second).status is ImageStatus.VANISHED


def test_changed_file_is_told(tmp_path):
    """Another size is another file than the one listed."""
    put(tmp_path, "a.jpg")
    source = open_input(str(tmp_path))
    (entry,) = entries(source)
    put(tmp_path, "a.jpg", data=b"longer than before")

    assert read_failure(source, entry).status is ImageStatus.CHANGED


def test_a_new_time_alone_is_no_change(tmp_path):
    """As after a `touch`: the bytes are read, and who reads them hashes them."""
    put(tmp_path, "a.jpg")
    source = open_input(str(tmp_path))
    (entry,) = entries(source)
    os.utime(tmp_path / "a.jpg", ns=(0, entry.mtime_ns + 1))

    assert source.read(entry, DEFAULT) == b"image"


def test_large_file_is_not_read(tmp_path):
    """A sparse terabyte is refused by its size."""
    put(tmp_path, "a.jpg")
    os.truncate(tmp_path / "a.jpg", 2**40)
    source = open_input(str(tmp_path))
    error = read_failure(source, entries(source)[0])

    assert error.status is ImageStatus.TOO_LARGE
    assert "decode.max_file_bytes" in str(error)


def test_cap_is_exact(tmp_path):
    """A file of just the allowed size is read."""
    put(tmp_path, "a.jpg")
    source = open_input(str(tmp_path))
    (entry,) = entries(source)

    assert source.read(entry, DecodeConfig(max_file_bytes=5)) == b"image"
    assert read_failure(source, entry, max_file_bytes=4).status is ImageStatus.TOO_LARGE


def test_reading_closes_its_files(tmp_path):
    """No descriptor stays open, whether reading works or not."""
    put(tmp_path, "a.jpg")
    source = open_input(str(tmp_path))
    (entry,) = entries(source)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        source.read(entry, DEFAULT)
        read_failure(source, entry, max_file_bytes=1)

    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", [b"a.jpg"]),
        ("**/*.jpg", [b"a.jpg", b"d/b.jpg", b"d/e/c.jpg"]),
        ("d/*", [b"b.jpg"]),
        ("d/**", [b"b.jpg", b"e/c.jpg", b"e/x1.png"]),
        ("*/*/x[0-9].???", [b"d/e/x1.png"]),
        ("d/e/x1.pn[gG]", [b"x1.png"]),
    ],
)
def test_globs_match_like_a_shell(tmp_path, pattern, expected):
    """Stars stay inside a component, ** crosses them; paths are relative to the fixed part."""
    put(tmp_path, "a.jpg", "d/b.jpg", "d/e/c.jpg", "d/e/x1.png", "d/readme.md")

    assert listed(tmp_path / pattern) == expected


def test_one_image_is_an_input(tmp_path):
    """A single file of an image extension is a folder of one."""
    put(tmp_path, "a.jpg", "b.jpg")

    assert listed(tmp_path / "b.jpg") == [b"b.jpg"]
    assert open_input(str(tmp_path / "b.jpg")).name == "b"


def test_mistakes_are_named(tmp_path):
    """Each mistake gets one line that says what was got and what would do."""
    put(tmp_path, "photos/notes.md", "x.zip", "x.docx", "empty.txt", "bad.parquet", "bad.tar")
    (tmp_path / "empty.txt").write_bytes(b"\n")
    put(tmp_path, "y.lz4", data=b"\x04\x22\x4d\x18 and more")
    put(tmp_path, "y.json", data=b'{"images": []}')
    put(tmp_path, "y.tar.bz2", data=b"BZh91AY&SY, cut in its first block")
    messages = {
        "": "input is empty",
        tmp_path / "photo": "did you mean 'photos'?",
        tmp_path / "none" / "photos": "(nor does",
        tmp_path / "photos": "no images in",
        tmp_path / "photos" / "*.jpg": "no images match",
        tmp_path / "none" / "*.jpg": "there is no folder",
        tmp_path / "x.zip": "not a readable zip",
        tmp_path / "x.docx": "unknown kind",
        tmp_path / "empty.txt": "lists no paths",
        tmp_path / "bad.parquet": "not a readable Parquet",
        tmp_path / "bad.tar": "not a readable tar",
        tmp_path / "y.lz4": "compressed with lz4, which is not read",
        tmp_path / "y.json": "is JSON",
        tmp_path / "y.tar.bz2": "bzip2 stream is cut or damaged after 0 plain bytes",
        "ftp://host/photos": "is a URL of a kind that is not read",
    }
    got = {spec: refusal(spec) for spec in messages}

    assert {spec: text for spec, text in got.items() if messages[spec] not in text or "\n" in text} == {}


def test_empty_folder_names_what_was_looked_for(tmp_path):
    """The user learns which extensions count."""
    assert ".jpg" in refusal(tmp_path)
    assert ".webp" in refusal(tmp_path)


def test_input_is_absolute_and_picklable(tmp_path, monkeypatch):
    """A relative input stays the same for a worker in another working directory."""
    put(tmp_path, "photos/a.jpg")
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps(open_input("photos"))
    monkeypatch.chdir("/")
    source = pickle.loads(data)

    assert source.root == str(tmp_path / "photos")
    assert source.read(entries(source)[0], DEFAULT) == b"image"


def test_sample_photos_are_photographs():
    """Without an input, eight pictures that are installed already; all decode."""
    pytest.importorskip("skimage")
    source = open_input(None)
    shapes = [decode_image(source.read(entry, DEFAULT), DEFAULT).pixels.shape for entry in entries(source)]

    assert source.name == "sample-photos"
    assert len(shapes) == 8
    assert min(min(shape[:2]) for shape in shapes) >= 300


def test_sample_photos_need_the_demo_extra(monkeypatch):
    """Without scikit-image the message names the extra."""
    monkeypatch.setattr(inputs.importlib.util, "find_spec", lambda name: None)

    with pytest.raises(InputError, match="pip install scikit-image"):
        open_input(None)


def test_what_a_folder_passes_over_is_counted(tmp_path):
    """Links to folders, hidden and other files, by reason; what has the name of an image is listed."""
    put(tmp_path, "in/x.jfif", "in/.hidden.jpg", "in/a.txt", "in/b/c.txt", "in/y.psd", "elsewhere/z.jpg")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    account = Account()
    files = list(open_input(str(tmp_path / "in")).iter_files(account))

    assert sorted(file.path for file in files) == [b"x.jfif", b"y.psd"]
    assert account.left_out == {"hidden": 1, "links to folders": 1, "other files (.txt)": 2}


def test_a_raw_file_is_unsupported(tmp_path):
    """Its thumbnail, which is a sound TIFF, is not taken for it."""
    put(tmp_path, "x.nef", data=b"II*\0")
    source = open_input(str(tmp_path))

    assert read_failure(source, *entries(source)).status is ImageStatus.UNSUPPORTED
