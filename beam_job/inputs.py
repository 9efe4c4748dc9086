"""What `--input` names, as Arrow batches: a folder, a glob, a bucket prefix, a list of URIs, or one image."""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Iterator, Sequence

import pyarrow as pa

from beam_job.lists import LISTING_FIELDS, ListError, is_list, read_list
from beam_job.storage import StorageError, is_glob, storage_for

# A folder is searched for these; a glob or a list is taken at its word.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
_BATCH = 10_000


class InputError(ValueError):
    """There is nothing to caption where the user pointed; the message says what was looked for."""


def list_images(
    inputs: Sequence[str], uri_column: str = "uri", carry_columns: Sequence[str] = ()
) -> Iterator[pa.RecordBatch]:
    """The images of all inputs, in the order found: `LISTING_FIELDS` and the carried columns.

    Args:
      inputs: as `--input` gives them.
      uri_column: of lists that have columns.
      carry_columns: columns of the lists to keep.

    Raises:
      InputError: one of `inputs` yields nothing, is not there, or is no list although columns are to be carried.
    """
    for given in inputs:
        found = False
        try:
            for batch in _batches_of(given, uri_column, carry_columns):
                found = found or batch.num_rows > 0
                yield batch
        except (StorageError, ListError) as error:
            raise InputError(f"--input: {error}") from error
        if not found:
            raise InputError(_nothing_at(given))


def _batches_of(given: str, uri_column: str, carry_columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    if is_list(given) and not is_glob(given):
        yield from read_list(given, uri_column, carry_columns)
        return
    if carry_columns:
        raise InputError(f"--carry_columns={','.join(carry_columns)} needs lists with columns, and {given} is none")
    storage = storage_for(given)
    only_images = not is_glob(given) and storage.is_folder(given)
    stored = (s for s in storage.list(given) if not only_images or _suffix(s.uri) in IMAGE_SUFFIXES)
    schema = pa.schema(LISTING_FIELDS)
    while chunk := list(itertools.islice(stored, _BATCH)):
        columns = zip(*((s.uri, s.version, s.size, s.crc32c) for s in chunk), strict=True)
        yield pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


def _suffix(uri: str) -> str:
    return posixpath.splitext(uri)[1].lower()


def _nothing_at(given: str) -> str:
    if is_glob(given):
        return f"--input: nothing matches {given}"
    if is_list(given):
        return f"--input: the list {given} is empty"
    if storage_for(given).is_folder(given):
        return f"--input: the folder {given} holds no images ({', '.join(IMAGE_SUFFIXES)})"
    return f"--input: {given} is not there"
