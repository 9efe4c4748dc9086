"""Reads `--input` into Arrow batches: a folder, a glob, a bucket prefix, tars, lists of URIs, or one image."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa

from beam_job.inputs.carried import carried_names, carried_sources
from beam_job.inputs.filters import UNREADABLE_FOLDER
from beam_job.inputs.found import Contents, examined, is_glob_of_lists, partitions_of
from beam_job.inputs.lists import LISTING_FIELDS, is_list, read_list
from beam_job.inputs.names import IMAGE_SUFFIXES, unread_kind
from beam_job.inputs.patterns import alternatives, is_literal
from beam_job.inputs.rows import (
    ListedFailure,
    ListError,
    ListOptions,
    UnreadableListError,
    check_carried,
    failed_rows,
)
from beam_job.inputs.tars import is_tar, list_members
from beam_job.storage import (
    CONTENT,
    OPTIONS,
    WEB,
    Allowed,
    LocalStorage,
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

_LOGGER = logging.getLogger(__name__)
_BATCH = 10_000
_TARS_AHEAD = 8


class InputError(ValueError):
    """An input is missing or unreadable; the message says what was looked for."""


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
    inputs = [part for given in inputs for part in alternatives(given)]
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
    if is_list(given) and not is_glob(given) and not os.path.isdir(path):
        return os.path.dirname(path)
    literal = literal_part(path)
    return path if literal == path or os.path.exists(path) else os.path.dirname(literal)


def list_images(inputs: Sequence[str], options: ListOptions | None = None) -> Iterator[pa.RecordBatch]:
    """The images of all inputs, in the order found: `LISTING_FIELDS` and the carried columns.

    What cannot be captioned, as far as it is known yet (a bad row, a folder that may not be read), is a row with
    `list_error`. An input that is there and holds no images is logged.

    Args:
      inputs: values of `--input`; `{a,b}` and `{00..41}` in them stand for several.
      options: how lists are read.

    Raises:
      InputError: an input is missing or unreadable, or has no columns although some are to be carried, or the name of a
        carried column cannot be used.
    """
    options = options or ListOptions()
    try:
        check_carried(options.carry_columns)
    except ListError as error:
        raise InputError(str(error)) from error
    taken: set[int] = set()
    for given in inputs:
        try:
            parts = [given] if is_literal(given) else list(alternatives(given))
            yield from _rows_of(parts, options, taken)
        except (StorageError, ListError) as error:
            raise InputError(f"--input: {without_secrets(str(error), given)}") from error


def _rows_of(parts: Sequence[str], options: ListOptions, taken: set[int]) -> Iterator[pa.RecordBatch]:
    """The rows of an input; of several globs that braces stand for, some may match nothing."""
    errors: list[InputError] = []
    for part in parts:
        contents = Contents(part)
        found = False
        for batch in _batches_of(part, contents, options, taken):
            found = found or batch.num_rows > 0
            yield batch
        contents.log()
        if found:
            continue
        try:
            _LOGGER.warning(_nothing_at(part, contents))
        except InputError as error:
            if len(parts) == 1 or not is_glob(part):
                raise
            errors.append(error)
    if errors and len(errors) == len(parts):
        raise errors[0]


def _batches_of(given: str, contents: Contents, options: ListOptions, taken: set[int]) -> Iterator[pa.RecordBatch]:
    """The rows of an input without braces; carried columns are read by their own names and then renamed."""
    names = [*(field.name for field in LISTING_FIELDS), *carried_names(options.carry_columns)]
    options = dataclasses.replace(options, carry_columns=carried_sources(options.carry_columns))
    for batch in _read(given, contents, options, taken):
        yield batch.rename_columns(names[: batch.num_columns])  # some failures have no carried columns


def _read(given: str, contents: Contents, options: ListOptions, taken: set[int]) -> Iterator[pa.RecordBatch]:
    name = is_literal(given)
    if name and is_list(given) and not _is_folder_of_lists(given):
        yield from read_list(given, options=options, partitions=partitions_of(given), taken=taken)
        return
    if name and (kind := unread_kind(given)) and not storage_for(given).is_folder(given):
        raise InputError(f"--input: {public_name(given)} is {kind}")
    trusted = options.trust_local and scheme_of(given) == "file"
    for kind, group in itertools.groupby(examined(_found(given), contents), key=_kind):
        if kind == "tar":
            yield from _members_of(group, contents, options.carry_columns)
        elif kind == "list":
            yield from _rows_of_lists(group, options, taken)
        elif kind == "unreadable":
            yield _unreadable(group, options.carry_columns)
        elif options.carry_columns:
            what = (
                f"--carry_columns={','.join(options.carry_columns)} needs lists with columns, or tars with JSON files"
            )
            raise InputError(f"{what}; {public_name(given)} has only images; give their list instead")
        else:
            yield from _batches_of_files(group, trusted)


def _is_folder_of_lists(given: str) -> bool:
    """Whether a name like that of a list is a folder's, as Spark names them (`out.parquet/part-0.parquet`)."""
    storage = storage_for(given)
    is_file = scheme_of(given) != "file" and storage.exists(given)
    return not is_file and storage.is_folder(given)


def _found(given: str) -> Iterator[StoredObject]:
    storage = storage_for(given)
    if isinstance(storage, LocalStorage):
        return storage.list(given, with_errors=True)
    if is_glob(given) and is_literal(given) and scheme_of(given) not in WEB:
        return iter([storage.stat(given)])
    return storage.list(given)


def _kind(found: tuple[StoredObject, bool]) -> str:
    stored, is_of_lists = found
    if stored.error is not None:
        return "unreadable"
    return "list" if is_of_lists else "tar" if is_tar(stored.uri) else "image"


def _batches_of_files(found: Iterator[tuple[StoredObject, bool]], trusted: bool) -> Iterator[pa.RecordBatch]:
    schema = pa.schema(LISTING_FIELDS)
    while chunk := [stored for stored, _ in itertools.islice(found, _BATCH)]:
        rows = ((s.uri, s.version, s.size, s.crc32c, None, None, None, trusted) for s in chunk)
        columns = zip(*rows, strict=True)
        yield pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


def _unreadable(found: Iterator[tuple[StoredObject, bool]], carry_columns: Sequence[str]) -> pa.RecordBatch:
    folders = [stored for stored, _ in found]
    failures = [ListedFailure(UNREADABLE_FOLDER, str(stored.error), OPTIONS) for stored in folders]
    return _with_nulls(failed_rows([stored.uri for stored in folders], failures, None), carry_columns)


def _with_nulls(batch: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
    nulls = [pa.nulls(batch.num_rows) for _ in names]
    return pa.record_batch([*batch.columns, *nulls], names=[*batch.schema.names, *names])


def _rows_of_lists(
    found: Iterator[tuple[StoredObject, bool]], options: ListOptions, taken: set[int]
) -> Iterator[pa.RecordBatch]:
    """The rows of several lists; one that cannot be read is a failure, and the others are read.

    Columns to carry that only some of them have are null for the rows of the others, which follow the rest.

    Raises:
      ListError: not one list has what the options name.
    """
    refused: list[tuple[StoredObject, ListError]] = []
    are_meant = False  # the options
    for stored, _ in found:
        try:
            for batch in read_list(stored.uri, options=options, partitions=partitions_of(stored.uri), taken=taken):
                are_meant = True
                yield batch
        except UnreadableListError as error:
            yield _unread_list(stored, error, options.carry_columns)
        except ListError as error:
            refused.append((stored, error))
    if refused and not are_meant:
        raise refused[0][1]
    for stored, refusal in refused:
        partitions = {**dict.fromkeys(options.carry_columns), **partitions_of(stored.uri)}
        try:
            yield from read_list(stored.uri, options=options, partitions=partitions, taken=taken)
            _LOGGER.warning(f"{refusal}; it is null for this list")
        except ListError as error:
            yield _unread_list(stored, error, options.carry_columns)


def _unread_list(stored: StoredObject, error: ListError, carry_columns: Sequence[str]) -> pa.RecordBatch:
    when = CONTENT if isinstance(error, UnreadableListError) else OPTIONS
    failure = ListedFailure("UnreadableList", str(error), when)
    return _with_nulls(failed_rows([stored.uri], [failure], stored.version), carry_columns)


def _members_of(
    tars: Iterator[tuple[StoredObject, bool]], contents: Contents, carry_columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """The images of tars, in order; several tars are read at once, since each waits for the network."""
    with ThreadPoolExecutor(_TARS_AHEAD) as threads:
        ahead: collections.deque[Future[pa.RecordBatch]] = collections.deque()
        try:
            for tar, _ in tars:
                ahead.append(threads.submit(list_members, tar, carry_columns))
                if len(ahead) == _TARS_AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            threads.shutdown(cancel_futures=True)


def _nothing_at(given: str, contents: Contents) -> str:
    """Why an input that is there gave no rows.

    Raises:
      InputError: it is not there.
    """
    name = public_name(given)
    if contents.found or contents.leftovers or contents.unread or contents.own:
        what = "no images" if not is_glob_of_lists(given) else "no rows"
        return f"{name} holds {what}{contents.description}"
    if not is_literal(given):
        hint = "; write [[] for a [ that is part of a name" if "[" in given else ""
        wild = "** matches across folders, * does not"
        raise InputError(f"--input: nothing matches {name}; check the spelling and the capitals ({wild}){hint}")
    storage = storage_for(given)
    if storage.is_folder(given):
        suffixes = ", ".join(IMAGE_SUFFIXES)
        others = f", but {contents.other_files}" if contents.others else ""
        return f"the folder {name} holds no images ({suffixes}){others}; for other file types give a glob"
    if is_list(given):
        return f"the list {name} is empty"
    if is_tar(given) and storage.exists(given):
        return f"the tar {name} holds no images"
    start = f"; relative paths start at {os.getcwd()}" if scheme_of(given) == "file" else ""
    raise InputError(f"--input: {name} does not exist; check the spelling{start}")
