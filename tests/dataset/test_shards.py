"""Shards: sound records in, the same bytes always, published once, read back from footers."""

import errno
import io
import os
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam_engine.dataset.published import committed_shards
from sam_engine.dataset.row_problems import record_problems
from sam_engine.dataset.schema import ROW_GROUP_IMAGES, records_to_table, table_to_records
from sam_engine.dataset.shards import (
    encode_shard,
    open_shard,
    publish_shard,
    shard_index,
    shard_name,
    shard_sha256,
)
from sam_engine.errors import ShardError, StorageError
from sam_engine.storage.local import LocalStore
from sam_engine.structures import ImageStatus, Shard
from tests.helpers.dataset_builder import (
    FINGERPRINT,
    annotation,
    failed,
    fingerprint_of,
    image,
    rectangle_mask,
    sample_records,
    sealed,
    write_dataset,
)

RECORDS = sample_records()
SHARD = Shard(index=3, start=0, stop=5)


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path)


def encode(records=RECORDS, shard=SHARD, fingerprint=FINGERPRINT):
    return encode_shard(records, shard=shard, fingerprint=fingerprint)


def parquet(data):
    return pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)


def test_names_and_indices_belong_together():
    """Six digits at least; nothing else is a shard's name."""
    assert shard_name(12) == "annotations/shard-000012.parquet"
    assert shard_name(1234567) == "annotations/shard-1234567.parquet"
    assert [shard_index(shard_name(i)) for i in (0, 12, 1234567)] == [0, 12, 1234567]
    assert shard_index("annotations/shard-0000012.parquet") is None
    assert shard_index("annotations/part-000012.parquet") is None


def test_the_file_holds_the_records():
    """Rows read back as the records that went in."""
    assert table_to_records(parquet(encode()).read()) == RECORDS


def test_equal_records_make_equal_bytes():
    """Nothing of the time, the host or the process gets into a shard."""
    assert encode() == encode(sample_records())


def test_the_footer_says_what_the_file_is():
    """Run, shard, images and totals are known without reading a row."""
    metadata = parquet(encode()).metadata.metadata
    own = {k.decode(): v.decode() for k, v in metadata.items() if k.startswith(b"sam_engine.")}
    digests = [own.pop("sam_engine.sha256"), own.pop("sam_engine.footer_sha256")]

    assert [len(digest) for digest in digests] == [64, 64]
    assert own == {
        "sam_engine.schema_version": "1",
        "sam_engine.fingerprint": FINGERPRINT,
        "sam_engine.shard": "3",
        "sam_engine.first_image_id": "0",
        "sam_engine.last_image_id": "4",
        "sam_engine.num_masks": "4",
        "sam_engine.statuses": '{"corrupt": 1, "ok": 3, "ok_empty": 1}',
    }


def test_row_groups_are_of_100_images():
    """A viewer reads 100 images to show one, not a whole shard."""
    data = encode([image(i, b"%03d" % i) for i in range(250)], Shard(index=0, start=0, stop=250))
    metadata = parquet(data).metadata

    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [100, 100, 50]
    assert ROW_GROUP_IMAGES == 100


def test_columns_are_zstd_with_page_index_and_few_dictionaries():
    """Compression as promised; dictionaries where values repeat, not on run lengths."""
    group = parquet(encode()).metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}

    assert {column.compression for column in columns.values()} == {"ZSTD"}
    assert all(column.has_offset_index for column in columns.values())
    assert "RLE_DICTIONARY" in columns["status"].encodings
    assert "RLE_DICTIONARY" not in columns["annotations.list.element.segmentation.counts"].encodings


def test_a_flipped_bit_in_a_page_is_found():
    """Pages carry checksums: without them most damage would be read as data."""
    data = bytearray(encode())
    start = parquet(bytes(data)).metadata.row_group(0).column(0).data_page_offset
    data[start + 40] ^= 1

    with pytest.raises(OSError, match=r"(?i)crc|checksum|thrift"):
        parquet(bytes(data)).read()


@pytest.mark.parametrize("records", [RECORDS[:4], RECORDS[::-1], [*RECORDS[:4], RECORDS[3]], []])
def test_the_records_must_be_those_of_the_shard(records):
    """Missing, reordered or doubled images never reach the disk."""
    with pytest.raises(ShardError, match="one record for each image from 0 to 4"):
        encode(records)


def test_a_writer_that_writes_something_else_is_caught(monkeypatch):
    """Bytes are read back before anybody gets them: a fault in Parquet's writer does not reach the disk."""
    write_table = pq.ParquetWriter.write_table

    def write_shuffled(writer, table, **options):
        write_table(writer, table.take(list(range(len(table)))[::-1]), **options)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", write_shuffled)

    with pytest.raises(ShardError, match="shard 3 reads back differently"):
        encode()


def broken(**changes):
    """Return RECORDS with the first image's second mask changed."""
    masks = list(RECORDS[0].annotations)
    masks[1] = replace(masks[1], **changes)
    return [replace(RECORDS[0], annotations=tuple(masks)), *RECORDS[1:]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"area": 9}, "area is 9; its mask has 8 pixels"),
        ({"bbox": (30.0, 20.0, 2.0, 4.0)}, "bbox is .* its mask's is"),
        ({"counts": "0000"}, "the runs do not fit a mask of 24 x 32"),
        ({"counts": ""}, "counts are 0 characters long"),
        ({"counts": "é"}, "not ASCII"),
        ({"size": (32, 24)}, r"size is \[32, 24\] in an image of \[24, 32\]"),
        ({"crop_box": (0.0, 0.0, 33.0, 24.0)}, "crop_box .* leaves the image"),
        ({"crop_box": (-1.0, 0.0, 3.0, 2.0)}, "crop_box .* leaves the image"),
        ({"predicted_iou": float("nan")}, "not finite"),
        ({"point_coords": ((float("inf"), 0.0),)}, "not finite"),
    ],
)
def test_a_mask_that_contradicts_itself_is_refused(changes, message):
    """The message names image and mask; nothing is encoded."""
    with pytest.raises(ShardError, match=rf"image 0 \(a.jpg\): mask 1: .*{message}"):
        encode(broken(**changes))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (replace(RECORDS[0], annotations=()), "status is ok, with 0 masks"),
        (replace(RECORDS[0], status=ImageStatus.OK_EMPTY), "status is ok_empty, with 2 masks"),
        (replace(RECORDS[0], status=ImageStatus.TIMEOUT), "status is timeout, with 2 masks"),
        (replace(RECORDS[0], width=None), "width is None, but height is 24"),
        (replace(RECORDS[2], width=None, height=None), "status is ok_empty, without a size"),
        (replace(RECORDS[0], sha256=None), "status is ok, without a sha256"),
        (replace(RECORDS[0], exif_orientation=0), "exif_orientation is 0"),
    ],
)
def test_an_image_that_contradicts_itself_is_refused(record, message):
    """Status, size and masks of an image must agree."""
    assert message in "\n".join(record_problems(record))


def test_sound_records_have_no_problems():
    """The checks accept what they should."""
    assert [list(record_problems(record)) for record in RECORDS] == [[]] * 5


def test_an_empty_mask_keeps_its_crops_corner():
    """With thresholds off, masks without pixels are kept, and boxed at the corner of their crop."""
    empty = replace(annotation(rectangle_mask(24, 32, 0, 0, 0, 0)), bbox=(4.0, 2.0, 0.0, 0.0))
    record = replace(image(0, b"a"), status=ImageStatus.OK, annotations=(empty,))

    assert list(record_problems(record)) == []


def test_publishing_reports_the_file(store):
    """Size, digest and totals are those of what lies on disk."""
    published = publish_shard(store, RECORDS, shard=SHARD, fingerprint=FINGERPRINT)
    data = store.read(shard_name(3))

    assert (published.adopted, published.num_bytes) == (False, len(data))
    assert published.sha256 == shard_sha256(store, 3)
    assert published.summary.statuses == {"corrupt": 1, "ok": 3, "ok_empty": 1}
    assert (published.summary.shard, published.summary.num_masks) == (SHARD, 4)


def test_the_second_writer_adopts_the_first_ones_file(store):
    """The loser reports what is there, even where its own rows differ."""
    first = publish_shard(store, RECORDS, shard=SHARD, fingerprint=FINGERPRINT)
    others = [*RECORDS[:4], failed(4, RECORDS[4].path, ImageStatus.WORKER_CRASH)]
    second = publish_shard(store, others, shard=SHARD, fingerprint=FINGERPRINT)

    assert second == replace(first, adopted=True)
    assert store.read(shard_name(3)) == encode()


def test_another_runs_shard_is_not_adopted(store):
    """A file of another configuration under the same name is a contradiction, and stays."""
    publish_shard(store, RECORDS, shard=SHARD, fingerprint="0" * 64)

    with pytest.raises(
        ShardError, match=r"shard-000003.parquet: has fingerprint 0+; this run has f+.*sam-engine verify"
    ):
        publish_shard(store, RECORDS, shard=SHARD, fingerprint=FINGERPRINT)


def test_a_shard_of_other_images_is_not_adopted(store):
    """Same fingerprint and number but other images: something re-cut the manifest."""
    records = [image(i, b"%d" % i) for i in range(7)]
    publish_shard(store, records, shard=Shard(index=3, start=0, stop=7), fingerprint=FINGERPRINT)

    with pytest.raises(ShardError, match="holds images 0 to 6"):
        publish_shard(store, RECORDS, shard=SHARD, fingerprint=FINGERPRINT)


def test_garbage_under_the_name_is_not_adopted(store):
    """A file that no writer of ours would leave is named, not overwritten."""
    store.put_exclusive(shard_name(3), b"PAR1")

    with pytest.raises(ShardError, match=r"shard-000003.parquet.*sam-engine verify"):
        publish_shard(store, RECORDS, shard=SHARD, fingerprint=FINGERPRINT)
    assert store.read(shard_name(3)) == b"PAR1"


def test_a_full_disk_leaves_no_shard(store, monkeypatch):
    """The dataset looks as before, and the next attempt succeeds."""

    def full(descriptor, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StorageError, match="No space left"):
            publish_shard(store, RECORDS, shard=SHARD, fingerprint=FINGERPRINT)

    assert store.list("") == []
    assert not publish_shard(store, RECORDS, shard=SHARD, fingerprint=FINGERPRINT).adopted


def test_committed_shards_are_known_from_footers(tmp_path):
    """A resumed run learns what is done, and how it went, from the files alone."""
    store = write_dataset(tmp_path, RECORDS, shard_size=2)
    found = committed_shards(store, fingerprint_of(store))

    assert {index: (s.shard.start, s.shard.stop, s.num_masks) for index, s in found.items()} == {
        0: (0, 2, 2),
        1: (2, 4, 1),
        2: (4, 5, 1),
    }
    assert found[0].num_bytes == len(store.read(shard_name(0)))


def test_nothing_is_committed_in_an_empty_store(store):
    """A new output has no shards."""
    assert committed_shards(store, FINGERPRINT) == {}


def test_only_parquet_files_count(tmp_path):
    """What file managers leave behind does not stop a run."""
    store = write_dataset(tmp_path, RECORDS)
    store.put_exclusive("annotations/.DS_Store", b"")

    assert sorted(committed_shards(store, fingerprint_of(store))) == [0, 1, 2]


@pytest.mark.parametrize("size", [0, 4, 8, 500])
def test_a_cut_off_shard_is_named(tmp_path, size):
    """Resuming does not build on an unreadable file; the message says what to run."""
    store = write_dataset(tmp_path, RECORDS)
    path = tmp_path / shard_name(1)
    path.write_bytes(path.read_bytes()[:size])

    with pytest.raises(ShardError, match=rf"{path}: .* See: sam-engine verify {tmp_path}"):
        committed_shards(store, fingerprint_of(store))


def test_a_shard_under_another_name_is_noticed(tmp_path):
    """A copied shard would hold its images twice."""
    store = write_dataset(tmp_path, RECORDS)
    store.put_exclusive(shard_name(7), store.read(shard_name(0)))

    with pytest.raises(ShardError, match="is shard 0 under another name"):
        committed_shards(store, fingerprint_of(store))


def test_a_foreign_parquet_file_is_noticed(tmp_path):
    """Readers take annotations/*.parquet, so nothing else may lie there."""
    store = write_dataset(tmp_path, RECORDS)
    store.put_exclusive("annotations/mine.parquet", b"")

    with pytest.raises(ShardError, match=r"annotations/mine.parquet: is not a shard"):
        committed_shards(store, fingerprint_of(store))


def with_footer(records, changes, drop=()):
    """Return a file of the records whose footer differs from ours."""
    values = {
        k.decode(): v.decode() for k, v in parquet(encode()).metadata.metadata.items() if k != b"ARROW:schema"
    }
    values |= {f"sam_engine.{key}": value for key, value in changes.items()}
    table = records_to_table(records)
    kept = {key: value for key, value in values.items() if key.removeprefix("sam_engine.") not in drop}
    return sealed(table, kept)


@pytest.mark.parametrize(
    ("changes", "drop", "message"),
    [
        ({"schema_version": "2"}, (), "schema version 2; this program reads 1"),
        ({}, ("fingerprint",), "has no sam_engine.fingerprint"),
        ({"last_image_id": "5"}, (), "has 5 rows; its footer says 6"),
        ({"statuses": '{"ok": 4}'}, (), "counts its statuses wrongly"),
        ({"statuses": '["ok"]'}, (), "counts its statuses wrongly"),
        ({"statuses": "{"}, (), "shard-000003"),
        ({"shard": "three"}, (), "three"),
    ],
)
def test_a_footer_that_contradicts_itself_is_refused(store, changes, drop, message):
    """Missing, malformed and contradicting keys are each named."""
    store.put_exclusive(shard_name(3), with_footer(RECORDS, changes, drop))

    with pytest.raises(ShardError, match=message):
        committed_shards(store, FINGERPRINT)


def test_other_columns_are_refused(store):
    """A footer alone does not make a shard."""
    table = records_to_table(RECORDS)
    metadata = {k: v for k, v in parquet(encode()).metadata.metadata.items() if k != b"ARROW:schema"}
    store.put_exclusive(shard_name(3), sealed(table.drop_columns(["sha256"]), metadata))

    with pytest.raises(ShardError, match="does not have the columns of schema version 1"):
        committed_shards(store, FINGERPRINT)


def test_optional_columns_are_published_and_read():
    """A shard with licences and labels is read with them, through the same checks."""
    records = [replace(record, licence=f"CC {record.image_id}") for record in RECORDS]
    data = encode_shard(records, shard=SHARD, fingerprint=FINGERPRINT, extras=["licence"])
    file, _, _ = open_shard(io.BytesIO(data))

    assert table_to_records(file.read()) == records
