"""The commit of a shard as one atomic file.

A shard is done when its captions file exists. That file is created once and never replaced, and its metadata holds the
shard's failures, so that one atomic step decides the shard's result: of two attempts at a shard, the first to create
the file wins, whatever the other saw. The failures file is derived from it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from beam_job.output.formats import PARQUET_FORMAT, damaged_part, open_part
from beam_job.output.shard_report import ShardCounts, ShardReport
from beam_job.output.tables import failure_table
from beam_job.planning.plan import Shard
from beam_job.planning.run import Run
from beam_job.records import Failure
from beam_job.storage.parquet import parquet_bytes

_REPORT = b"caption_images.shard"
_PART = re.compile(r"part-(\d+)\.parquet")
_THREADS = 16


def commit_shard(
    run: Run,
    number: int,
    captions: pa.Table,
    failures: Sequence[Failure],
    shard: Shard,
    work: Mapping[str, int] | None = None,
    copies: int = 0,
) -> ShardReport:
    """Makes this attempt the shard's result, unless another was first.

    Args:
      run: that the shard belongs to.
      number: the shard's.
      captions: as `caption_table` makes it.
      failures: of the shard's other images.
      shard: as planned.
      work: see `ShardCounts`.
      copies: see `ShardCounts`.

    Returns:
      the report of the attempt that was first.

    Raises:
      StorageError: the files cannot be written, or the other attempt's file is damaged.
    """
    report = ShardReport.of(captions, failures, work or {}, copies)
    content = parquet_bytes(captions.replace_schema_metadata({_REPORT: report.to_json(), **PARQUET_FORMAT}))
    if not run.storage.create(run.captions(number), content):
        report = read_report(run, number)
    publish_failures(run, number, report, shard)
    return report


def publish_failures(run: Run, number: int, report: ShardReport, shard: Shard) -> None:
    """Writes the failures file that belongs to a committed shard; a repeated call writes the same file."""
    if report.failures:
        carried = shard.carried_by(failure.uri for failure in report.failures)
        table = failure_table(report.failures, carried)
        run.storage.write(run.failures(number), parquet_bytes(table.replace_schema_metadata(PARQUET_FORMAT)))


def read_report(run: Run, shard: int) -> ShardReport:
    """The report of a committed shard, from the footer of its captions file.

    Raises:
      StorageError: the file cannot be read, is damaged, or was written by a newer version.
    """
    uri = run.captions(shard)
    footer = open_part(uri).metadata
    try:
        return ShardReport.from_json(footer.num_rows, (footer.metadata or {})[_REPORT])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged_part(uri, f"its report: {error!r}") from error


def committed_shards(run: Run) -> list[int]:
    """The numbers of the shards that are done."""
    files = run.storage.list(run.captions_folder)
    names = (posixpath.basename(stored.uri) for stored in files)
    return sorted(int(match.group(1)) for match in map(_PART.fullmatch, names) if match)


def read_counts(run: Run, shards: Iterable[int]) -> Iterator[ShardCounts]:
    """The counts of these committed shards, in their order."""
    with ThreadPoolExecutor(_THREADS) as threads:
        yield from threads.map(lambda shard: read_report(run, shard).counts, shards)
