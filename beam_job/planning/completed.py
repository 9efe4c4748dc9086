"""What earlier runs have done, so that it is not done again."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from beam_job.inputs.tars import container_of
from beam_job.planning.run import Run
from beam_job.storage import Allowed, StorageError, join, scheme_of, storage_for
from beam_job.storage.parquet import read_parquet

KEY_SCHEMA = pa.schema([("uri", pa.string()), ("object_version", pa.string())])
_THREADS = 16
_SLICE = 200_000
_SLICES = 8
# Elsewhere (the web) a question for each image of each night would cost more than it tells: there, done is done.
_LOOKED_UP = ("file", "gs")
# A failure that says nothing of the image: another night's options may allow it, and to ask costs nothing.
_NOT_ALLOWED = "NotAllowed"


@dataclass(frozen=True)
class CompletedPart:
    """A file of an earlier run.

    Attributes:
      uri: its place.
      only_lasting: of a failures file: transient failures, and what was not allowed, are to be tried again.
    """

    uri: str
    only_lasting: bool = False


def completed_parts(runs: Iterable[Run], retry: str = "transient") -> list[CompletedPart]:
    """The files that tell what needs no doing: all captions of `runs`, and failures unless all are retried.

    Args:
      runs: those whose captions can stand for the new run's, by `RunManifest.captions_like`.
      retry: one of `beam_job.config.RETRY`.
    """
    files: list[CompletedPart] = []
    for run in runs:
        files += [CompletedPart(uri) for uri in _parts(run, "captions")]
        if retry != "all":
            files += [CompletedPart(uri, only_lasting=retry == "transient") for uri in _parts(run, "failures")]
    return files


def read_completed(files: Iterable[CompletedPart]) -> pa.Table:
    """What needs no doing, as (uri, object_version)."""
    with ThreadPoolExecutor(_THREADS) as threads:
        tables = [KEY_SCHEMA.empty_table(), *threads.map(read_completed_part, files)]
    return pa.concat_tables(tables).combine_chunks()


def read_completed_part(file: CompletedPart) -> pa.Table:
    """(uri, object_version) of the file's rows that need no doing."""
    columns = [*KEY_SCHEMA.names, "transient", "error_type"] if file.only_lasting else KEY_SCHEMA.names
    table = read_parquet(file.uri).read(columns=columns).replace_schema_metadata(None)
    if file.only_lasting:
        table = table.filter(pc.invert(pc.or_(table["transient"], pc.equal(table["error_type"], _NOT_ALLOWED))))
    return table.select(KEY_SCHEMA.names)


def _parts(run: Run, table: str) -> list[str]:
    files = storage_for(run.output).list(join(run.output, table, f"run={run.run_id}"))
    return [stored.uri for stored in files if stored.uri.endswith(".parquet")]


def exclude_completed(listing: pa.Table, done: pa.Table, allowed: Allowed) -> pa.Table:
    """The rows of `listing` that `done` does not hold, in their order.

    A local path or gs:// URI without a version (a list's) that has been done in some version is looked up first, with
    one request each, if `allowed` lets it be read. Other URIs without a version count as unchanged.
    """
    if not done.num_rows:
        return listing
    listing = _with_versions(listing, done, allowed)
    keys = _keys(done).combine_chunks()
    # Slice by slice, so that the keys of a long listing are never in memory as a whole; in few slices, since each makes
    # a hash table of all that is done.
    size = max(_SLICE, listing.num_rows // _SLICES)
    slices = [listing.slice(start, size) for start in range(0, listing.num_rows, size)]
    return pa.concat_tables(rows.filter(pc.invert(pc.is_in(_keys(rows), keys))) for rows in slices)


def _keys(table: pa.Table) -> pa.ChunkedArray:
    """URI and version as one string; a URI holds no NUL, so no two keys are the same by chance."""
    return pc.binary_join_element_wise(table["uri"], pc.fill_null(table["object_version"], ""), "\0")


def _with_versions(listing: pa.Table, done: pa.Table, allowed: Allowed) -> pa.Table:
    """Fills in the versions of rows that have none and whose URI `done` holds."""
    listed, uris = listing["object_version"].combine_chunks(), listing["uri"].combine_chunks()
    unknown = pc.and_(pc.is_null(listed), pc.is_in(uris, done["uri"].combine_chunks()))
    asked = uris.filter(unknown)
    before = done.filter(pc.is_in(done["uri"], asked))
    versions_before = dict(zip(before["uri"].to_pylist(), before["object_version"].to_pylist(), strict=True))

    def version(uri: str) -> str | None:
        return _version_of(uri, allowed) if scheme_of(uri) in _LOOKED_UP else versions_before[uri]

    with ThreadPoolExecutor(_THREADS) as threads:
        found = pa.array(list(threads.map(version, asked.to_pylist())), pa.string())
    place = listing.schema.get_field_index("object_version")
    return listing.set_column(place, "object_version", pc.replace_with_mask(listed, unknown, found))


def _version_of(uri: str, allowed: Allowed) -> str | None:
    """The present version; None where it cannot be told: then the image is tried again, and that gives the reason."""
    try:
        file = container_of(uri)
        return storage_for(file, allowed).stat(file).version
    except StorageError:
        return None
