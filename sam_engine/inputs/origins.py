"""What tables say of where images come from: licence, whom to name, address, key; under many names."""

import codecs
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from sam_engine.errors import InputError
from sam_engine.storage.anywhere import open_file
from sam_engine.structures import Origin

NAMES: Mapping[str, Sequence[str]] = {
    "licence": ("licence", "license"),
    "attribution": ("attribution", "author", "creator"),
    "source_url": ("source_url", "url", "image_url", "original_url", "originalurl"),
    "source_key": ("source_key", "key", "__key__", "id", "image_id", "imageid"),
}
"""Columns that are looked for, in lower case, the first of them first."""
PATH_NAMES = ("file_name", "path", "image_path", "file_path", "filename")
"""Columns that name an image's file."""
MAX_TEXT_BYTES = 4096
"""Of one value."""


def origin_columns(schema: pa.Schema, others: Sequence[str] = ()) -> dict[str, str]:
    """Return which column of a table says what, by the field of `Origin`; parts of structs as ``image.path``.

    Args:
        schema: Of the table.
        others: Columns with a key where none of `NAMES` is there.
    """
    kinds = {each.name: each.type for each in schema}
    for name, kind in list(kinds.items()):
        if pa.types.is_struct(kind):
            kinds |= {f"{name}.{each.name}": each.type for each in kind}
    names = {name.lower(): name for name, kind in reversed(kinds.items()) if _is_text(kind)}
    found = {}
    for field, candidates in NAMES.items():
        for name in (*candidates, *(others if field == "source_key" else ())):
            if name in names:
                found[field] = names[name]
                break
    return found


def texts(column: pa.Array, name: str) -> pa.Array:
    """Return a column of text or whole numbers as text; what is empty is null.

    Raises:
        InputError: A value is too long. It is weighed before it is copied row by row.
    """
    values = column.dictionary if pa.types.is_dictionary(column.type) else column
    if not pa.types.is_integer(values.type):
        longest = pc.max(pc.binary_length(values)).as_py() or 0
        if longest > MAX_TEXT_BYTES:
            raise InputError(
                f"column {name!r} has a value of {longest} bytes; at most {MAX_TEXT_BYTES} are read"
            )
    plain = column.dictionary_decode() if values is not column else column
    text = plain.cast(pa.large_string())
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, text.type), text)


def origins_of(batch: pa.RecordBatch, columns: Mapping[str, str]) -> Iterator[Origin]:
    """Yield what each row says; `columns` are of `origin_columns`."""
    flat = dict(zip(batch.schema.names, batch.columns, strict=True))
    for name, column in list(flat.items()):
        if pa.types.is_struct(column.type):
            flat |= {f"{name}.{each.name}": column.field(each.name) for each in column.type}
    values = [texts(flat[name], name).to_pylist() for name in columns.values()]
    for row in zip(*values, strict=True):
        yield Origin(**dict(zip(columns, row, strict=True)))


def csv_form(path: str) -> tuple[pa.csv.ReadOptions, pa.csv.ParseOptions]:
    """Return how a CSV file is to be read: spreadsheets write UTF-16, and semicolons or tabs for commas.

    Raises:
        OSError: It cannot be read.
    """
    with open_file(path) as file:
        start = file.read(MAX_TEXT_BYTES)
    is_utf_16 = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if is_utf_16 else "utf-8"
    header = start.decode(encoding, "replace").partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    return pa.csv.ReadOptions(encoding=encoding), pa.csv.ParseOptions(delimiter=delimiter)


def read_csv(path: str) -> pa.Table:
    """Return a CSV file with all of its columns as text: ``007`` is a name and no number.

    Raises:
        ArrowException, OSError: It cannot be read, or is no such table.
    """
    reading, parsing = csv_form(path)
    with open_file(path) as file, pa.csv.open_csv(file, read_options=reading, parse_options=parsing) as head:
        names = head.schema.names
    converting = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.large_string()))
    with open_file(path) as file:
        return pa.csv.read_csv(file, reading, parsing, converting)


def _is_text(kind: pa.DataType) -> bool:
    """Return whether a column may hold names: text, also as a dictionary, or whole numbers."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return str(kind) in ("string", "large_string", "string_view") or bool(pa.types.is_integer(kind))
