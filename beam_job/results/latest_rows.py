"""The latest row of each URI over all runs of an output: its caption, or the failure that came after it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from beam_job.output.formats import damaged_part, open_part
from beam_job.output.tables import FAILURE_SCHEMA, caption_schema
from beam_job.planning.damage import is_unusable
from beam_job.planning.run import is_part, run_id_of, table_folder
from beam_job.results.readable_runs import read_readable_runs
from beam_job.storage import CONTENT, LATER, OPTIONS, StorageError, StoredObject, storage_for
from beam_job.storage.version_columns import content_versions

_THREADS = 16
_TIMES = {"captions": "captioned_at", "failures": "failed_at"}
_SCHEMAS = {"captions": caption_schema(), "failures": FAILURE_SCHEMA}
_REQUIRED = {
    "captions": ("uri", "caption", "object_version", "captioned_at"),
    "failures": ("uri", "stage", "error_type", "error_message", "transient", "object_version", "failed_at"),
}
# Types that a column may have instead of the one that this version writes.
_KINDS = (
    (pa.types.is_string, pa.types.is_large_string),
    (pa.types.is_timestamp,),
    (pa.types.is_floating,),
    (pa.types.is_integer,),
)
_KEYS = pa.schema(
    [
        ("uri", pa.string()),
        ("version", pa.string()),
        ("at", pa.timestamp("ms", "UTC")),
        ("part", pa.int32()),
        ("row", pa.int32()),
        ("as_written", pa.string()),
    ]
)


@dataclass(frozen=True)
class Part:
    """A readable Parquet file of a run.

    Attributes:
      stored: as listed.
      schema: of its columns, as `read_rows` returns them.
    """

    stored: StoredObject
    schema: pa.Schema

    @property
    def run_id(self) -> str:
        """The run that wrote it, by the name of its folder."""
        return run_id_of(self.stored.uri)


@dataclass(frozen=True)
class LatestRows:
    """The latest row of each URI, as positions in the files that hold them.

    Attributes:
      captions: (part, row) of each URI's caption; `part` counts in `caption_parts`.
      failures: (part, row) of each URI that has a failure instead; `part` counts in `failure_parts`.
      caption_parts: readable files of `captions/`.
      failure_parts: readable files of `failures/`.
      left_out: a line for each file that is damaged or of a newer version.
    """

    captions: pa.Table
    failures: pa.Table
    caption_parts: Sequence[Part]
    failure_parts: Sequence[Part]
    left_out: tuple[str, ...] = ()

    def uris_of(self, run_id: str) -> set[str]:
        """The URIs of all rows that this run wrote. Raises StorageError."""
        files = [part.stored.uri for part in (*self.caption_parts, *self.failure_parts) if part.run_id == run_id]
        return {uri for file in files for uri in open_part(file).read(["uri"])["uri"].to_pylist()}


def read_latest_rows(output: str) -> LatestRows:
    """Finds the latest row of each URI.

    A URI's caption is one of its newest captioned version; among several the one that was made with the model and
    decoding options of the newest run counts, then the newest. A failure replaces it where it is newer and of another
    version of the object: a retry that failed does not make a caption wrong, other content does. Files are complete as
    soon as they can be listed, so this may run during a run.

    Raises:
      StorageError: the output cannot be listed, or a file is out of reach.
    """
    caption_parts, caption_rows, damaged_captions = _read_table(output, "captions")
    failure_parts, failure_rows, damaged_failures = _read_table(output, "failures")
    newest = _first_of_each_uri(caption_rows, [("at", "descending"), ("part", "descending")])
    failures = _first_of_each_uri(failure_rows, [("at", "descending"), ("part", "descending")])
    failures = _without_recaptioned(failures, newest)
    captions = _preferred(caption_rows, newest, _parts_like_newest_run(output, caption_parts))
    captions = captions.join(failures.select(["uri"]), "uri", join_type="left anti")
    order = [("part", "ascending"), ("row", "ascending")]
    return LatestRows(
        captions.select(["part", "row"]).sort_by(order),
        failures.select(["part", "row"]).sort_by(order),
        caption_parts,
        failure_parts,
        (*damaged_captions, *damaged_failures),
    )


def captioned_versions(output: str, uris: Collection[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Finds the versions of these URIs that any run has captioned.

    Returns:
      the versions by URI ("" for none), the newest caption's last; and a line for each file that was left out.
    """
    _, rows, left_out = _read_table(output, "captions")
    rows = rows.filter(pc.is_in(rows["uri"], pa.array(list(uris), pa.string()))).sort_by([("at", "ascending")])
    versions: dict[str, list[str]] = {}
    for uri, version in zip(rows["uri"].to_pylist(), rows["as_written"].to_pylist(), strict=True):
        versions.setdefault(uri, []).append(version)
    return versions, left_out


def read_rows(parts: Sequence[Part], positions: pa.Table, part: int) -> pa.Table:
    """The rows of file number `part` that `positions` (part, row) names: all columns, and the run's name.

    Raises:
      StorageError: the file cannot be read any more.
    """
    rows = positions.filter(pc.equal(positions["part"], part))["row"]
    try:
        return _completed(open_part(parts[part].stored.uri).read(), parts[part].run_id).take(rows)
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:
        raise damaged_part(parts[part].stored.uri, error) from error


def _read_table(output: str, table: str) -> tuple[list[Part], pa.Table, list[str]]:
    """The readable files of a table, the `_KEYS` of all their rows, and a line for each other file."""
    listed = storage_for(output).list(table_folder(output, table))
    files = sorted((file for file in listed if is_part(file.uri)), key=lambda file: file.uri)
    parts: list[Part] = []
    keys = [_KEYS.empty_table()]
    left_out: list[str] = []
    with ThreadPoolExecutor(_THREADS) as threads:
        for stored, found in zip(files, threads.map(lambda file: _read_part(file.uri, table), files), strict=True):
            if isinstance(found, StorageError):
                left_out.append(str(found))
                continue
            schema, rows = found
            number = pa.array([len(parts)] * rows.num_rows, pa.int32())
            keys.append(rows.add_column(_KEYS.get_field_index("part"), "part", number))
            parts.append(Part(stored, schema))
    return parts, pa.concat_tables(keys).combine_chunks(), left_out


def _read_part(uri: str, table: str) -> tuple[pa.Schema, pa.Table] | StorageError:
    """The schema and keys of a file. All of it is decoded, so that damage shows before anything is written."""
    try:
        rows = open_part(uri).read()
        _check_columns(rows, table)
        versions = pc.fill_null(rows["object_version"].cast(pa.string()), "")
        keys = pa.table(
            {
                "uri": rows["uri"].cast(pa.string()),
                "version": content_versions(versions),
                "at": rows[_TIMES[table]].cast(pa.timestamp("ms", "UTC"), safe=False),
                "row": pa.array(range(rows.num_rows), pa.int32()),
                "as_written": versions,
            }
        )
        return _completed(rows.slice(0, 0), "").schema, keys
    except (pa.ArrowException, OSError, ValueError) as error:
        return damaged_part(uri, error)
    except StorageError as error:
        if not is_unusable(error):
            raise  # a part that is out of reach must not be missing in silence
        return error


def _check_columns(rows: pa.Table, table: str) -> None:
    """Raises ValueError where columns are missing or of other types than a run writes."""
    for name in _REQUIRED[table]:
        if rows.schema.names.count(name) != 1:
            raise ValueError(f"it does not have exactly one column {name}")
    for field in _SCHEMAS[table]:
        found = rows.schema.field(field.name).type if field.name in rows.column_names else field.type
        if not _is_compatible(found, field.type):
            raise ValueError(f"its column {field.name} is {found} instead of {field.type}")
    for name in ("uri", _TIMES[table]):
        if rows[name].null_count:
            raise ValueError(f"its column {name} has nulls")


def _is_compatible(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a column may have this type: the same, one of the same kind, or none since all its values are null."""
    same_kind = any(
        any(is_kind(found) for is_kind in kind) and any(is_kind(wanted) for is_kind in kind) for kind in _KINDS
    )
    return found == wanted or pa.types.is_null(found) or same_kind


def _completed(table: pa.Table, run_id: str) -> pa.Table:
    """A file's rows with the run's name, and with `retry_when`, which failures of the first versions lack."""
    if "transient" in table.column_names and "retry_when" not in table.column_names:
        not_allowed = pc.equal(table["error_type"], "NotAllowed")
        when = pc.if_else(table["transient"], LATER, pc.if_else(not_allowed, OPTIONS, CONTENT))
        table = table.append_column("retry_when", when.cast(pa.string()))
    names = [name for name in table.column_names if name != "run"]
    table = table.select(names).replace_schema_metadata(None)
    return table.append_column("run", pa.array([run_id] * table.num_rows, pa.string()))


def _parts_like_newest_run(output: str, parts: Sequence[Part]) -> list[int]:
    """The numbers of the files that were captioned with the model and decoding options of the newest run."""
    manifests = read_readable_runs(output).manifests
    newest = manifests[max(manifests, key=lambda run: run.run_id)] if manifests else None
    like = {run.run_id for run, manifest in manifests.items() if newest and manifest.captions_like(newest)}
    return [number for number, part in enumerate(parts) if part.run_id in like]


def _preferred(rows: pa.Table, newest: pa.Table, like: Sequence[int]) -> pa.Table:
    """The row to show for each URI: of the version of its `newest` row, if possible in a part of `like`."""
    if not like or pc.all(pc.is_in(rows["part"], pa.array(like, pa.int32()))).as_py():
        return newest
    versions = newest.select(["uri", "version"]).rename_columns(["uri", "newest_version"])
    rows = rows.join(versions, "uri", join_type="inner")
    rows = rows.filter(pc.equal(rows["version"], rows["newest_version"]))
    rows = rows.append_column("like", pc.is_in(rows["part"], pa.array(like, pa.int32())).cast(pa.int8()))
    return _first_of_each_uri(rows, [("like", "descending"), ("at", "descending"), ("part", "descending")])


def _first_of_each_uri(rows: pa.Table, order: Sequence[tuple[str, str]]) -> pa.Table:
    """The row of each URI that comes first in `order`."""
    ordered = rows.sort_by([("uri", "ascending"), *order]).combine_chunks()
    if ordered.num_rows < 2:
        return ordered
    uris = ordered["uri"]
    changes = pc.not_equal(uris.slice(1), uris.slice(0, len(uris) - 1)).combine_chunks()
    return ordered.filter(pa.concat_arrays([pa.array([True]), changes]))


def _without_recaptioned(failures: pa.Table, captions: pa.Table) -> pa.Table:
    """The failures that no caption is newer than, nor of the same version."""
    later = captions.select(["uri", "version", "at"]).rename_columns(["uri", "caption_version", "caption_at"])
    both = failures.join(later, "uri", join_type="left outer")
    replaced = pc.and_(
        pc.greater(both["at"], both["caption_at"]), pc.not_equal(both["version"], both["caption_version"])
    )
    return both.filter(pc.fill_null(replaced, True))
