"""A job on Dataflow: its name, its states in the log, and the reason for a failure in one line."""

from __future__ import annotations

import contextlib
import copy
import logging
import re
from collections.abc import Iterator

from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
    WorkerOptions,
)
from apache_beam.runners.runner import PipelineResult

from beam_job.text import printable

_IDLE_MACHINE = "n2-standard-4"
_LOGGER = logging.getLogger(__name__)
_RUNNER_LOG = "apache_beam.runners.dataflow"
# A line that a traceback ends with: the class, with its module, and what it said.
_RAISED = re.compile(r"^((?:\w+\.)+\w+|\w+(?:Error|Exception)): (.*)$")
_OURS = ("beam_job.", "model.")
_LONGEST = 600
_HINTS = {
    403: "; the Dataflow API must be enabled, and you need roles/dataflow.developer and iam.serviceAccountUser",
    404: "; check --project and --region",
    409: "; wait for it, or cancel it, then repeat the command",
    429: "; it is a quota of the project: lower --max_num_workers, choose another --region, or request more",
}


def runs_on_dataflow(options: PipelineOptions) -> bool:
    """Whether the runner is Dataflow's."""
    return (options.view_as(StandardOptions).runner or "").lower() in ("dataflow", "dataflowrunner")


def is_awaited(options: PipelineOptions) -> bool:
    """Whether this process sees the end of the main graph: not of a template, which nobody has started yet."""
    if not runs_on_dataflow(options):
        return True
    return not (template_of(options) or options.view_as(StandardOptions).no_wait_until_finish)


def template_of(options: PipelineOptions) -> str | None:
    """Where the job is written to as a template instead of being started."""
    return options.view_as(GoogleCloudOptions).template_location


def options_of_run(options: PipelineOptions, run_id: str) -> PipelineOptions:
    """A copy, since Dataflow's runner changes them, with a job name that holds the run's.

    Dataflow refuses a second active job of a name, so a run whose launcher has died is not done twice at once.
    """
    options = copy.deepcopy(options)
    if runs_on_dataflow(options):
        cloud = options.view_as(GoogleCloudOptions)
        cloud.job_name = cloud.job_name or f"caption-images-{run_id.lower()}"
    return options


def options_without_gpu(options: PipelineOptions) -> PipelineOptions:
    """A copy for a job that captions nothing: on a worker of the standard kind where a GPU was asked for."""
    options = copy.deepcopy(options)
    cloud, debug = options.view_as(GoogleCloudOptions), options.view_as(DebugOptions)
    had_gpu = False
    for view, name in ((cloud, "dataflow_service_options"), (debug, "experiments")):
        asked = getattr(view, name) or []
        left = [each for each in asked if not each.startswith("worker_accelerator")]
        had_gpu |= len(left) < len(asked)
        setattr(view, name, left)
    if had_gpu:
        options.view_as(WorkerOptions).machine_type = _IDLE_MACHINE
    return options


def job_page(options: PipelineOptions, job_id: str = "") -> str:
    """The job's page at Google; without a job, that of the project's jobs."""
    cloud = options.view_as(GoogleCloudOptions)
    job = f"/{cloud.region}/{job_id}" if job_id else ""
    return f"https://console.cloud.google.com/dataflow/jobs{job}?project={cloud.project}"


def format_submitted(options: PipelineOptions, result: PipelineResult, run_id: str) -> str:
    """The message for a job that is not waited for."""
    if template := template_of(options):
        return f"template written to {template}; launch it to caption what run {run_id} has planned"
    job_id = result.job_id()
    return (
        f"not waiting for job {job_id} of run {run_id}: {job_page(options, job_id)}; at its end the job writes the "
        "run's summary.json"
    )


@contextlib.contextmanager
def log_job_states(options: PipelineOptions) -> Iterator[None]:
    """Logs the job's page, states and warnings in this block, from the records of Dataflow's runner."""
    logger = logging.getLogger(_RUNNER_LOG)
    state_logger, level = _StateLogger(options), logger.level
    logger.addHandler(state_logger)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(state_logger)


class _StateLogger(logging.Handler):
    def __init__(self, options: PipelineOptions) -> None:
        super().__init__()
        self._options = options
        self._logged: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        line = None
        if text.startswith("Created job with id: ["):
            job_id = text.partition("[")[2].rstrip("]")
            line = f"Dataflow job {job_id}: {job_page(self._options, job_id)}"
        elif state := re.fullmatch(r"Job (\S+) is in state JOB_STATE_(\w+)", text):
            line = f"Dataflow job {state.group(1)}: {state.group(2).lower()}"
        elif message := re.match(r".*?: JOB_MESSAGE_(?:WARNING|ERROR): ", text):
            line = f"Dataflow: {last_error_line(text[message.end() :])}"
        if line and line not in self._logged:
            self._logged.add(line)
            _LOGGER.info(printable(line))


def failure_reason(error: BaseException, options: PipelineOptions) -> str | None:
    """Why Dataflow did not start the job or did not bring it to its end, in a line; None for errors of another kind."""
    from google.api_core.exceptions import GoogleAPICallError, RetryError

    kind = type(error).__name__
    if isinstance(error, GoogleAPICallError):
        code = int(error.code or 0)
        said = re.sub(r"^[A-Z]+ https?://\S+: ", "", last_error_line(error.message))
        return f"Dataflow refused the job: {code} {said}{_HINTS.get(code, '')}"
    if isinstance(error, RetryError):
        return f"Dataflow cannot be reached: {last_error_line(str(error))}"
    if kind == "DataflowJobAlreadyExistsError":
        return f"Dataflow refused the job: {last_error_line(str(error))}{_HINTS[409]}"
    if kind == "DataflowRuntimeException":
        job_id = error.result.job_id()  # type: ignore[attr-defined]
        head, _, said = str(error).partition("Error:\n")
        state = re.search(r"State: (\w+)", head)
        why = "" if said.strip() in ("", "None") else f": {last_error_line(said)}"
        return (
            f"Dataflow job {job_id} {_ended(state.group(1) if state else 'FAILED')}{why} ({job_page(options, job_id)})"
        )
    if runs_on_dataflow(options) and isinstance(error, (OSError, ValueError)):
        return last_error_line(str(error))  # staging, and Beam's check of its options; both say what is wrong
    return None


def _ended(state: str) -> str:
    return {"CANCELLED": "was cancelled", "FAILED": "failed"}.get(state, f"ended as {state}")


def last_error_line(text: str) -> str:
    """The line of a worker's traceback, or of a service's message, that gives the reason."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    raised = [line for line in lines if _RAISED.match(line)]
    line = (raised or lines or ["no reason was given"])[-1]
    line = re.sub(r" \[while running '[^']*'\]$", "", line)
    match = _RAISED.match(line)
    if match and match.group(1).startswith(_OURS):
        line = match.group(2)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."
