"""What earlier runs have done, so that it is not done again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from beam_job.parquet import read_parquet
from beam_job.run import Run
from beam_job.storage import StorageError, join, scheme_of, storage_for
from beam_job.tars import container_of

KEY_SCHEMA = pa.schema([("uri", pa.string()), ("object_version", pa.string())])
_THREADS = 16
_SLICE = 200_000
# Elsewhere (the web) a question for each image of each night would cost more than it tells: there, done is done.
_LOOKED_UP = ("file", "gs")


def read_done(runs: Iterable[Run], retry: str = "transient") -> pa.Table:
    """What needs no doing: (uri, object_version) of all captions of `runs`, and of failures that are not retried.

    Args:
      runs: those whose captions can stand for the new run's, by `RunNote.captions_like`.
      retry: one of `beam_job.config.RETRY`.
    """
    tables = [KEY_SCHEMA.empty_table()]
    for run in runs:
        tables += _read_parts(run, "captions", KEY_SCHEMA.names)
        if retry != "all":
            for failures in _read_parts(run, "failures", [*KEY_SCHEMA.names, "transient"]):
                stand = failures if retry == "none" else failures.filter(pc.invert(failures["transient"]))
                tables.append(stand.select(KEY_SCHEMA.names))
    return pa.concat_tables(tables).combine_chunks()


def _read_parts(run: Run, table: str, columns: Sequence[str]) -> list[pa.Table]:
    files = storage_for(run.output).list(join(run.output, table, f"run={run.run_id}"))
    parts = [stored.uri for stored in files if stored.uri.endswith(".parquet")]

    def read(uri: str) -> pa.Table:
        return read_parquet(uri).read(columns=list(columns)).replace_schema_metadata(None)

    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(read, parts))


def without_done(listing: pa.Table, done: pa.Table) -> pa.Table:
    """The rows of `listing` that `done` does not hold, in their order.

    A local path or gs:// URI without a version (a list's) that has been done in some version is looked up first, with
    one request each. Other URIs without a version count as unchanged.
    """
    if not done.num_rows:
        return listing
    listing = _with_versions(listing, done)
    keys = _keys(done).combine_chunks()
    # Slice by slice, so that the keys of a long listing are never in memory as a whole.
    slices = [listing.slice(start, _SLICE) for start in range(0, listing.num_rows, _SLICE)]
    return pa.concat_tables(rows.filter(pc.invert(pc.is_in(_keys(rows), keys))) for rows in slices)


def _keys(table: pa.Table) -> pa.ChunkedArray:
    """URI and version as one string; a URI holds no NUL, so no two keys are the same by chance."""
    return pc.binary_join_element_wise(table["uri"], pc.fill_null(table["object_version"], ""), "\0")


def _with_versions(listing: pa.Table, done: pa.Table) -> pa.Table:
    """Fills in the versions of rows that have none and whose URI `done` holds."""
    listed, uris = listing["object_version"].combine_chunks(), listing["uri"].combine_chunks()
    unknown = pc.and_(pc.is_null(listed), pc.is_in(uris, done["uri"].combine_chunks()))
    asked = uris.filter(unknown)
    before = done.filter(pc.is_in(done["uri"], asked))
    versions_before = dict(zip(before["uri"].to_pylist(), before["object_version"].to_pylist(), strict=True))

    def version(uri: str) -> str | None:
        return _version_of(uri) if scheme_of(uri) in _LOOKED_UP else versions_before[uri]

    with ThreadPoolExecutor(_THREADS) as threads:
        found = pa.array(list(threads.map(version, asked.to_pylist())), pa.string())
    place = listing.schema.get_field_index("object_version")
    return listing.set_column(place, "object_version", pc.replace_with_mask(listed, unknown, found))


def _version_of(uri: str) -> str | None:
    """The present version; None where it cannot be told: then the image is tried again, and that gives the reason."""
    try:
        return storage_for(uri).stat(container_of(uri)).version
    except StorageError:
        return None
