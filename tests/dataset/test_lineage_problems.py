"""What tools.verify says of a derived dataset whose rows do not lead back."""

import pyarrow as pa
import pytest

from sam_engine.dataset.lineage_problems import lineage_problems, parents_of
from sam_engine.dataset.reader import open_dataset
from sam_engine.dataset.rewrite.operations import merge_datasets
from sam_engine.dataset.rewrite.parents import open_parent
from sam_engine.dataset.verify import verify_dataset
from tests.helpers.dataset_builder import sample_records, write_dataset, write_success


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """Two datasets as one, its paths under their names."""
    root = tmp_path_factory.mktemp("lineage")
    for name in ("a", "b"):
        write_dataset(root / name, sample_records(), settings={"seed": name}, input_root=f"/{name}")
    merge_datasets([open_parent(root / name) for name in ("a", "b")], root / "out")
    return open_dataset(root / "out")


def first_row(row):
    row["parent_dataset"] = "f" * 64


def no_parent_image(row):
    row["parent_image_id"] = None


def other_image(row):
    row["annotations"][0]["parent_id"] = 65536


def one_parent_twice(row):
    row["annotations"][1]["parent_id"] = row["annotations"][0]["parent_id"]


def other_folder(row):
    row["file_name"] = "b/a.jpg"


PLANTED = {
    first_row: "image 0: parent_dataset is 'ffff",
    no_parent_image: "image 0: has no parent_image_id",
    other_image: "image 0: a mask's parent_id is of another image than 0",
    one_parent_twice: "image 0: two masks have one parent_id",
    other_folder: "image 0: its path does not begin with a/",
}


@pytest.mark.parametrize(
    ("change", "problem"), PLANTED.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_what_is_planted_in_a_row_is_found(merged, change, problem):
    """And nothing else; as it was written nothing is wrong."""
    run_info, parents = merged.run_info, parents_of(merged.run_info)
    table = next(merged.tables())
    rows = table.to_pylist()
    change(rows[0])
    planted = pa.Table.from_pylist(rows).select(table.column_names)

    assert list(lineage_problems(table, run_info, parents)) == []
    [found] = lineage_problems(planted, run_info, parents)
    assert found.startswith(problem)


def test_columns_that_settings_do_not_name_are_found(merged):
    """All shards of a dataset have the same ones."""
    table = next(merged.tables())
    table = table.append_column("licence", pa.nulls(len(table), pa.string()))

    [problem] = lineage_problems(table, merged.run_info, parents_of(merged.run_info))
    assert problem.startswith("has the optional columns licence, parent_dataset")


def test_verify_holds_rows_against_the_parents_on_record(tmp_path):
    """A dataset that says that it was derived, and has no way back, is not sound."""
    entry = {"fingerprint": "e" * 64, "prefix": ""}
    write_dataset(tmp_path, sample_records(), settings={"parents": [entry]})
    write_success(open_dataset(tmp_path).store)

    problems = verify_dataset(open_dataset(tmp_path)).problems

    assert "is derived, and its settings name no column parent_dataset" in problems[0]
