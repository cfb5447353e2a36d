"""Reading: everything that was written, in order, and nothing that a hostile file would cost us."""

import json
import resource
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam_engine.dataset.reader import MAX_GROUP_ROWS, open_dataset, read_tables
from sam_engine.dataset.schema import RUN_INFO, SCALAR_COLUMNS, SCHEMA, SUCCESS, records_to_table
from sam_engine.dataset.seal import BLANK, FILE_KEY, FOOTER_KEY, seal
from sam_engine.dataset.shards import encode_shard, shard_name
from sam_engine.errors import ConfigError, ShardError
from sam_engine.storage.local import LocalStore
from sam_engine.structures import Shard
from tests.helpers.dataset_builder import image, sample_records, sealed, write_dataset


@pytest.fixture
def dataset(tmp_path):
    write_dataset(tmp_path, sample_records())
    return open_dataset(tmp_path)


def test_records_come_back_in_order(dataset):
    """All shards, one after the other, as they were written."""
    assert list(dataset.records()) == sample_records()
    assert list(dataset.checked_records()) == sample_records()


def test_totals_come_from_the_footers(dataset):
    """Counting needs no rows."""
    assert (dataset.num_images, dataset.num_masks) == (5, 4)
    assert dataset.statuses == {"corrupt": 1, "ok": 3, "ok_empty": 1}


def test_single_shards_can_be_read(dataset):
    """For exporting shard by shard."""
    assert list(dataset.records(shards=[1])) == sample_records()[2:4]


def test_row_groups_are_read_one_at_a_time(tmp_path):
    """Memory holds a row group, not a shard."""
    write_dataset(tmp_path, [image(i, b"%04d.jpg" % i) for i in range(250)], shard_size=250)

    assert [len(table) for table in open_dataset(tmp_path).tables()] == [100, 100, 50]


def test_scalars_leave_the_masks_unread(dataset):
    """All other columns, and nothing of the run lengths."""
    tables = list(dataset.scalars())

    assert {tuple(table.column_names) for table in tables} == {SCALAR_COLUMNS}
    assert [row["num_masks"] for table in tables for row in table.to_pylist()] == [2, 0, 0, 1, 1]


def test_run_info_is_at_hand(dataset):
    """What the run wrote about itself."""
    assert dataset.run_info["selection"] == {"input": "photos"}
    assert dataset.fingerprint == dataset.run_info["fingerprint"]


def test_an_unfinished_dataset_can_be_read(dataset):
    """What is there is whole, whether or not the rest comes."""
    (dataset.store.root / SUCCESS).unlink()
    (dataset.store.root / shard_name(2)).unlink()

    assert list(open_dataset(dataset.store.root).records()) == sample_records()[:4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a dataset: it has no _meta/run.json"),
        (b"{", "is not JSON"),
        (b"[]", "names no fingerprint"),
        (b'{"fingerprint": 1}', "names no fingerprint"),
        (b"\xff", "is not JSON"),
    ],
)
def test_another_folder_is_not_a_dataset(tmp_path, content, message):
    """One line that says what is missing; it is a usage error."""
    if content is not None:
        LocalStore(tmp_path).replace(RUN_INFO, content)

    with pytest.raises(ConfigError, match=message) as caught:
        open_dataset(tmp_path)
    assert caught.value.exit_code == 2


def test_page_checksums_are_verified(dataset):
    """A flipped bit is an error, not another value; the file is named."""
    path = dataset.store.root / shard_name(0)
    data = bytearray(path.read_bytes())
    data[pq.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset + 40] ^= 1
    path.write_bytes(data)

    with pytest.raises(ShardError, match=str(path)):
        list(dataset.records())


def test_masks_that_contradict_themselves_are_not_handed_on(dataset):
    """checked_records names image, mask and the tool that tells more."""
    rows = records_to_table(sample_records()[:2]).to_pylist()
    rows[0]["annotations"][1]["area"] = 9
    replace_rows(dataset.store, rows)

    with pytest.raises(ShardError, match=r"image 0 \(a.jpg\): mask 1: area is 9.*sam-engine verify"):
        list(dataset.checked_records())


def replace_rows(store, rows):
    """Give the first shard other rows under its own footer."""
    metadata = pq.ParquetFile(pa.BufferReader(store.read(shard_name(0)))).metadata.metadata
    plain = SCHEMA.set(7, pa.field("status", pa.string(), nullable=False))
    table = pa.Table.from_pylist(rows, schema=plain)
    table = table.set_column(7, SCHEMA.field("status"), table["status"].dictionary_encode())
    footer = {key: value for key, value in metadata.items() if key != b"ARROW:schema"}
    store.replace(shard_name(0), sealed(table, footer))


def bomb(rows, text):
    """Return a small file with our columns in which every row has the same ``text`` as its name."""
    honest = encode_shard([image(0, b"a")], shard=Shard(index=0, start=0, stop=1), fingerprint="f")
    footer = dict(pq.read_metadata(pa.BufferReader(honest)).metadata)
    footer |= {
        b"sam_engine.last_image_id": str(rows - 1),
        b"sam_engine.statuses": json.dumps({"ok_empty": rows}),
    }
    table = records_to_table([image(0, b"a")]).take([0] * rows)
    names = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))
    field = pa.field("file_name", names.type, nullable=False)
    table = table.set_column(1, field, names)
    sink = pa.BufferOutputStream()
    writer = pq.ParquetWriter(sink, table.schema, compression="zstd", store_schema=False)
    writer.write_table(table, row_group_size=rows)
    writer.add_key_value_metadata(footer | {FILE_KEY: BLANK, FOOTER_KEY: BLANK})
    writer.close()
    return seal(sink.getvalue().to_pybytes())


def test_a_text_bomb_is_refused(tmp_path):
    """A few kB that would expand to 10 GB: refused by what they would become, within 1 GB."""
    store = LocalStore(tmp_path)
    data = bomb(MAX_GROUP_ROWS, "x" * 1_000_000)
    store.replace("bomb", data)
    code = (
        "import sys\n"
        "from sam_engine.dataset.reader import read_tables\n"
        "from sam_engine.storage.local import LocalStore\n"
        "list(read_tables(LocalStore(sys.argv[1]), 'bomb', ['file_name']))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30)),
    )

    assert len(data) < 10_000
    assert "ShardError" in result.stderr
    assert "10000000000 bytes of file_name; at most 1073741824 are read" in result.stderr


def test_too_many_rows_in_a_group_are_refused(tmp_path):
    """The footer's own numbers are enough to say no."""
    store = LocalStore(tmp_path)
    store.replace("bomb", bomb(MAX_GROUP_ROWS + 1, "x"))

    with pytest.raises(ShardError, match="a row group has 10001 rows; at most 10000 are read"):
        list(read_tables(store, "bomb", ["file_name"]))


def test_reading_needs_neither_torch_nor_ray():
    """Readers start at once, also where no accelerator stack is installed."""
    code = (
        "import sys\n"
        "import sam_engine.dataset.reader, sam_engine.dataset.verify, sam_engine.dataset.originals\n"
        "import sam_engine.formats.sa1b, sam_engine.formats.coco, sam_engine.formats.coco_export\n"
        "sys.exit(', '.join({'torch', 'ray', 'hydra', 'cv2', 'pycocotools'} & set(sys.modules)) or None)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (result.returncode, result.stderr) == (0, "")
