"""What a manifest knows of its images besides their files."""

import pyarrow as pa
import pytest

from sam_engine.dataset import manifest as manifest_module
from sam_engine.dataset.manifest import Manifest, build_manifest
from sam_engine.errors import ShardError
from sam_engine.inputs.source import InputFile
from sam_engine.structures import UNKNOWN_ORIGIN, Origin


def file(path, **origin):
    return InputFile(path=path, size=1, mtime_ns=2, origin=Origin(**origin) if origin else UNKNOWN_ORIGIN)


FILES = [file(b"b", source_key="k"), file(b"a"), file(b"c", source_key="l", frame_time_s=0.5)]


def test_origins_travel_with_their_images():
    """Sorted, written and read back, each is at its path; a manifest has the columns that hold anything."""
    manifest = Manifest.from_bytes(build_manifest(FILES).to_bytes())

    assert manifest.extras == ("source_key", "frame_time_s")
    assert [(entry.path, entry.origin) for entry in manifest.entries(0, 3)] == [
        (b"a", Origin()),
        (b"b", Origin(source_key="k")),
        (b"c", Origin(source_key="l", frame_time_s=0.5)),
    ]


def test_batches_need_not_know_the_same(monkeypatch):
    """A listing of a million files is collected in parts, of which some know nothing."""
    whole = build_manifest(FILES)
    monkeypatch.setattr(manifest_module, "_BATCH_ROWS", 1)

    assert build_manifest(FILES).sha256 == whole.sha256


def test_the_digest_is_of_the_origins_too():
    """Nothing known, another value and another column are three more manifests of the same files."""
    known = [None, {"source_key": "k"}, {"source_key": ""}, {"source_url": "k"}, {"frame_time_s": 0.0}]
    manifests = [build_manifest([file(b"a", **(origin or {})), file(b"b")]) for origin in known]

    assert len({manifest.sha256 for manifest in manifests}) == len(known)
    assert len({manifest.files_sha256 for manifest in manifests}) == 1


def test_the_digest_of_plain_files_is_as_ever():
    """Datasets that were begun before are gone on with."""
    manifest = build_manifest([InputFile(path=b"a.jpg", size=1, mtime_ns=2), file(b"b")])

    assert manifest.sha256 == manifest.files_sha256
    assert (
        build_manifest(
            [
                InputFile(path=b"a.jpg", size=1, mtime_ns=2),
                InputFile(path=b"b", size=3, mtime_ns=0),
            ]
        ).sha256
        == "cf9bccfd2885060f8ad9fa07543bb77c43fb91bc62a9fdedaeac997fd589582f"
    )


def test_what_is_not_kept_leaves_no_column():
    """A limit that keeps only images of which nothing is known makes a plain manifest."""
    assert build_manifest(FILES, limit=1).extras == ()


def test_a_text_that_is_a_bomb_is_refused(monkeypatch):
    """A licence of 4 KiB in ten thousand rows takes a few bytes; it is weighed before it is unfolded."""
    monkeypatch.setattr(manifest_module, "_MIN_TEXT_BYTES", 2**10)
    plain = build_manifest([file(b"%05d" % number) for number in range(10_000)])
    licences = pa.chunked_array([pa.array(["x" * 4096] * 10_000, pa.large_string())])

    with pytest.raises(ShardError, match="column licence has 40960000 bytes"):
        Manifest.from_bytes(plain.with_origins({"licence": licences}).to_bytes())
