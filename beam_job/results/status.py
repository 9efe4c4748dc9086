"""`status`: the runs of an output, its current captions and failures, and what a new run would do."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from beam_job.inputs.listing import InputError
from beam_job.output.formats import check_format
from beam_job.planning.prepare import count_new, list_inputs
from beam_job.planning.run import Run, RunManifest
from beam_job.results.arguments import OutputParser, refuse_wrong_usage, report_left_out
from beam_job.results.latest_rows import LatestRows, read_latest_rows, read_rows
from beam_job.results.readable_runs import config_of, read_readable_runs
from beam_job.storage import StorageError, public_name
from beam_job.text import counted, printable_lines

_DESCRIPTION = "Shows the runs of an output, its current captions and failures, and what a new run would do."
_EPILOG = "exit codes: 0 done, 1 damaged files of the output were left out, 2 wrong usage"
# When a failed image is tried again, by the column `retry_when`.
_RETRIED = {
    "later": "tried again by the next run",
    "options": "may succeed with other options or permissions",
    "content": "tried again when its content changes",
}


@dataclass(frozen=True)
class Status:
    """The status of an output.

    Attributes:
      text: for people, a line for each run and each reason of failure.
      left_out: a line for each file that could not be read.
    """

    text: str
    left_out: tuple[str, ...] = ()


def read_status(output: str, list_inputs: bool = True) -> Status:
    """Reads the status of an output.

    Args:
      output: the job's output folder.
      list_inputs: list the inputs of the last run again, to say what a new run would do.

    Raises:
      StorageError: the output cannot be listed.
    """
    runs = read_readable_runs(output)
    left_out = list(runs.left_out)
    if not runs.manifests and not left_out:
        return Status(f"no run has been started in {output}")
    latest = read_latest_rows(output)
    left_out += latest.left_out
    lines = ["runs:"]
    for run, manifest in runs.manifests.items():
        try:
            lines.append(f"  {_format_run(run, manifest)}")
        except StorageError as error:
            lines.append(f"  {run.run_id}  ended, summary damaged, model {manifest.model}")
            left_out.append(str(error))
    captions, failures = latest.captions.num_rows, latest.failures.num_rows
    lines.append(f"current: {counted(captions, 'caption')}, {counted(failures, 'failure')}")
    lines += [f"  {count:,} x {reason}" for reason, count in _count_reasons(latest).most_common()]
    if list_inputs and runs.manifests:
        run, manifest = list(runs.manifests.items())[-1]
        lines.append(f"a new run with the last run's options: {_next_run(run, manifest)}")
    return Status("\n".join(lines), tuple(left_out))


def _format_run(run: Run, manifest: RunManifest) -> str:
    """A run's line. Raises StorageError where its summary is damaged."""
    if not manifest.inputs:
        return f"{run.run_id}  nothing to do, {manifest.skipped:,} already done, model {manifest.model}"
    if not run.storage.exists(run.summary):
        return f"{run.run_id}  not finished, {counted(manifest.inputs, 'image')} planned, model {manifest.model}"
    summary = _read_summary(run)
    ended = "done" if run.storage.exists(run.success) else "too many failures"
    captions, failures = counted(summary["captions"], "caption"), counted(summary["failures"], "failure")
    rate = "" if summary["images_per_second"] is None else f", {summary['images_per_second']} images/s"
    skipped = f"{manifest.skipped:,} already done"
    return f"{run.run_id}  {ended}, {captions}, {failures}, {skipped}{rate}, model {manifest.model}"


def _read_summary(run: Run) -> Mapping[str, Any]:
    content, _ = run.storage.read(run.summary)
    try:
        summary = json.loads(content)
        check_format(run.summary, summary.get("format"))
        rate = summary["images_per_second"]
        numbers = {name: int(summary[name]) for name in ("captions", "failures")}
        return {**numbers, "images_per_second": None if rate is None else float(rate)}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(
            f"{run.summary} is damaged ({error!r}); remove it, and repeat that run's command to write it again"
        ) from error


def _count_reasons(latest: LatestRows) -> Counter[str]:
    reasons: Counter[str] = Counter()
    for part in pc.unique(latest.failures["part"]).to_pylist():
        for row in read_rows(latest.failure_parts, latest.failures, part).to_pylist():
            when = row["retry_when"]
            reasons[f"{row['stage']}: {row['error_type']} ({_RETRIED.get(when, when)})"] += 1
    return reasons


def _next_run(run: Run, manifest: RunManifest) -> str:
    if manifest.inputs and not run.storage.exists(run.summary):
        return f"would resume {run.run_id}"
    try:
        config = config_of(run, manifest)
        if any(public_name(given) != given for given in config.inputs):
            return "unknown, since signed URLs are not stored"
        new = count_new(config, manifest, list_inputs(config))
    except InputError as error:
        return f"would be refused: {error}"
    except (StorageError, pa.ArrowException) as error:
        return f"unknown: {error}"
    if config.recaption:
        return f"would caption {counted(new.images, 'image')} again (--recaption)"
    return f"would caption {counted(new.images, 'image')} and skip {new.skipped:,} already done"


@refuse_wrong_usage
def main(arguments: list[str]) -> int:
    """The command; returns its exit code: 0 done, 1 without damaged files, which are named on stderr."""
    parser = OutputParser("status", _DESCRIPTION, _EPILOG)
    parser.add_argument(
        "--no_listing", action="store_true", help="do not list the inputs again to say what a new run would do"
    )
    args = parser.parse_args(arguments)
    status = read_status(args.output, not args.no_listing)
    print(printable_lines(status.text))
    return report_left_out(status.left_out)
