"""What rows of a derived dataset promise about where they come from."""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sam_engine.dataset.schema import EXTRAS, row_path
from sam_engine.structures import ANNOTATIONS_PER_IMAGE

LINEAGE = ("parent_dataset", "parent_image_id", "annotations.parent_id")
"""Of `schema.EXTRAS`: what every derived dataset has."""


def parents_of(run_info: Mapping[str, Any]) -> dict[str, str] | None:
    """Return what stands before the paths of each parent, by fingerprint; None of what was not derived.

    Raises:
        ValueError: The record is malformed.
    """
    parents = (run_info.get("settings") or {}).get("parents")
    if parents is None:
        return None
    try:
        return {str(parent["fingerprint"]): str(parent["prefix"]) for parent in parents}
    except (TypeError, KeyError) as error:
        raise ValueError(f"its parents are malformed ({error!r})") from error


def lineage_problems(
    table: pa.Table, run_info: Mapping[str, Any], parents: Mapping[str, str]
) -> Iterator[str]:
    """Yield where rows do not lead back to a parent, one line each.

    Args:
        table: Some rows, with all their columns.
        run_info: Of the dataset.
        parents: From `parents_of`.
    """
    due = list((run_info.get("settings") or {}).get("extras") or ())
    if missing := [name for name in LINEAGE if name not in due]:
        yield f"is derived, and its settings name no column {', '.join(missing)}"
        return
    place = table.schema.get_field_index("annotations")
    mask_fields = {field.name for field in table.schema.field(place).type.value_type}
    columns = {*table.schema.names, *(f"annotations.{name}" for name in mask_fields)}
    found = [name for name in EXTRAS if name in columns]
    if found != due:
        yield f"has the optional columns {', '.join(found)}; its settings say {', '.join(due)}"
        return
    names = ["image_id", "file_name", "path_bytes", "parent_dataset", "parent_image_id"]
    lists = table["annotations"]
    parent_ids = pc.struct_field(pc.list_flatten(lists), "parent_id").to_pylist()
    start = 0
    for row, num_masks in zip(table.select(names).to_pylist(), pc.list_value_length(lists), strict=True):
        numbers = parent_ids[start : start + num_masks.as_py()]
        start += num_masks.as_py()
        image, parent, parent_image_id = row["image_id"], row["parent_dataset"], row["parent_image_id"]
        if parent not in parents:
            yield f"image {image}: parent_dataset is {parent!r}, which is none of its parents"
        elif parents[parent] and not row_path(row).startswith(f"{parents[parent]}/".encode()):
            yield f"image {image}: its path does not begin with {parents[parent]}/, as those of its parent do"
        if parent_image_id is None:
            yield f"image {image}: has no parent_image_id"
            continue
        ids = [number for number in numbers if number is not None]
        if any(number // ANNOTATIONS_PER_IMAGE != parent_image_id for number in ids):
            yield f"image {image}: a mask's parent_id is of another image than {parent_image_id}"
        if len(set(ids)) < len(ids):
            yield f"image {image}: two masks have one parent_id"
