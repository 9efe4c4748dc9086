"""Lists as they are read, whole or by URI."""

from __future__ import annotations

import os

import pyarrow as pa
import pyarrow.csv

from beam_job.inputs.lists import read_list


def table(given: str, **options: object) -> pa.Table:
    """The list; its relative names, which become absolute, are shown as they are written."""
    read = pa.Table.from_batches(read_list(given, **options))  # type: ignore[arg-type]
    shown = [uri.removeprefix(f"{os.getcwd()}/") for uri in read["uri"].to_pylist()]
    return read.set_column(0, read.schema.field("uri"), pa.array(shown, pa.string()))


def uris(given: str, **options: object) -> list[str]:
    batches = [*read_list(given, **options)]  # type: ignore[arg-type]
    return [uri.removeprefix(f"{os.getcwd()}/") for batch in batches for uri in batch["uri"].to_pylist()]


def listed(given: str, **options: object) -> list[dict[str, object]]:
    """What the list says of each image."""
    names = ["uri", "object_version", "size", "crc32c", "tar_offset"]
    return table(given, **options).select(names).to_pylist()
