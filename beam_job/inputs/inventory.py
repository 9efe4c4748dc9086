"""Inventory reports of Cloud Storage: lists with the size and version of each object."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from beam_job.inputs.list_formats import opened, unreadable
from beam_job.inputs.rows import LISTING_FIELDS, ListError, listing_columns
from beam_job.storage import local_path

REPORT_COLUMNS = ("bucket", "name", "generation", "size", "crc32c", "timeDeleted")


def report_columns(given: str, batch: pa.RecordBatch) -> list[pa.Array]:
    """`LISTING_FIELDS` of a report's rows, which have text in `bucket` and `name`."""
    bucket, name = batch.column("bucket").cast(pa.string()), batch.column("name").cast(pa.string())
    with unreadable(given, "an inventory report"):
        fields = {field.name: field.type for field in LISTING_FIELDS}
        columns = (("generation", "object_version"), ("size", "size"), ("crc32c", "crc32c"))
        known = {field: _optional(batch, column).cast(fields[field]) for column, field in columns}
    return listing_columns(batch.num_rows, uri=pc.binary_join_element_wise("gs:/", bucket, name, "/"), **known)


def is_live_object(batch: pa.RecordBatch) -> pa.Array:
    """False for placeholders of folders and for noncurrent versions."""
    is_folder = pc.ends_with(batch.column("name").cast(pa.string()), "/")
    return pc.and_not(pc.is_null(_optional(batch, "timeDeleted")), is_folder)


def _optional(batch: pa.RecordBatch, column: str) -> pa.Array:
    if column not in batch.schema.names:
        return pa.nulls(batch.num_rows)
    array = batch.column(column)
    return pc.if_else(pc.equal(array, ""), None, array) if array.type == pa.string() else array


def shards(given: str) -> Iterator[str]:
    """The files of an inventory report, which lie beside its manifest."""
    with opened(given, "a manifest") as file:
        manifest = json.loads(file.read())
    names = manifest.get("report_shards_file_names") if isinstance(manifest, dict) else None
    if names is None and isinstance(manifest, dict) and "fileSchema" in manifest:
        raise ListError(
            f"{given} is an inventory of S3, which is not supported; give the bucket, or a list of s3:// URIs"
        )
    if not isinstance(names, list) or not all(str(name).lower().endswith((".csv", ".parquet")) for name in names):
        raise ListError(f"{given}: report_shards_file_names must list CSV or Parquet files, not {names!r}")
    # As a path, since in file:// an escaped slash in a shard's name would lead to another folder.
    folder, slash, _ = local_path(given).rpartition("/")
    for name in names:
        yield folder + slash + str(name).rpartition("/")[2]
