"""What stands for each URI over all runs of an output: its newest caption, or the failure that came after it."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from beam_job.storage import StoredObject, join, storage_for
from beam_job.storage.parquet import read_parquet

_THREADS = 16
_TIMES = {"captions": "captioned_at", "failures": "failed_at"}


@dataclass(frozen=True)
class Outcomes:
    """The rows that stand, as places in the files that hold them.

    Attributes:
      captions: (part, row) of each URI's caption; `part` counts in `caption_parts`.
      failures: (part, row) of each URI that has a failure instead; `part` counts in `failure_parts`.
      caption_parts: files of `captions/`.
      failure_parts: files of `failures/`.
    """

    captions: pa.Table
    failures: pa.Table
    caption_parts: Sequence[StoredObject]
    failure_parts: Sequence[StoredObject]


def read_outcomes(output: str) -> Outcomes:
    """Which rows of an output stand.

    A failure stands where no caption of its URI is newer, nor of the same version of the object: trying again in vain
    does not make a caption wrong, but another content does. A URI with a standing failure has no standing caption.
    Files are whole from the moment they can be seen, so this may run while a run is under way.
    """
    caption_parts, failure_parts = _parts(output, "captions"), _parts(output, "failures")
    captions = _newest(_rows(caption_parts, "captions"))
    failures = _newest(_rows(failure_parts, "failures"))
    standing = _standing(failures, captions)
    captions = captions.join(standing.select(["uri"]), "uri", join_type="left anti")
    order = [("part", "ascending"), ("row", "ascending")]
    return Outcomes(
        captions.select(["part", "row"]).sort_by(order),
        standing.select(["part", "row"]).sort_by(order),
        caption_parts,
        failure_parts,
    )


def captioned_versions(output: str, uris: Collection[str]) -> dict[str, list[str]]:
    """The versions of these URIs that any run has captioned ("" for none), the newest caption's last."""
    rows = _rows(_parts(output, "captions"), "captions")
    rows = rows.filter(pc.is_in(rows["uri"], pa.array(list(uris), pa.string()))).sort_by([("at", "ascending")])
    versions: dict[str, list[str]] = {}
    for uri, version in zip(rows["uri"].to_pylist(), rows["version"].to_pylist(), strict=True):
        versions.setdefault(uri, []).append(version)
    return versions


def read_rows(parts: Sequence[StoredObject], places: pa.Table, part: int) -> pa.Table:
    """The rows of file number `part` that `places` (part, row) names, all columns and the run's name."""
    rows = places.filter(pc.equal(places["part"], part))["row"]
    table = read_parquet(parts[part].uri).read().replace_schema_metadata(None).take(rows)
    run = parts[part].uri.split("/")[-2].removeprefix("run=")
    return table.append_column("run", pa.array([run] * table.num_rows, pa.string()))


def common_schema(parts: Sequence[StoredObject]) -> pa.Schema:
    """A schema with the columns of all files; runs may have carried different ones."""

    def schema(part: StoredObject) -> pa.Schema:
        return read_parquet(part.uri).schema_arrow.remove_metadata()

    with ThreadPoolExecutor(_THREADS) as threads:
        return pa.unify_schemas(list(threads.map(schema, parts)), promote_options="permissive")


def _parts(output: str, table: str) -> list[StoredObject]:
    files = storage_for(output).list(join(output, table))
    return sorted((file for file in files if file.uri.endswith(".parquet")), key=lambda file: file.uri)


def _rows(parts: Sequence[StoredObject], table: str) -> pa.Table:
    """(uri, version, at, part, row) of all rows of all files."""
    empty = _keys(pa.table({"uri": pa.array([], pa.string()), "object_version": [], _TIMES[table]: []}), table, 0)
    with ThreadPoolExecutor(_THREADS) as threads:
        read = functools.partial(_read_keys, table=table)
        return pa.concat_tables([empty, *threads.map(read, parts, range(len(parts)))]).combine_chunks()


def _read_keys(stored: StoredObject, part: int, table: str) -> pa.Table:
    columns = ["uri", "object_version", _TIMES[table]]
    return _keys(read_parquet(stored.uri).read(columns=columns), table, part)


def _keys(rows: pa.Table, table: str, part: int) -> pa.Table:
    return pa.table(
        {
            "uri": rows["uri"].cast(pa.string()),
            "version": pc.fill_null(rows["object_version"].cast(pa.string()), ""),
            "at": rows[_TIMES[table]].cast(pa.timestamp("ms", "UTC")),
            "part": pa.array([part] * rows.num_rows, pa.int32()),
            "row": pa.array(range(rows.num_rows), pa.int32()),
        }
    )


def _newest(rows: pa.Table) -> pa.Table:
    """Of each URI the row with the latest time; of equal times the one of the later run."""
    ordered = rows.sort_by([("uri", "ascending"), ("at", "descending"), ("part", "descending")]).combine_chunks()
    if ordered.num_rows < 2:
        return ordered
    uris = ordered["uri"]
    changes = pc.not_equal(uris.slice(1), uris.slice(0, len(uris) - 1)).combine_chunks()
    return ordered.filter(pa.concat_arrays([pa.array([True]), changes]))


def _standing(failures: pa.Table, captions: pa.Table) -> pa.Table:
    later = captions.select(["uri", "version", "at"]).rename_columns(["uri", "caption_version", "caption_at"])
    both = failures.join(later, "uri", join_type="left outer")
    replaced = pc.and_(
        pc.greater(both["at"], both["caption_at"]), pc.not_equal(both["version"], both["caption_version"])
    )
    return both.filter(pc.fill_null(replaced, True))
