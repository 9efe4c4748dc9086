"""The command `caption-images`: dispatches to a run or a subcommand, and reports how it ended."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from beam_job.cli.log_format import json_line, stderr_in_json, tell, wants_json
from beam_job.cli.options import UsageError, parse
from beam_job.cli.quiet import quiet_stderr
from beam_job.cli.signals import Stopped, end_process, stop_on_signals
from beam_job.runners.dataflow import DataflowError, with_dataflow
from beam_job.storage import StorageError, without_secrets
from beam_job.text import counted, printable, printable_lines

if TYPE_CHECKING:
    from beam_job.config import JobConfig
    from beam_job.output.summary import Summary

_HINTS = {"list: NotAllowed": " (error_message says which option would let it be read)"}


# Their modules, imported only when they are asked for.
_SUBCOMMANDS = {
    "correct": "beam_job.results.correct",
    "demo": "beam_job.cli.demo",
    "export": "beam_job.results.export.command",
    "snapshot": "beam_job.results.snapshot",
    "status": "beam_job.results.status",
}


def command() -> None:
    """`main` with the process's end; where the job broke, threads may hang in a read and are not waited for."""
    code = main()
    if code == 1:
        end_process(code)
    sys.exit(code)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code: 0 done, 1 broken or too many failures, 2 wrong usage.

    Where a signal stops it, the process ends here, with 130 (Ctrl-C) or 143 (SIGTERM).
    """
    given = sys.argv[1:] if arguments is None else arguments
    again = _same_command(given)
    in_json = wants_json(given)
    with (
        stderr_in_json() if in_json else contextlib.nullcontext(),
        stop_on_signals(
            f"caption-images: stopped in haste; to go on: {again}", json_line if in_json else str
        ) as terminal,
    ):
        try:
            return _run(given)
        except Stopped as stopped:
            terminal.say(f"caption-images: stopped; {stopped.standing}; to go on: {again}")
            end_process(stopped.exit_code)


def _same_command(given: Sequence[str]) -> str:
    """The command for people to give again, as a shell takes it; a signature in an input they must add themselves."""
    values = [argument.partition("=")[2] if argument.startswith("--") else argument for argument in given]
    return printable(_without_secrets(shlex.join(["caption-images", *given]), values))


def _run(given: list[str]) -> int:
    if given and given[0] in _SUBCOMMANDS:
        return _subcommand(given[0], given[1:])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported, here and in worker processes
    try:
        config, beam_arguments = with_dataflow(*parse(given))
    except (UsageError, DataflowError) as error:
        return _refuse(error)

    # Only now: --help and wrong usage answer without waiting for Beam.
    with quiet_stderr(config.verbose):
        from beam_job.captioning.captioners import CaptionerError
        from beam_job.cli.job import BrokenOffError, JobError, run_job
        from beam_job.inputs.listing import InputError
        from beam_job.output.summary import RowCountError
        from beam_job.planning.lease import LeaseError
        from beam_job.runners.beam_options import RunnerError
        from beam_job.runners.preflight import PreflightError
        from model import BundleError
        from model.devices import NoGpuError
        from model.engine_choice import EngineError

    refused = (
        BundleError,
        CaptionerError,
        EngineError,
        InputError,
        LeaseError,
        NoGpuError,
        PreflightError,
        RunnerError,
        StorageError,
    )
    try:
        summary = run_job(config, beam_arguments)
    except refused as error:
        return _refuse(error, config.inputs)
    except (JobError, RowCountError) as error:
        if config.verbose or not isinstance(error, BrokenOffError):
            print(printable_lines(_without_secrets(traceback.format_exc(), config.inputs)), end="", file=sys.stderr)
        print(f"caption-images: {printable(_without_secrets(str(error), config.inputs))}", file=sys.stderr)
        return 1
    return 0 if summary is None else _report(summary, config)


def _report(summary: Summary, config: JobConfig) -> int:
    """Tells what the run came to, and what to do with it; the exit code."""
    figures = dataclasses.asdict(summary)
    del figures["options"]
    rate = "" if summary.images_per_second is None else f" ({summary.images_per_second:.1f} images/s)"
    tell(
        f"{counted(summary.captions, 'caption')} and {counted(summary.failures, 'failure')} of "
        f"{counted(summary.inputs, 'image')} "
        f"in {summary.seconds:.1f} s{rate}",
        **figures,
    )
    rows = [("captions", f"{config.output}/captions/run={summary.run_id}")]
    if summary.low_confidence is not None:
        share = summary.low_confidence / max(summary.captions, 1)
        rows.append(
            ("", f"{summary.low_confidence:,} ({share:.0%}) below --min_score={config.min_score}: low_confidence")
        )
    if summary.failures:
        rows.append(("failures", f"{config.output}/failures/run={summary.run_id}"))
    for reason, count in summary.failures_by_reason.items():
        rows.append(("", f"{count:,} x {printable(reason)}{_HINTS.get(reason, '')}"))
    if summary.page is not None:
        rows.append(("page", summary.page))
    if summary.model_share is not None:
        waited = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in summary.wait_seconds.items())
        rows.append(("time", f"model busy {summary.model_share:.0%}; it waited for {waited}"))
    rows.append(
        ("next", f"caption-images snapshot --output={shlex.quote(config.output)} --to=DIR, or export, or status")
    )
    for name, text in rows:
        tell(f"  {name:<8}  {text}")
    if summary.failure_ratio <= config.max_failure_ratio:
        return 0
    tell(
        f"caption-images: {summary.failure_ratio:.0%} of the images failed, more than "
        f"--max_failure_ratio={config.max_failure_ratio}"
    )
    return 1


def _subcommand(name: str, arguments: list[str]) -> int:
    try:
        return int(importlib.import_module(_SUBCOMMANDS[name]).main(arguments))
    except StorageError as error:
        return _refuse(error)


def _refuse(error: Exception, inputs: Sequence[str] = ()) -> int:
    print(f"caption-images: {printable(_without_secrets(str(error), inputs))}", file=sys.stderr)
    return 2


def _without_secrets(text: str, inputs: Sequence[str]) -> str:
    for given in inputs:
        text = without_secrets(text, given)
    return text
