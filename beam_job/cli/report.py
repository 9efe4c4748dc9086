"""Prints the result of a run: counts, where the files are, and what to do next."""

from __future__ import annotations

import contextlib
import dataclasses
import posixpath
import shlex
import sys
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from beam_job.cli.logs import LOGGER
from beam_job.records import RUN_ENDED
from beam_job.storage import StorageError, public_name
from beam_job.text import command_name, counted, printable

if TYPE_CHECKING:
    from beam_job.config import JobConfig
    from beam_job.output.summary import Summary
    from beam_job.planning.run import Run

_SHOWN = 5  # captions
_LEFT = f"caption: {RUN_ENDED}"
_SHARDS_READ = 100  # for examples of failures


def report(summary: Summary, config: JobConfig, examples: bool = True) -> int:
    """Logs the summary of a finished run, on a terminal with examples; returns the exit code.

    That is 1 if too many images failed.
    """
    fields = dataclasses.asdict(summary)
    del fields["options"]
    rate = "" if summary.images_per_second is None else f" ({summary.images_per_second:.1f} images/s)"
    left = f" ({summary.left:,} left for the next run)" if summary.left else ""
    LOGGER.info(
        f"{counted(summary.captions, 'caption')} and {counted(summary.failures - summary.left, 'failure')} of "
        f"{counted(summary.inputs, 'image')}{left} in {summary.seconds:.1f} s{rate}",
        extra={"fields": fields},
    )
    for name, text in _lines(summary, config):
        LOGGER.info(f"  {name:<8}  {text}")
    if examples and sys.stderr.isatty():  # a log needs none
        for line in first_captions(summary, config.output):
            LOGGER.info(f"  {line}")
    if summary.failure_ratio <= config.max_failure_ratio:
        return 0
    LOGGER.error(
        f"{summary.failure_ratio:.0%} of the images failed, more than --max_failure_ratio={config.max_failure_ratio}"
    )
    return 1


def _lines(summary: Summary, config: JobConfig) -> Iterator[tuple[str, str]]:
    """A heading, empty where the line continues the one above, and its text."""
    from beam_job.planning.run import Run  # here, since `--help` does without Arrow

    run = Run(config.output, summary.run_id)
    yield "captions", run.captions_folder
    if summary.low_confidence is not None:
        share = summary.low_confidence / max(summary.captions, 1)
        unscored = summary.captions - sum(summary.scores.values())
        without = f"; {unscored:,} have no score, so low_confidence is null" if unscored else ""
        yield (
            "",
            f"{summary.low_confidence:,} ({share:.0%}) below --min_score={config.min_score}: low_confidence{without}",
        )
    if summary.copies is not None:
        yield (
            "",
            f"{counted(summary.copies, 'image')} with the caption of an identical image (--dedupe=content)",
        )
    if summary.failures:
        yield "failures", run.failures_folder
    examples = first_failures(run, summary.failures_by_reason)
    for reason, count in summary.failures_by_reason.items():
        example = f", such as {examples[reason]}" if reason in examples else ""
        more = " (left for the next run)" if reason == _LEFT else example
        yield "", printable(f"{count:,} x {reason}{more}")
    if summary.counts:
        yield "counted", ", ".join(f"{count:,} {printable(name)}" for name, count in summary.counts.items())
    if summary.page is not None:
        yield "page", summary.page
    if summary.model_share is not None:
        waits = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in summary.wait_seconds.items())
        yield "time", f"model busy {summary.model_share:.0%}; waiting for {waits}"
    output = shlex.quote(config.output)
    yield "next", f"{command_name()} snapshot --output={output} --to=DIR, or export, or status"


def first_failures(run: Run, reasons: Collection[str]) -> dict[str, str]:
    """The first failure for each reason in words; none where the first shards hold none or cannot be read."""
    from beam_job.output.sink import committed_shards, read_report  # here, since `--help` does without Arrow
    from beam_job.output.summary import format_failure

    found: dict[str, str] = {}
    with contextlib.suppress(StorageError):  # no example is worth an error at the end of a run
        for shard in committed_shards(run)[:_SHARDS_READ] if reasons else ():
            for failure in read_report(run, shard).failures:
                reason = f"{failure.stage}: {failure.error_type}"
                found.setdefault(reason, format_failure(failure.uri, failure.error_message))
            if found.keys() >= set(reasons):
                break
    return found


def first_captions(summary: Summary, output: str) -> list[str]:
    """A line for each of the first images of a run: its caption, and its file's name; none if they cannot be read."""
    from beam_job.output.formats import open_part  # here, since `--help` does without Arrow
    from beam_job.planning.run import Run

    try:
        rows = open_part(Run(output, summary.run_id).captions(0)).read(["uri", "caption"])[:_SHOWN].to_pylist()
    except StorageError:  # no example is worth an error at the end of a run
        return []
    names = [printable(posixpath.basename(public_name(row["uri"]))) for row in rows]
    width = max(map(len, names), default=0)
    return [f"{name:<{width}}  {printable(row['caption'])}" for name, row in zip(names, rows, strict=True)]
