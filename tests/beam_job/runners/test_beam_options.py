"""Options that are passed on to Beam, and which runner they lead to."""

from __future__ import annotations

import pytest

from beam_job.cli.options import option_names
from beam_job.config import JobConfig
from beam_job.runners.beam_options import RunnerError, beam_options, runs_here


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--shard_sise=3"], "did you mean --shard_size?", id="own option misspelt"),
        pytest.param(["--regoin=us"], "did you mean --region?", id="option of Beam misspelt"),
        pytest.param(["--zzzz"], "see --help", id="nothing like it"),
        pytest.param(["stray.jpg"], "unknown option stray.jpg", id="a stray word"),
        pytest.param(
            ["--runner=DaskRunner", "--dask_client_address=tcp://host:1", "--workers=2"],
            "--workers=2",
            id="dask workers",
        ),
        pytest.param(["--runner=PortableRunner"], "needs --job_endpoint=HOST:PORT", id="no job server"),
    ],
)
def test_options_that_beam_does_not_know(arguments: list[str], message: str) -> None:
    with pytest.raises(RunnerError, match=message.replace("?", r"\?")):
        beam_options(JobConfig(("x",), "out"), arguments, option_names())


@pytest.mark.parametrize("runner", [[], ["--runner=DirectRunner"], ["--runner=direct"], ["--runner=FnApiRunner"]])
def test_local_runs_never_try_to_download_a_runner(runner: list[str]) -> None:
    options = beam_options(JobConfig(("x",), "out"), runner)
    assert options.get_all_options()["runner"] == "FnApiRunner"
    assert runs_here(options)


def test_workers_are_processes_here_and_nowhere_else() -> None:
    options = beam_options(JobConfig(("x",), "out", workers=3), []).get_all_options()
    assert (options["direct_num_workers"], options["direct_running_mode"]) == (3, "multi_processing")
    with pytest.raises(RunnerError, match="--workers=3 is for this machine"):
        beam_options(JobConfig(("x",), "out", workers=3), ["--runner=DataflowRunner"])
