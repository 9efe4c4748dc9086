"""The images that earlier runs have completed, which are not captioned again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_job.inputs.tars import container_of
from beam_job.planning.damage import is_damaged, naming_damage, warn
from beam_job.planning.keys import KEY_BYTES, URI_BYTES, Keys, KeySet, uri_keys, version_keys
from beam_job.planning.run import Run, RunManifest, is_part
from beam_job.storage import CONTENT, Allowed, StorageError, scheme_of, storage_for
from beam_job.storage.parquet import read_parquet
from beam_job.storage.version_columns import content_versions, listed_versions

Limits = Mapping[str, int | None]

_THREADS = 16
_PARTS_AT_ONCE = 1_000
# Elsewhere (the web) a request for each image of each night would cost more than it is worth: there, what was completed
# stays completed.
_LOOKED_UP = ("file", "gs")
# Failures that a limit caused: final until the limit is less strict.
_LIMIT_OF = {"TooManyPixels": "max_pixels", "TooLarge": "max_bytes", "TooSmall": "min_bytes"}
# Of failures that earlier versions called permanent: what was not read, a decoder's deadline, a limit, a missing extra.
_OLD_STAGES = ("list", "fetch")
_OLD_TYPES = ("DecoderError", "NotAllowed")
_OLD_MESSAGES = "more than the limit of|needs pillow-heif"


@dataclass(frozen=True)
class CompletedPart:
    """A file of an earlier run whose images need not be captioned, or some of them.

    Attributes:
      uri: of the file.
      is_failures: whether it is a failures file.
      only_final: of a failures file: only final failures count, the others are retried.
      strict: limits by name that are still as strict as they were; failures that they caused are final.
    """

    uri: str
    is_failures: bool = False
    only_final: bool = False
    strict: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Completed:
    """What earlier runs have completed.

    Attributes:
      captioned: keys of captioned images in their versions (`keys.version_keys`).
      failed: keys of failed images in their versions whose failures another run would only repeat.
      retried: keys of URIs whose failures are retried.
    """

    captioned: KeySet
    failed: KeySet
    retried: KeySet

    def __len__(self) -> int:
        return len(self.captioned) + len(self.failed)

    def contains(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """bool[rows]: which of these are completed; keys of URIs or of URIs in their versions."""
        return self.captioned.contains(keys) | self.failed.contains(keys)

    def have_failed(self, uris: Keys) -> npt.NDArray[np.bool_]:
        """bool[rows]: which of these completed URIs have no caption."""
        return ~self.captioned.contains(uris)


def completed_parts(runs: Mapping[Run, RunManifest], retry: str, limits: Limits) -> list[CompletedPart]:
    """The files of `runs` that name completed images: all captions, and failures unless all are retried.

    Args:
      runs: those whose captions are as wanted, by `RunManifest.captions_like`.
      retry: one of `beam_job.config.RETRY`.
      limits: in force now.
    """
    parts: list[CompletedPart] = []
    for run, manifest in runs.items():
        parts += [CompletedPart(uri) for uri in _files(run.captions_folder)]
        if retry != "all":
            strict = frozenset(name for name in limits if _is_as_strict(name, manifest.limits, limits))
            only_final = retry == "transient"
            parts += [CompletedPart(uri, True, only_final, strict) for uri in _files(run.failures_folder)]
    return parts


def read_completed(parts: Sequence[CompletedPart], on_damaged: Callable[[StorageError], None] = warn) -> Completed:
    """Reads what is completed.

    Args:
      parts: as `completed_parts` gives them.
      on_damaged: called for each damaged file; its images count as not completed.

    Raises:
      StorageError: a file cannot be read.
    """

    def read(part: CompletedPart) -> tuple[Keys, Keys] | StorageError:
        try:
            return read_completed_part(part)
        except StorageError as error:
            if not is_damaged(error):
                raise
            return error

    completed = Completed(KeySet(KEY_BYTES), KeySet(KEY_BYTES), KeySet(URI_BYTES))
    with ThreadPoolExecutor(_THREADS) as threads:
        for start in range(0, len(parts), _PARTS_AT_ONCE):
            some = parts[start : start + _PARTS_AT_ONCE]
            for part, found in zip(some, threads.map(read, some), strict=True):
                if isinstance(found, StorageError):
                    on_damaged(found)
                    continue
                (completed.failed if part.is_failures else completed.captioned).add(found[0])
                completed.retried.add(found[1])
    return completed


def read_completed_part(part: CompletedPart) -> tuple[Keys, Keys]:
    """S16[keys]: the keys of the file's completed images in their versions; S10[keys] of the URIs to be tried again.

    Raises:
      StorageError: it cannot be read or is damaged.
    """
    columns = ["uri", "object_version"]
    if part.only_final:
        columns += ["transient", "retry_when", "stage", "error_type", "error_message"]
    remedy = (
        "its images count as not completed and are captioned again; restore the file, or delete it to stop this message"
    )
    with naming_damage(part.uri, remedy):
        table = read_parquet(part.uri).read(columns=columns)
        if not part.only_final:
            return _keys_of(table), uri_keys(table["uri"][:0])
        is_final = _is_final(table, part.strict)
        return _keys_of(table.filter(is_final)), uri_keys(table["uri"].filter(pc.invert(is_final)))


def _keys_of(table: pa.Table) -> Keys:
    """The keys of an image's listed version and, if it was read, of its content."""
    uris, versions = uri_keys(table["uri"]), table["object_version"].cast(pa.string())
    listed, content = listed_versions(versions), content_versions(versions)
    is_read = pc.fill_null(pc.not_equal(listed, content), False).to_numpy()
    return np.concatenate([version_keys(uris, listed), version_keys(uris[is_read], content.filter(pa.array(is_read)))])


def exclude_completed(
    listing: pa.Table, completed: Completed | KeySet, allowed: Allowed, uris: Keys | None = None
) -> pa.Table:
    """The rows of `listing` that are not in `completed`, in their order.

    A local path or gs:// URI that the listing gives no version for, and that has been completed in some version, is
    looked up first, with one request each, if `allowed` lets it be read. Other URIs without a version count as
    unchanged. A local file whose size or time has changed is read: it may hold what it held before.

    Args:
      listing: rows with `LISTING_FIELDS`.
      completed: as `read_completed` gives it.
      allowed: what may be read.
      uris: `uri_keys` of the listing, if they are known.
    """
    if not len(completed):
        return listing
    uris = uri_keys(listing["uri"]) if uris is None else uris
    known = np.zeros(listing.num_rows, bool)
    no_version = listing["object_version"].is_null().to_numpy()
    known[no_version] = completed.contains(uris[no_version])
    looked_up = _are_looked_up(listing["uri"], known)
    if looked_up.any():
        listing = _with_present_versions(listing, looked_up, allowed)
    unchanged = completed.contains(version_keys(uris, listing["object_version"]))
    unchanged |= known & ~looked_up
    changed = ~unchanged
    changed[changed] = completed.contains(uris[changed])
    unchanged[changed] = _hold_the_same(listing.filter(pa.array(changed)), uris[changed], completed, allowed)
    return listing.filter(pa.array(~unchanged))


def _hold_the_same(
    listing: pa.Table, keys: Keys, completed: Completed | KeySet, allowed: Allowed
) -> npt.NDArray[np.bool_]:
    """bool[rows]: which of these files have content that was completed, by a hash of it."""
    asked = listing.select(["uri", "is_trusted"]).to_pylist()
    with ThreadPoolExecutor(_THREADS) as threads:
        found = threads.map(lambda row: _read_version(row["uri"], allowed.of(row["is_trusted"])), asked)
        versions = pa.array(list(found), pa.string())
    is_read = versions.is_valid().to_numpy(zero_copy_only=False)
    return is_read & completed.contains(version_keys(keys, content_versions(versions)))


def _read_version(uri: str, allowed: Allowed) -> str | None:
    """The version of a local file with its content's hash; None for others, and where it cannot be read."""
    if scheme_of(uri) != "file" or container_of(uri) != uri:
        return None
    try:
        return storage_for(uri, allowed).read(uri)[1]
    except StorageError:
        return None


def _files(folder: str) -> list[str]:
    return [stored.uri for stored in storage_for(folder).list(folder) if is_part(stored.uri)]


def _is_as_strict(name: str, before: Limits, now: Limits) -> bool:
    """Whether what failed for this limit before fails again; where the earlier run did not record it, it may pass."""
    if name not in before:
        return False
    then, today = before[name], now[name]
    if then is None or today is None:
        return then == today or then is None
    return today >= then if name.startswith("min_") else today <= then


def _is_final(failures: pa.Table, strict: frozenset[str]) -> pa.ChunkedArray:
    """Which failures another run would only repeat, as long as the image's version is the same."""
    if "retry_when" not in failures.column_names:
        return pc.invert(_is_retried_of_old_version(failures))
    limited = [error for error, limit in _LIMIT_OF.items() if limit in strict]
    types = pa.array([*limited, *(f"{error}Error" for error in limited)], pa.string())
    return pc.or_(pc.equal(failures["retry_when"], CONTENT), pc.is_in(failures["error_type"], types))


def _is_retried_of_old_version(failures: pa.Table) -> pa.ChunkedArray:
    """Failures that a version without the column `retry_when` wrote, and that this one would not call final."""
    retried = pc.or_(failures["transient"], pc.is_in(failures["stage"], pa.array(_OLD_STAGES)))
    retried = pc.or_(retried, pc.is_in(failures["error_type"], pa.array(_OLD_TYPES)))
    return pc.or_(retried, pc.match_substring_regex(failures["error_message"], _OLD_MESSAGES))


def _are_looked_up(uris: pa.ChunkedArray, known: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """bool[rows]: which of the `known` rows lie where asking for the present version is cheap."""
    looked_up = known.copy()
    asked: Iterable[str] = uris.filter(pa.array(known)).to_pylist()
    looked_up[known] = [scheme_of(uri) in _LOOKED_UP for uri in asked]
    return looked_up


def _with_present_versions(listing: pa.Table, rows: npt.NDArray[np.bool_], allowed: Allowed) -> pa.Table:
    """Fills in the versions of these rows."""
    mask = pa.array(rows)
    with ThreadPoolExecutor(_THREADS) as threads:
        asked = listing.select(["uri", "is_trusted"]).filter(mask).to_pylist()
        versions_of = threads.map(lambda row: _present_version(row["uri"], allowed.of(row["is_trusted"])), asked)
        found = pa.array(list(versions_of), pa.string())
    versions = pc.replace_with_mask(listing["object_version"].combine_chunks(), mask, found)
    return listing.set_column(listing.schema.get_field_index("object_version"), "object_version", versions)


def _present_version(uri: str, allowed: Allowed) -> str | None:
    """None where it cannot be found out: then the image is tried again, and its failure gives the reason."""
    try:
        file = container_of(uri)
        return storage_for(file, allowed).stat(file).version
    except StorageError:
        return None
