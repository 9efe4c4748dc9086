"""Writes CSV (RFC 4180): UTF-8, a header, text in quotes, quotes doubled; null is empty, empty text is `""`.

Values are unchanged by default. A spreadsheet reads text that begins with `=`, `+`, `-`, `@`, a tab or a carriage
return as a formula, quoted or not, and captions and names are other people's text. The usual guard, an apostrophe
before it, would change the data for every other reader, so it is an option, and such values are counted.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from beam_job.inputs.columns import as_json_text

NAME = "captions.csv"
_FORMULA = r"^[=+\-@\t\r]"


def write_csv(tables: Iterable[pa.Table], folder: str, for_spreadsheets: bool) -> tuple[int, int]:
    """Writes `captions.csv`.

    Args:
      tables: of one schema.
      folder: to write into.
      for_spreadsheets: put an apostrophe before values that a spreadsheet would read as formulas.

    Returns:
      the number of rows, and of values that a spreadsheet would read as formulas, guarded or not.
    """
    rows = formulas = 0
    writer = None
    try:
        for table in tables:
            flat = pa.table({name: _flat(table[name]) for name in table.column_names})
            found = [name for name in flat.column_names if pa.types.is_string(flat.schema.field(name).type)]
            formulas += sum(_formulas(flat[name]) for name in found)
            if for_spreadsheets:
                for name in found:
                    guarded = pc.replace_substring_regex(flat[name], pattern=f"({_FORMULA})", replacement=r"'\1")
                    flat = flat.set_column(flat.schema.get_field_index(name), name, guarded)
                names = pa.array(flat.column_names)
                flat = flat.rename_columns(
                    pc.replace_substring_regex(names, pattern=f"({_FORMULA})", replacement=r"'\1").to_pylist()
                )
            writer = writer or pyarrow.csv.CSVWriter(os.path.join(folder, NAME), flat.schema)
            writer.write_table(flat)
            rows += table.num_rows
    finally:
        if writer is not None:
            writer.close()
    return rows, formulas


def _formulas(column: pa.ChunkedArray) -> int:
    return pc.sum(pc.match_substring_regex(column, _FORMULA)).as_py() or 0


def _flat(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """Converts a column to a type that CSV can hold: nested values become JSON text."""
    kind = column.type
    if any(is_kind(kind) for is_kind in (pa.types.is_large_string, pa.types.is_dictionary, pa.types.is_null)):
        return column.cast(pa.string())
    plain = (pa.types.is_string, pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_timestamp)
    return column if any(is_kind(kind) for is_kind in (*plain, pa.types.is_date)) else as_json_text(column)
