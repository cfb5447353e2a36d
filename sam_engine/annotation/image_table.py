"""What a table says of a run's images by their names: licence, whom to name, address, key. No torch."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sam_engine.dataset.manifest import Manifest
from sam_engine.errors import ConfigError, InputError
from sam_engine.inputs.origins import NAMES, PATH_NAMES, origin_columns, read_csv, texts
from sam_engine.storage.anywhere import open_file

KINDS = (
    "a .csv or .parquet table with a column file_name, as the dataset has it, and at least one of "
    + ", ".join(NAMES)
)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageTable:
    """The rows of a table; a name at most once."""

    paths: pa.Array
    """(N,) large_binary."""
    columns: Mapping[str, pa.Array]
    """(N,) texts by the field of `Origin`."""
    sha256: str
    """Of the file."""

    def joined(self, manifest: Manifest) -> Manifest:
        """Return the manifest with what the table says; where that is nothing, with what it said itself.

        Raises:
            ConfigError: Not one name is an image of it.
        """
        images = manifest.table["path_bytes"]
        rows = pc.index_in(images, value_set=self.paths)
        if rows.null_count == len(rows):
            raise ConfigError(
                f"image_table: none of its {len(self.paths):,} names is an image of the input: the first is "
                f"{ascii(self.paths[0].as_py())[2:-1]}, the input's first is {ascii(images[0].as_py())[2:-1]}"
            )
        known = {name: manifest.table[name] for name in manifest.extras}
        for name, values in self.columns.items():
            told = pa.chunked_array([values]).take(rows)
            known[name] = pc.coalesce(told, known[name]) if name in known else told
        return manifest.with_origins(known)

    def notes(self, manifest: Manifest) -> list[str]:
        """Return what does not fit the images of a run, a line each."""
        known = pc.sum(pc.is_in(manifest.table["path_bytes"], value_set=self.paths)).as_py()
        notes = []
        if known < len(manifest):
            missing = len(manifest) - known
            notes.append(
                f"{missing:,} images are not in image_table: what it tells of others is unknown of them"
            )
        if known < len(self.paths):
            notes.append(f"{len(self.paths) - known:,} names in image_table are no images of this run")
        return notes


def read_image_table(path: str) -> ImageTable:
    """Return the table in a file.

    Raises:
        ConfigError: It cannot be read, is no such table, or names an image twice or none.
    """
    try:
        with open_file(path) as file:
            sha256 = hashlib.sha256(file.read()).hexdigest()
        if os.fspath(path).lower().endswith(".csv"):
            table = read_csv(path)
        elif os.fspath(path).lower().endswith(".parquet"):
            with open_file(path) as file:
                table = pq.read_table(file)
        else:
            raise ConfigError(f"image_table is {path!r}; wanted is {KINDS}")
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"image_table: {path} cannot be read: {str(error).splitlines()[0]}") from error
    names = {name.lower(): name for name in reversed(table.column_names)}
    key = next((names[name] for name in PATH_NAMES if name in names), None)
    columns = origin_columns(table.schema)
    if key is None or not columns:
        raise ConfigError(
            f"image_table: {path} has columns {', '.join(table.column_names)}; wanted is {KINDS}"
        )
    table = table.combine_chunks()
    try:
        paths = _one(table[key]).cast(pa.large_binary())
        told = {field: texts(_one(table[name]), name) for field, name in columns.items()}
    except (pa.ArrowException, InputError) as error:
        raise ConfigError(f"image_table: {path}: {str(error).splitlines()[0]}") from error
    _refuse_bad_names(path, paths)
    return ImageTable(paths=paths, columns=told, sha256=sha256)


def _refuse_bad_names(path: str, paths: pa.Array) -> None:
    """Raise `ConfigError` unless every row names an image, and no two the same."""
    if not len(paths):
        raise ConfigError(f"image_table: {path} has no rows")
    is_named = pc.greater(pc.fill_null(pc.binary_length(paths), 0), 0)
    if not pc.all(is_named).as_py():
        row = pc.index(is_named, False).as_py()
        raise ConfigError(f"image_table: {path}: row {row + 1} names no image")
    counts = paths.value_counts()
    if len(counts) < len(paths):
        repeated = next(item["values"].as_py() for item in counts if item["counts"].as_py() > 1)
        raise ConfigError(f"image_table: {path}: {ascii(repeated)[2:-1]} is named more than once")


def _one(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array, whatever pyarrow makes of it."""
    whole = column.combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole
