"""Reads and writes whole Parquet files of the job."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

from beam_job.storage import storage_for

_READ_TIMEOUT_S = 600.0  # the plan of a hundred million images takes gigabytes


def read_parquet(uri: str) -> pq.ParquetFile:
    """The file, read and checked as images are: reading only ranges would not detect a damaged file.

    Raises:
      StorageError: it cannot be read.
    """
    data, _ = storage_for(uri).read(uri, timeout=_READ_TIMEOUT_S)
    return pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)


def parquet_bytes(table: pa.Table, row_group_size: int | None = None) -> bytes:
    """The content of a Parquet file with `table`, compressed with zstd and with a checksum per page."""
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, table.schema, compression="zstd", write_page_checksum=True) as writer:
        if table.num_rows:  # Hugging Face's `datasets` fails on empty row groups, but not on a file without any.
            writer.write_table(table, row_group_size=row_group_size)
    return buffer.getvalue()
