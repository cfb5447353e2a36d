"""tools.verify's checks: a sound dataset passes, and every kind of planted damage is found."""

import json
import re
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam_engine.dataset.manifest import Manifest
from sam_engine.dataset.reader import open_dataset
from sam_engine.dataset.schema import MANIFEST, RUN_INFO, SCHEMA, SUCCESS, records_to_table
from sam_engine.dataset.shards import shard_name
from sam_engine.dataset.verify import MAX_PROBLEMS_PER_SHARD, verify_dataset
from tests.helpers.dataset_builder import (
    image,
    rectangle_mask,
    sample_records,
    sealed,
    write_dataset,
    write_success,
)

FIRST = shard_name(0)


@pytest.fixture
def dataset(tmp_path):
    """A sound dataset of three shards and five images; damage is planted into its files."""
    write_dataset(tmp_path, sample_records())
    return open_dataset(tmp_path)


def problems(dataset):
    return verify_dataset(dataset).problems


def rewrite(dataset, name, change):
    """Replace a shard by one whose rows went through ``change(rows)``; the footer stays as it was."""
    source = pq.ParquetFile(pa.BufferReader(dataset.store.read(name)))
    rows = source.read().to_pylist()
    change(rows)
    schema = SCHEMA.set(7, pa.field("status", pa.string(), nullable=False))
    table = pa.Table.from_pylist(rows, schema=schema)
    table = table.set_column(7, SCHEMA.field("status"), table["status"].dictionary_encode())
    footer = footer_of(source)
    replace_shard(dataset, name, table, footer)


def replace_shard(dataset, name, table, footer):
    dataset.store.replace(name, sealed(table, footer))


def footer_of(parquet):
    """Return the key-value pairs that we put into a footer."""
    return {key: value for key, value in parquet.metadata.metadata.items() if key != b"ARROW:schema"}


def edit_json(dataset, name, change):
    document = json.loads(dataset.store.read(name))
    change(document)
    dataset.store.replace(name, json.dumps(document).encode())


def found(dataset, pattern):
    """Return whether exactly the expected kind of problem, and nothing unreadable, was reported."""
    return any(re.search(pattern, problem) for problem in problems(dataset))


def test_a_sound_dataset_has_no_problems(dataset):
    """What our own writer makes passes, and is counted from its rows."""
    result = verify_dataset(dataset)

    assert result.problems == []
    assert (result.num_shards, result.num_images, result.num_masks) == (3, 5, 4)
    assert result.statuses == {"corrupt": 1, "ok": 3, "ok_empty": 1}


def test_several_row_groups_are_followed(tmp_path):
    """Ids go on from one row group to the next."""
    write_dataset(tmp_path, [image(i, b"%04d.jpg" % i) for i in range(250)], shard_size=250)

    assert problems(open_dataset(tmp_path)) == []


MASK_DAMAGE = {
    "area": (lambda mask: mask.update(area=61), "image 0 .*mask 0: area is 61; its mask has 60 pixels"),
    "box": (lambda mask: mask["bbox"].__setitem__(2, 10.0), "image 0 .*mask 0: bbox is"),
    "counts cut": (
        lambda mask: mask["segmentation"].update(counts="c16"),
        "image 0 .*mask 0: .*do not fit",
    ),
    "counts of no RLE": (lambda mask: mask["segmentation"].update(counts="!!"), "mask 0: counts hold '!'"),
    "size": (lambda mask: mask["segmentation"].update(size=[32, 24]), r"mask 0: size is \[32, 24\]"),
    "three sides": (lambda mask: mask["segmentation"].update(size=[24, 32, 1]), "rows do not follow schema"),
    "box of three": (lambda mask: mask["bbox"].pop(), "rows do not follow schema"),
    "crop": (lambda mask: mask["crop_box"].__setitem__(2, 99.0), "crop_box .* leaves the image"),
    "score": (lambda mask: mask.update(predicted_iou=float("nan")), "not finite"),
    "id": (lambda mask: mask.update(id=1), "image 0: annotation id 1 should be 0"),
}


@pytest.mark.parametrize("damage", MASK_DAMAGE)
def test_a_damaged_mask_is_found(dataset, damage):
    """Areas, boxes and run lengths are recomputed; ids are derived; what is not finite is named."""
    change, pattern = MASK_DAMAGE[damage]
    rewrite(dataset, FIRST, lambda rows: change(rows[0]["annotations"][0]))

    assert found(dataset, pattern)


ROW_DAMAGE = {
    "image id": (lambda rows: rows[1].update(image_id=7), "image_id is 7 where 1 is due"),
    "doubled row": (lambda rows: rows.__setitem__(1, dict(rows[0])), "image_id is 0 where 1 is due"),
    "path": (lambda rows: rows[0].update(file_name="z.jpg"), "image 0: is 'z.jpg'; the manifest has 'a.jpg'"),
    "needless path bytes": (lambda rows: rows[0].update(path_bytes=b"a.jpg"), "do not belong together"),
    "other path bytes": (lambda rows: rows[0].update(path_bytes=b"\xff"), "do not belong together"),
    "num_masks": (lambda rows: rows[0].update(num_masks=3), "image 0: num_masks is 3; it has 2"),
    "unknown status": (lambda rows: rows[1].update(status="fine"), "image 1: status 'fine' is not known"),
    "other status": (lambda rows: rows[1].update(status="timeout"), "its footer counts .* its rows are"),
    "masks on a failure": (
        lambda rows: rows[0].update(status="oom"),
        "status is oom, with 2 masks",
    ),
    "no size": (lambda rows: rows[0].update(width=None, height=None), "status is ok, without a size"),
    "no digest": (lambda rows: rows[0].update(sha256=None), "status is ok, without a sha256"),
    "orientation": (lambda rows: rows[0].update(exif_orientation=9), "exif_orientation is 9"),
    "lost mask": (lambda rows: rows[0]["annotations"].pop(), "its footer counts 2 masks; its rows have 1"),
    "lost row": (lambda rows: rows.pop(), "has 1 rows; its footer says 2"),
}


@pytest.mark.parametrize("damage", ROW_DAMAGE)
def test_a_damaged_row_is_found(dataset, damage):
    """Rows are held against their neighbours, the manifest, the footer and themselves."""
    change, pattern = ROW_DAMAGE[damage]
    rewrite(dataset, FIRST, change)

    assert found(dataset, f"^{FIRST}: .*{pattern}")


def test_a_flipped_bit_is_found_three_times(dataset):
    """By the page's checksum, the file's own digest, and the digest in _SUCCESS.json."""
    data = bytearray(dataset.store.read(FIRST))
    data[pq.ParquetFile(pa.BufferReader(data)).metadata.row_group(0).column(0).data_page_offset + 40] ^= 1
    dataset.store.replace(FIRST, bytes(data))

    assert found(dataset, f"^{FIRST}: .*(?i:crc|checksum|thrift)")
    assert found(dataset, f"^{FIRST}: is not as it was written")
    assert found(dataset, f"^{FIRST}: has digest .* _SUCCESS.json says otherwise")


def test_a_flipped_bit_beside_the_rows_is_found(dataset):
    """Also in a dataset without _SUCCESS.json: statistics and the page index decide what readers skip."""
    data = bytearray(dataset.store.read(FIRST))
    statistics = data.index(b"PAR1", 4) - 8 - 200  # in the footer, before its length
    (dataset.store.root / SUCCESS).unlink()
    for place in (statistics, len(data) // 2):
        damaged = bytearray(data)
        damaged[place] ^= 4
        dataset.store.replace(FIRST, bytes(damaged))

        assert found(dataset, f"^{FIRST}: is not as it was written")
        assert verify_dataset(dataset).damaged == [FIRST]


@pytest.mark.parametrize("size", [0, 4, 700])
def test_a_cut_off_shard_is_found(dataset, size):
    """It is named once as unreadable, and its images are missing."""
    dataset.store.replace(FIRST, dataset.store.read(FIRST)[:size])

    assert found(dataset, f"^{FIRST}: has no footer")
    assert "images 0 to 1 have no row" in problems(dataset)


def test_a_missing_shard_is_found(dataset):
    """Every input has a row: the gap is named, and so is the claim of _SUCCESS.json."""
    (dataset.store.root / shard_name(1)).unlink()

    assert "images 2 to 3 have no row" in problems(dataset)
    assert f"{shard_name(1)}: is in _SUCCESS.json, but not there" in problems(dataset)


def test_a_missing_last_shard_is_found(dataset):
    """The manifest knows how many images there are, even where no gap shows."""
    (dataset.store.root / shard_name(2)).unlink()
    write_success(dataset.store)

    assert problems(dataset)[0] == "images 4 to 4 have no row"


def test_a_copied_shard_is_found(dataset):
    """A shard under another name would be read twice."""
    dataset.store.put_exclusive(shard_name(7), dataset.store.read(FIRST))

    assert found(dataset, f"^{shard_name(7)}: is shard 0 under another name")


def test_overlapping_shards_are_found(dataset):
    """An image with rows in two shards is named."""
    source = pq.ParquetFile(pa.BufferReader(dataset.store.read(FIRST)))
    footer = footer_of(source)
    replace_shard(dataset, shard_name(3), source.read(), footer | {b"sam_engine.shard": b"3"})

    assert found(dataset, "images 0 to 1 have rows in another shard too")


def test_more_images_than_inputs_are_found(dataset):
    """Rows beyond the manifest belong to nothing."""
    records = [*sample_records(), image(5, "über/zwei.jpg".encode())]
    other = dataset.store.root / "other"
    write_dataset(other, records)
    dataset.store.replace(shard_name(2), (other / shard_name(2)).read_bytes())
    footer = footer_of(pq.ParquetFile(other / shard_name(2)))
    table = pq.read_table(other / shard_name(2))
    footer[b"sam_engine.fingerprint"] = dataset.fingerprint.encode()
    replace_shard(dataset, shard_name(2), table, footer)

    assert found(dataset, "images 5 to 5 are not in the manifest")


def test_a_foreign_parquet_file_is_found(dataset):
    """Readers take every Parquet file of the folder."""
    dataset.store.put_exclusive("annotations/extra.parquet", b"")

    assert "annotations/extra.parquet: is not a shard, but readers would take it for one" in problems(dataset)


def test_another_runs_shard_is_found(dataset):
    """The footer's fingerprint must be that of run.json."""
    source = pq.ParquetFile(pa.BufferReader(dataset.store.read(FIRST)))
    footer = footer_of(source)
    replace_shard(dataset, FIRST, source.read(), footer | {b"sam_engine.fingerprint": b"0"})

    assert found(dataset, f"^{FIRST}: has fingerprint 0; _meta/run.json has {dataset.fingerprint}")


def test_other_columns_are_found(dataset):
    """A missing, added or retyped column is another schema."""
    source = pq.ParquetFile(pa.BufferReader(dataset.store.read(FIRST)))
    footer = footer_of(source)
    replace_shard(dataset, FIRST, source.read().drop_columns(["error"]), footer)

    assert found(dataset, f"^{FIRST}: does not have the columns of schema version 1")


def test_a_later_schema_version_is_found(dataset):
    """What a newer program wrote is not judged by this one's rules."""
    source = pq.ParquetFile(pa.BufferReader(dataset.store.read(FIRST)))
    footer = footer_of(source)
    replace_shard(dataset, FIRST, source.read(), footer | {b"sam_engine.schema_version": b"2"})

    assert found(dataset, f"^{FIRST}: has schema version 2; this program reads 1")


def test_a_missing_manifest_is_found(dataset):
    """Without it nobody knows what the inputs were."""
    (dataset.store.root / MANIFEST).unlink()

    assert found(dataset, f"^{MANIFEST}: is missing")


def test_a_damaged_manifest_is_found(dataset):
    """Damage to the manifest is not blamed on the rows."""
    dataset.store.replace(MANIFEST, dataset.store.read(MANIFEST)[:-10])

    assert [problem.split(":")[0] for problem in problems(dataset)] == [MANIFEST]


def test_another_inputs_manifest_is_found(dataset):
    """A manifest that is whole, but not this run's."""
    table = Manifest.from_bytes(dataset.store.read(MANIFEST)).table
    sizes = pa.array([2] * len(table), pa.int64())
    other = Manifest(table.set_column(2, "size", sizes).cast(table.schema))
    dataset.store.replace(MANIFEST, other.to_bytes())

    assert found(dataset, f"^{MANIFEST}: has digest .* {RUN_INFO} says")


def test_edited_settings_are_found(dataset):
    """run.json's settings must give its fingerprint."""
    edit_json(dataset, RUN_INFO, lambda run: run["settings"].update(shard_size=500))

    assert found(dataset, "_meta/run.json is damaged: its settings do not match its fingerprint")


SUCCESS_DAMAGE = {
    "images": (lambda s: s.update(num_images=6), "_SUCCESS.json: num_images is 6; the shards say 5"),
    "masks": (lambda s: s.update(num_masks=3), "_SUCCESS.json: num_masks is 3; the shards say 4"),
    "statuses": (lambda s: s["statuses"].update(ok=4), "_SUCCESS.json: statuses is"),
    "fingerprint": (lambda s: s.update(fingerprint="x"), "_SUCCESS.json: fingerprint is 'x'"),
    "digest": (lambda s: s["shards"][FIRST].update(sha256="0"), "_SUCCESS.json says otherwise"),
    "lost shard": (lambda s: s["shards"].pop(FIRST), f"{FIRST}: is not in _SUCCESS.json"),
    "no shards": (lambda s: s.pop("shards"), "_SUCCESS.json: lists no shards"),
}


@pytest.mark.parametrize("damage", SUCCESS_DAMAGE)
def test_a_wrong_success_file_is_found(dataset, damage):
    """Every figure in it is held against the shards."""
    change, pattern = SUCCESS_DAMAGE[damage]
    edit_json(dataset, SUCCESS, change)

    assert found(dataset, pattern)


def test_a_success_file_that_is_not_json_is_found(dataset):
    """Half a file is no success."""
    dataset.store.replace(SUCCESS, b'{"num_images": 5')

    assert found(dataset, "^_SUCCESS.json: is not JSON")


def test_an_unfinished_run_is_found(dataset):
    """A dataset without _SUCCESS.json is not called sound, whatever is in it."""
    (dataset.store.root / SUCCESS).unlink()

    assert problems(dataset) == ["_SUCCESS.json: is missing: the run has not finished"]


def test_one_bad_shard_does_not_bury_the_others(tmp_path):
    """Problems of one shard are listed up to a limit, then counted."""
    masks = [rectangle_mask(24, 32, 1, 1, 3, 3)] * 30
    write_dataset(tmp_path, [image(0, b"a", masks), image(1, b"b", masks)], shard_size=1)
    dataset = open_dataset(tmp_path)
    for name in (FIRST, shard_name(1)):
        rewrite(dataset, name, lambda rows: [mask.update(area=1) for mask in rows[0]["annotations"]])
    listed = [problem for problem in problems(dataset) if "area is 1" in problem]

    assert len(listed) == 2 * MAX_PROBLEMS_PER_SHARD
    assert f"{FIRST}: 10 problems more" in problems(dataset)


def test_rewriting_without_damage_changes_nothing_but_the_digest(dataset):
    """The instrument of these tests plants only what they say."""
    rewrite(dataset, FIRST, lambda rows: None)

    assert len(problems(dataset)) == 1
    assert found(dataset, "_SUCCESS.json says otherwise")
    assert replace(verify_dataset(dataset), problems=[]).num_masks == 4
    assert records_to_table(list(dataset.records())).num_rows == 5
