"""Reads `--input` into Arrow batches: a folder, a glob, a bucket prefix, tars, a list of URIs, or one image."""

from __future__ import annotations

import collections
import itertools
import os
import posixpath
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa

from beam_job.inputs.lists import LISTING_FIELDS, ListError, check_carried, is_list, read_list
from beam_job.inputs.tars import TAR_SUFFIX, is_packed_tar, is_tar, list_members
from beam_job.storage import (
    WEB,
    Allowed,
    StorageError,
    StoredObject,
    bucket_of,
    is_glob,
    literal_part,
    local_path,
    public_name,
    real_path,
    scheme_of,
    storage_for,
    without_secrets,
)

# Only these are taken from a folder; globs and lists may name any file.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")
_BATCH = 10_000
_TARS_AHEAD = 8


class InputError(ValueError):
    """An input is missing, unreadable or empty; the message says what was looked for."""


def allowed_places(
    inputs: Sequence[str],
    allow_schemes: Sequence[str] = (),
    allow_root: Sequence[str] = (),
    allow_buckets: Sequence[str] = (),
    allow_private_addresses: bool = False,
) -> Allowed:
    """The places that a job may read: those of its inputs, and those of its `--allow_...` options.

    A list allows its own folder or bucket. The arguments are fields of `JobConfig`.
    """
    buckets = allow_buckets
    schemes = [*map(scheme_of, inputs), *allow_schemes, *(scheme_of(name) for name in buckets if "://" in name)]
    folders = [_own_root(given) for given in inputs if scheme_of(given) == "file"]
    objects = [given for given in inputs if scheme_of(given) not in ("file", *WEB)]
    return Allowed(
        schemes=tuple(dict.fromkeys([*schemes, *(["file"] if allow_root else [])])),
        roots=tuple(dict.fromkeys(map(real_path, [*folders, *allow_root]))),
        buckets=tuple(dict.fromkeys([*map(bucket_of, objects), *buckets])),
        private_addresses=allow_private_addresses,
    )


def _own_root(given: str) -> str:
    """The folder of a list, the part of a glob before its wildcards, or the folder or file itself."""
    path = os.path.abspath(local_path(given))
    if is_list(given) and not is_glob(given):
        return os.path.dirname(path)
    literal = literal_part(path)
    return path if literal == path or os.path.exists(path) else os.path.dirname(literal)


def list_images(
    inputs: Sequence[str], uri_column: str = "uri", carry_columns: Sequence[str] = ()
) -> Iterator[pa.RecordBatch]:
    """The images of all inputs, in the order found: `LISTING_FIELDS` and the carried columns.

    Args:
      inputs: values of `--input`.
      uri_column: the column of lists that holds the URIs.
      carry_columns: columns of lists, or fields of the JSON files in tars, to keep.

    Raises:
      InputError: an input is missing, unreadable or empty, or has no columns although some are to be carried.
    """
    for given in inputs:
        found = False
        try:
            for batch in _batches_of(given, uri_column, carry_columns):
                found = found or batch.num_rows > 0
                yield batch
        except (StorageError, ListError) as error:
            raise InputError(f"--input: {without_secrets(str(error), given)}") from error
        if not found:
            raise InputError(_nothing_at(given))


def _batches_of(given: str, uri_column: str, carry_columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    if is_list(given) and not is_glob(given):
        yield from read_list(given, uri_column, carry_columns)
        return
    if is_packed_tar(given):
        raise InputError(
            f"--input: {public_name(given)} is compressed, so single images cannot be read from it; unpack it"
        )
    check_carried(carry_columns)
    storage = storage_for(given)
    only_images = not is_glob(given) and storage.is_folder(given)
    suffixes = (*IMAGE_SUFFIXES, TAR_SUFFIX)
    found = (stored for stored in storage.list(given) if not only_images or _suffix(stored.uri) in suffixes)
    for of_tars, group in itertools.groupby(found, key=lambda stored: is_tar(stored.uri)):
        if of_tars:
            yield from _members_of(group, carry_columns)
        elif carry_columns:
            what = f"--carry_columns={','.join(carry_columns)} needs lists with columns, or tars with JSON files"
            raise InputError(f"{what}; {public_name(given)} has only images")
        else:
            yield from _batches_of_files(group)


def _batches_of_files(found: Iterator[StoredObject]) -> Iterator[pa.RecordBatch]:
    schema = pa.schema(LISTING_FIELDS)
    while chunk := list(itertools.islice(found, _BATCH)):
        columns = zip(*((s.uri, s.version, s.size, s.crc32c, None) for s in chunk), strict=True)
        yield pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


def _members_of(tars: Iterator[StoredObject], carry_columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The images of tars, in order; several tars are read at once, since each waits for the network."""
    with ThreadPoolExecutor(_TARS_AHEAD) as threads:
        ahead: collections.deque[Future[pa.RecordBatch]] = collections.deque()
        try:
            for tar in tars:
                ahead.append(threads.submit(list_members, tar, carry_columns))
                if len(ahead) == _TARS_AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            threads.shutdown(cancel_futures=True)


def _suffix(uri: str) -> str:
    return posixpath.splitext(uri)[1].lower()


def _nothing_at(given: str) -> str:
    name = public_name(given)
    if is_glob(given):
        return f"--input: nothing matches {name}; check the spelling (** matches across folders, * does not)"
    if is_list(given):
        return f"--input: the list {name} is empty"
    if storage_for(given).is_folder(given):
        suffixes = ", ".join(IMAGE_SUFFIXES)
        return f"--input: the folder {name} holds no images ({suffixes}); for other file types give a glob"
    start = f"; relative paths start at {os.getcwd()}" if scheme_of(given) == "file" else ""
    return f"--input: {name} does not exist; check the spelling{start}"
