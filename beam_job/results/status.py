"""`status`: the runs of an output, what stands, and what a new run would do."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping

import pyarrow.compute as pc

from beam_job.config import JobConfig
from beam_job.inputs.listing import InputError
from beam_job.planning.prepare import count_new, list_inputs
from beam_job.planning.run import Run, RunManifest, read_runs
from beam_job.results.latest_rows import Outcomes, read_outcomes, read_rows
from beam_job.storage import public_name
from beam_job.text import counted, printable_lines


def describe(output: str, list_inputs: bool = True) -> str:
    """The status as text, a line for each run and each reason.

    Args:
      output: of the job.
      list_inputs: list the inputs of the last run again, to tell what a new run would do.
    """
    runs = read_runs(output)
    if not runs:
        return f"no run has begun in {output}"
    outcomes = read_outcomes(output)
    lines = ["runs:", *(f"  {_run_line(run, note)}" for run, note in runs.items())]
    lines.append(
        f"standing: {counted(outcomes.captions.num_rows, 'caption')}, {counted(outcomes.failures.num_rows, 'failure')}"
    )
    lines += [f"  {count:,} x {reason}" for reason, count in _reasons(outcomes).most_common()]
    if list_inputs:
        run, note = list(runs.items())[-1]
        lines.append(f"a new run with the last one's options: {_next_run(run, note)}")
    return "\n".join(lines)


def _run_line(run: Run, note: RunManifest) -> str:
    if not run.storage.exists(run.summary):
        return f"{run.run_id}  not ended, {counted(note.inputs, 'image')} planned, model {note.model}"
    summary: Mapping[str, object] = json.loads(run.storage.read(run.summary)[0])
    ended = "done" if run.storage.exists(run.success) else "too many failures"
    return (
        f"{run.run_id}  {ended}, {summary['captions']:,} captions, {summary['failures']:,} failures, "
        f"{note.skipped:,} skipped, {summary['images_per_second']} images/s, model {note.model}"
    )


def _reasons(outcomes: Outcomes) -> Counter[str]:
    reasons: Counter[str] = Counter()
    for part in pc.unique(outcomes.failures["part"]).to_pylist():
        for row in read_rows(outcomes.failure_parts, outcomes.failures, part).to_pylist():
            kind = "transient" if row["transient"] else "permanent"
            reasons[f"{row['stage']}: {row['error_type']} ({kind})"] += 1
    return reasons


def _next_run(run: Run, note: RunManifest) -> str:
    if not run.storage.exists(run.summary):
        return f"would continue {run.run_id}"
    if any(public_name(given) != given for given in note.request["inputs"]):
        return "not told, since runs keep no signed addresses"
    config = JobConfig.from_request(note.request, run.output)
    try:
        new = count_new(config, note, list_inputs(config))
    except InputError as error:
        return f"would refuse: {error}"
    return f"would caption {counted(new.images, 'image')} and skip {new.skipped:,} done before"


def main(arguments: list[str]) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="caption-images status", description="The runs of an output, what stands, and what a new run would do."
    )
    parser.add_argument("--output", required=True, metavar="FOLDER", help="of the job")
    parser.add_argument(
        "--no_listing", action="store_true", help="do not list the inputs again to tell what a new run would do"
    )
    args = parser.parse_args(arguments)
    print(printable_lines(describe(args.output, not args.no_listing)))
    return 0
