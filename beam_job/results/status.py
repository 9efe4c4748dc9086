"""`status`: the runs of an output, its current captions and failures, and what a new run would do."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from beam_job.inputs.listing import InputError
from beam_job.output.summary import format_failure
from beam_job.planning.listed_inputs import list_inputs
from beam_job.planning.new_images import NewImages, count_new, format_skipped
from beam_job.planning.run import Run, RunManifest
from beam_job.results.arguments import OutputParser, UsageError, refuse_wrong_usage, report_left_out
from beam_job.results.corrections import apply_corrections
from beam_job.results.latest_rows import read_latest_rows
from beam_job.results.missing import captioned_uris, failure_rows, find_missing, find_obsolete
from beam_job.results.readable_runs import config_of, read_readable_runs
from beam_job.results.run_status import RunStatus, read_run_status
from beam_job.storage import StorageError, public_name
from beam_job.text import counted, printable, printable_lines

_DESCRIPTION = "Shows the runs of an output, its current captions and failures, and what a new run would do."
_EPILOG = "exit codes: 0 done, 1 damaged files of the output were left out, 2 wrong usage, or no output there"
# When a failed image is tried again, by the column `retry_when`.
_RETRIED = {
    "later": "retried by the next run",
    "options": "may succeed with other options or permissions",
    "content": "retried when its content changes",
}
_SHOWN = 10  # images named


@dataclass(frozen=True)
class FailureKind:
    """Current failures of one kind.

    Attributes:
      stage: where they failed.
      error_type: of the error.
      retry_when: "later", "options" or "content", as in the failures table.
      count: number of images.
      example: the first of these images, and its message.
    """

    stage: str
    error_type: str
    retry_when: str
    count: int
    example: str


@dataclass(frozen=True)
class Status:
    """The status of an output.

    Attributes:
      runs: the oldest first.
      captions: images whose current row is a caption.
      failures: images whose current row is a failure.
      kinds: of these failures, the most frequent first; without those that are obsolete.
      missing: captioned images whose file or object no longer exists; None if that was not looked up.
      outdated: images with a correction that does not apply, since their content has changed.
      new: what a new run like the last would do; None if unknown.
      next_run: the same in words.
      obsolete: of these failures, those of files that no longer exist and of folders that can be read now; 0 if that
        was not looked up.
      edited: of the captions, those that a person has written.
      bad: of the captions, those of images that people have marked as bad.
      left_out: a line for each file that could not be read.
    """

    runs: Sequence[RunStatus]
    captions: int
    failures: int
    kinds: Sequence[FailureKind]
    missing: Sequence[str] | None
    outdated: Sequence[str]
    new: NewImages | None
    next_run: str
    obsolete: int = 0
    edited: int = 0
    bad: int = 0
    left_out: tuple[str, ...] = ()

    def to_json(self) -> str:
        """All of it, but for the words."""
        fields = dataclasses.asdict(self)
        del fields["next_run"]
        return json.dumps(fields, indent=2)

    def lines(self) -> Iterator[str]:
        """For people."""
        yield "runs:"
        for before, run in zip([None, *self.runs], self.runs, strict=False):
            is_same = before is not None and before.made_with == run.made_with
            yield f"  {run.run_id}  {run.counts}{'' if is_same else f', {run.made_with}'}"
        people = f" ({self.edited:,} edited, {self.bad:,} marked bad)" if self.edited or self.bad else ""
        yield f"current: {counted(self.captions, 'caption')}{people}, {counted(self.failures, 'failure')}"
        for kind in self.kinds:
            when = _RETRIED.get(kind.retry_when, kind.retry_when)
            yield f"  {kind.count:,} x {kind.stage}: {kind.error_type} ({when}), such as {kind.example}"
        if self.obsolete:
            yield f"  {self.obsolete:,} x files that no longer exist, or folders that can be read again"
        if self.missing:
            yield f"no longer exist: {counted(len(self.missing), 'captioned image')}"
            yield from _some(self.missing)
        if self.outdated:
            yield f"corrections that no longer apply, since the image has changed: {len(self.outdated):,}"
            yield from _some(self.outdated)
        if self.next_run:
            yield f"a new run with the last run's options: {self.next_run}"


def _some(uris: Sequence[str]) -> Iterator[str]:
    yield from (f"  {uri}" for uri in uris[:_SHOWN])
    if len(uris) > _SHOWN:
        yield f"  and {len(uris) - _SHOWN:,} more"


def read_status(output: str, list_inputs: bool = True) -> Status:
    """Reads the status of an output.

    Args:
      output: the job's output folder.
      list_inputs: list the inputs of the last run again, to say what a new run would do, and look whether captioned
        images still exist.

    Raises:
      UsageError: no run has been started there.
      StorageError: the output cannot be listed.
    """
    runs = read_readable_runs(output)
    left_out = list(runs.left_out)
    if not runs.manifests and not left_out:
        raise UsageError(f"no run has been started in {output}; is it the --output of a run?")
    latest = read_latest_rows(output)
    left_out += latest.left_out
    shown = read_run_status(output, runs.manifests, left_out)
    applied = apply_corrections(output, latest)
    outdated = [public_name(uri) for uri in applied.outdated]
    new, next_run, missing = None, "", None
    obsolete: set[str] = set()
    if list_inputs and runs.manifests:
        new, next_run = _next_run(*list(runs.manifests.items())[-1])
        missing = sorted(map(public_name, find_missing(output, captioned_uris(latest))))
        obsolete = find_obsolete(output, ((row["uri"], row["error_type"]) for row in failure_rows(latest)))
    kinds = sorted(_kinds(failure_rows(latest), obsolete), key=lambda kind: -kind.count)
    sizes = latest.captions.num_rows, latest.failures.num_rows
    people = applied.edited, applied.bad
    return Status(shown, *sizes, kinds, missing, outdated, new, next_run, len(obsolete), *people, tuple(left_out))


def _kinds(failures: Iterable[dict[str, Any]], obsolete: Collection[str]) -> list[FailureKind]:
    counts: dict[tuple[str, str, str], tuple[int, str]] = {}
    for row in failures:
        if row["uri"] not in obsolete:
            kind = row["stage"], row["error_type"], row["retry_when"]
            count, example = counts.get(kind) or (0, printable(format_failure(row["uri"], row["error_message"] or "")))
            counts[kind] = count + 1, example
    return [FailureKind(*kind, count, example) for kind, (count, example) in counts.items()]


def _next_run(run: Run, manifest: RunManifest) -> tuple[NewImages | None, str]:
    if manifest.inputs and not run.storage.exists(run.summary):
        return None, f"would resume {run.run_id}"
    try:
        config = config_of(run, manifest)
        if any(public_name(given) != given for given in config.inputs):
            return None, "unknown, since signed URLs are not stored"
        new = count_new(config, manifest, list_inputs(config))
    except InputError as error:
        return None, f"would be refused: {error}"
    except (StorageError, pa.ArrowException) as error:
        return None, f"unknown: {error}"
    if config.recaption:
        return new, f"would caption {counted(new.images, 'image')} again (--recaption)"
    retried = f" ({new.retried:,} of them retried after a failure)" if new.retried else ""
    skipped = format_skipped(new.skipped, new.failed) or "none"
    return new, f"would caption {counted(new.images, 'image')}{retried} and skip {skipped}"


@refuse_wrong_usage
def main(arguments: list[str]) -> int:
    """The command; returns its exit code: 0 done, 1 without damaged files, which are named on stderr."""
    parser = OutputParser("status", _DESCRIPTION, _EPILOG)
    parser.add_argument(
        "--no_listing",
        action="store_true",
        help="do not list the inputs again to say what a new run would do, nor look whether captioned images exist",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of text")
    args = parser.parse_args(arguments)
    status = read_status(args.output, not args.no_listing)
    if args.json:
        sys.stdout.write(status.to_json() + "\n")
    else:
        print(printable_lines("\n".join(status.lines())))
    return report_left_out(status.left_out)
