"""The command `caption-images`: dispatches to a run or a subcommand, and reports how it ended."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from beam_job.cli.host_limits import HostLimitError, check_host, host_limit
from beam_job.cli.logs import LOGGER, format_error, log_to, wants_json
from beam_job.cli.options import UsageError, parse
from beam_job.cli.quiet import quiet_stderr
from beam_job.cli.report import report
from beam_job.cli.signals import Stopped, end_process, stop_on_signals
from beam_job.config import JobConfig
from beam_job.runners.dataflow import DataflowError, with_dataflow
from beam_job.storage import StorageError, without_secrets
from beam_job.text import command_name, printable

if TYPE_CHECKING:
    from beam_job.output.summary import Summary

_READER_GONE = 141  # as a shell reports SIGPIPE
# Each module is imported only when its command is used.
_SUBCOMMANDS = {
    "correct": "beam_job.results.correct",
    "demo": "beam_job.cli.demo",
    "export": "beam_job.results.export.command",
    "review": "beam_job.results.review",
    "snapshot": "beam_job.results.snapshot",
    "status": "beam_job.results.status",
}


def command() -> None:
    """Runs `main` and ends the process; after a failed run without waiting for threads that may hang in a read."""
    code = main()
    if code == 1:
        end_process(code)
    sys.exit(code)


def main(arguments: list[str] | None = None, examples: bool = True) -> int:
    """Runs the command and returns its exit code.

    0 is success; 1: the run or too many images failed; 2: wrong usage; 3: another run is writing to the output. A
    signal ends the process here, with 130 (Ctrl-C) or 143 (SIGTERM).

    Args:
      arguments: those of the command line by default.
      examples: whether a run on a terminal ends with some of its captions.
    """
    given = sys.argv[1:] if arguments is None else arguments
    again = _same_command(given)
    with (
        log_to(sys.stderr, wants_json(given)) as handler,
        stop_on_signals(format_error(f"stopped immediately; to resume: {again}", handler)) as terminal,
    ):
        try:
            return _run(given, examples)
        except Exception as error:
            reason = host_limit(error)
            if reason is None or "--verbose" in given:
                raise
            return _fail(reason)
        except Stopped as stopped:
            terminal.write_line(format_error(f"stopped; {stopped.state}; to resume: {again}", handler))
            end_process(stopped.exit_code)


def _same_command(given: Sequence[str]) -> str:
    """The command to repeat, quoted for a shell; without signatures and passwords of inputs, which people add."""
    values = [argument.partition("=")[2] if argument.startswith("--") else argument for argument in given]
    return printable(_without_secrets(f"{command_name()} {shlex.join(given)}", values))


def _run(given: list[str], examples: bool) -> int:
    if given and given[0] in _SUBCOMMANDS:
        return _subcommand(given[0], given[1:])
    if given and not given[0].startswith("-"):
        return _refuse(UsageError(_unknown_command(given[0])))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported, here and in worker processes
    try:
        config, beam_arguments = with_dataflow(*parse(given))
        check_host()
    except (UsageError, DataflowError, HostLimitError) as error:
        return _refuse(error)
    return _caption(config, beam_arguments, examples)


def _caption(config: JobConfig, beam_arguments: Sequence[str], examples: bool) -> int:
    """Runs the job and reports how it ended; after a run that was resumed, also for what was added since."""
    code, summary = _caption_once(config, beam_arguments, examples)
    if summary is None or not summary.resumed or code or config.recaption or summary.left:
        return code  # --recaption would caption all again, and images are left when a budget is used up
    LOGGER.info("looking for images that were added after that run began")
    code, _ = _caption_once(dataclasses.replace(config, retry="none"), beam_arguments, examples)  # they just failed
    return code


def _caption_once(config: JobConfig, beam_arguments: Sequence[str], examples: bool) -> tuple[int, Summary | None]:
    """Runs the job and reports how it ended: the exit code, and the summary if there is one."""
    # Imported here so that --help and usage errors do not wait for Beam.
    with quiet_stderr(config.verbose):
        from beam_job.cli.job import run_job
        from beam_job.cli.run_pipeline import ExplainedJobError, JobError
        from beam_job.inputs.listing import InputError
        from beam_job.output.summary import RowCountError
        from beam_job.planning.lease import LeaseError
        from beam_job.runners.beam_options import RunnerError
        from beam_job.runners.preflight import PreflightError
        from model import BundleError, CaptionerError
        from model.devices import NoGpuError
        from model.engine_choice import EngineError

    refused = (
        BundleError,
        CaptionerError,
        EngineError,
        InputError,
        NoGpuError,
        PreflightError,
        RunnerError,
        StorageError,
    )
    try:
        summary = run_job(config, beam_arguments)
    except SystemExit as error:
        return _report_exit(error), None
    except LeaseError as error:
        _refuse(error)
        return 3, None
    except refused as error:
        return _refuse(error, config.inputs), None
    except (JobError, RowCountError) as error:
        if config.verbose or not isinstance(error, ExplainedJobError):
            LOGGER.info(_without_secrets(traceback.format_exc().rstrip(), config.inputs))
        return _fail(_without_secrets(str(error), config.inputs)), None
    return (0 if summary is None else report(summary, config, examples)), summary


def _subcommand(name: str, arguments: list[str]) -> int:
    try:
        code = int(importlib.import_module(_SUBCOMMANDS[name]).main(arguments))
        sys.stdout.flush()
        return code
    except StorageError as error:
        return _refuse(error)
    except BrokenPipeError:  # whoever reads has had enough, such as `head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the end
        return _READER_GONE


def _report_exit(error: SystemExit) -> int:
    """The exit code after code of the user's, such as a captioner's module, called `sys.exit` during a run.

    It must not look like a run that succeeded, so it is 1 whatever was passed to `sys.exit`.
    """
    where = traceback.extract_tb(error.__traceback__)[-1]
    if error.code == 2 and os.path.basename(where.filename) == "argparse.py":
        raise error  # an option of Beam's has an invalid value; argparse has printed which
    return _fail(
        f"the run was ended by sys.exit({error.code!r}) in {where.filename}, line {where.lineno}; remove that call, "
        "then repeat the command to resume"
    )


def _unknown_command(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), _SUBCOMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else "give images with --input=PATH, or see caption-images --help"
    return f"unknown command {without_secrets(name, name)}; {hint}"


def _fail(reason: str) -> int:
    LOGGER.error(printable(reason))
    return 1


def _refuse(error: Exception, inputs: Sequence[str] = ()) -> int:
    LOGGER.error(printable(_without_secrets(str(error), inputs)))
    return 2


def _without_secrets(text: str, inputs: Sequence[str]) -> str:
    for given in inputs:
        text = without_secrets(text, given)
    return text
