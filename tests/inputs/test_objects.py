"""Inputs in a bucket: everything that a folder may hold, listed and read as from a disk."""

import dataclasses
import gzip
import io
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from sam_engine.config import DecodeConfig
from sam_engine.errors import ConfigError, ImageError, InputError
from sam_engine.inputs.open import open_input
from sam_engine.inputs.source import Account, ListingRules, sorted_files
from sam_engine.structures import ImageStatus, ManifestEntry

DECODE = DecodeConfig()
IMAGES = {"a.jpg": b"first", "b c/ü%20#?.JPG": b"second " * 50_000, "b c/.hidden.jpg": b"x", "notes.md": b"x"}
SEEN = {name: data for name, data in IMAGES.items() if name.lower().endswith("jpg") and "hidden" not in name}


@pytest.fixture(scope="module")
def bucket(s3_server):
    """A bucket with the images in every form, below ``in``."""
    name, client = s3_server.new_bucket(), s3_server.client()
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for member, data in IMAGES.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for member, data in IMAGES.items():
            archive.writestr(member, data)
    table = io.BytesIO()
    pq.write_table(pa.table({"jpg": list(SEEN.values())}), table)
    url = f"s3://{name}/in/photos"
    rows = pa.table({"path": [f"photos/{member}" for member in SEEN], "licence": ["CC0", "CC BY"]})
    csv = io.BytesIO()
    pyarrow.csv.write_csv(rows, csv)
    files = {f"photos/{member}": data for member, data in IMAGES.items()} | {
        "tars/plain.tar": tar.getvalue(),
        "tars/gzipped.tar": gzip.compress(tar.getvalue()),
        "x.zip": packed.getvalue(),
        "x.parquet": table.getvalue(),
        "relative.txt": "".join(f"photos/{member}\n" for member in SEEN).encode(),
        "absolute.txt": "".join(f"{url}/{member}\n" for member in SEEN).encode()
        + f"{url}/gone.jpg\n".encode(),
        "rows.csv": csv.getvalue(),
        "old/_meta/run.json": b"{}",
        "old/previews/1.jpg": b"a preview",
        "new/previews/1.jpg": b"an image",
        "clip.mp4": b"",
    }
    for member, data in files.items():
        client.put_object(Bucket=name, Key=f"in/{member}", Body=data)
    return f"s3://{name}/in"


@pytest.fixture(autouse=True)
def _environment(s3, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def contents(spec, **rules):
    """Return what an input reads, by path."""
    source = open_input(spec, dataclasses.replace(ListingRules(), **rules))
    return {file.path.decode(): source.read(entry(file), DECODE) for file in sorted_files(source)}


def entry(file):
    return ManifestEntry(image_id=0, path=file.path, size=file.size, mtime_ns=file.mtime_ns)


FORMS = {
    "photos": lambda name: name,
    "photos/": lambda name: name,
    "photos/**/*.[jJ]*": lambda name: name,
    "{photos,tars}/**/*.[jJ]*": lambda name: f"photos/{name}",
    "tars": None,
    "tars/plain.tar": lambda name: name,
    "tars/gzipped.tar": lambda name: name,
    "x.zip": lambda name: name,
    "x.parquet": lambda name: f"x.parquet#{list(SEEN).index(name):09d}",
    "relative.txt": lambda name: f"photos/{name}",
    "rows.csv": lambda name: f"photos/{name}",
}


@pytest.mark.parametrize("form", FORMS)
def test_images_in_a_bucket_are_read_as_from_a_disk(bucket, form):
    """Folders, globs, braces, tars (by ranges, or unpacked), zips, Parquet, lists; nothing hidden."""
    rename = FORMS[form]
    if rename is None:  # a folder of containers
        expected = {f"{tar}.tar/{name}": data for tar in ("plain", "gzipped") for name, data in SEEN.items()}
    else:
        expected = {rename(name): data for name, data in SEEN.items()}

    assert contents(f"{bucket}/{form}") == expected


def test_a_local_list_may_name_objects(bucket, tmp_path, s3_server):
    """One that is gone is listed too, and gets its row; nothing is fetched from the web."""
    text = s3_server.client().get_object(Bucket=bucket.split("/")[2], Key="in/absolute.txt")["Body"].read()
    (tmp_path / "list.txt").write_bytes(text)
    source = open_input(str(tmp_path / "list.txt"))
    *files, gone = sorted(source.iter_files(Account()), key=lambda file: b"gone" in file.path)

    assert {source.read(entry(file), DECODE) for file in files} == set(SEEN.values())
    with pytest.raises(ImageError) as caught:
        source.read(entry(gone), DECODE)
    assert caught.value.status is ImageStatus.VANISHED
    (tmp_path / "list.txt").write_bytes(b"https://example.org/a.jpg\n")
    with pytest.raises(InputError, match=r"line 1: 'https://example.org/a.jpg' is not a path"):
        list(open_input(str(tmp_path / "list.txt")).iter_files())


def test_the_licence_of_a_row_is_known(bucket):
    """A list in a bucket says where images come from as one on a disk does."""
    files = sorted_files(open_input(f"{bucket}/rows.csv"))

    assert sorted(file.origin.licence for file in files) == ["CC BY", "CC0"]


def test_datasets_of_ours_are_no_input(bucket):
    """Its previews are not listed, wherever ``_meta`` comes in the listing; as an input it is refused."""
    account = Account()
    files = open_input(bucket).iter_files(account)

    assert {file.path for file in files if b"previews" in file.path} == {b"new/previews/1.jpg"}
    assert account.left_out["files in datasets of this engine"] == 1
    with pytest.raises(InputError, match="is a dataset made by this engine"):
        list(open_input(f"{bucket}/old").iter_files())


MISTAKES = {
    "photos/none": "no images in",
    "photos/notes.md": "unknown kind",
    "photos/*.tif": "no images match",
    "clip.mp4": "videos are not read from object stores",
    "../x": "no name of an object",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(bucket, mistake):
    """One line, exit code 2."""
    with pytest.raises(ConfigError, match=MISTAKES[mistake]) as caught:
        list(open_input(f"{bucket}/{mistake}").iter_files())

    assert "\n" not in str(caught.value)


def test_what_has_changed_since_it_was_listed_is_a_row(bucket, s3_server):
    """By its size, as on a disk; one too large is not fetched."""
    source = open_input(f"{bucket}/photos")
    first = sorted_files(source)[0]
    changed = dataclasses.replace(entry(first), size=first.size + 1)
    for altered, config, status in (
        (changed, DECODE, ImageStatus.CHANGED),
        (entry(first), dataclasses.replace(DECODE, max_file_bytes=2), ImageStatus.TOO_LARGE),
    ):
        with pytest.raises(ImageError) as caught:
            source.read(altered, config)
        assert caught.value.status is status
