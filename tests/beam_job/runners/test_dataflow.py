"""Whole submissions by the real command and Beam's real DataflowRunner, to a stand-in for Dataflow's jobs service.

Buckets are those of the storage emulator, and the service runs the graph that was staged there.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, has_package

if not (has_package("google.cloud") and has_package("google.cloud.dataflow")):
    pytest.skip("needs the extra dataflow", allow_module_level=True)

from apache_beam.options.pipeline_options import PipelineOptions
from google.api_core.exceptions import TooManyRequests

from beam_job import storage
from beam_job.captioning import caption_shards
from beam_job.runners.dataflow_job import failure_reason, last_error_line, options_of_run, options_without_gpu
from tests.dataflow_service import JOB_ID, DataflowService, log_in, private_key, serving
from tests.fakes import FakeCaptioner
from tests.leases import is_released

IMAGE = "us-docker.pkg.dev/p/r/captions:1"
WORKER = [f"--sdk_container_image={IMAGE}"]
PAGE = f"https://console.cloud.google.com/dataflow/jobs/us-central1/{JOB_ID}?project=p"


@dataclasses.dataclass
class Ended:
    """A command that has ended, and what the service and the disk hold of it."""

    code: int
    stderr: str
    service: DataflowService
    output: str
    template: Path


@pytest.fixture(scope="module")
def photographs_in_bucket(gcs_emulator: str, photographs: dict[str, Path]) -> Iterator[str]:
    from google.cloud import storage as gcs

    storage._storage.cache_clear()
    client = gcs.Client()
    bucket = client.create_bucket("dataflow")
    for name in ("coffee.png", "china.jpg", "rocket.jpg"):
        bucket.blob(f"photos/{name}").upload_from_filename(photographs[name])
    bucket.blob("photos/broken.jpg").upload_from_string(b"no image")
    yield "gs://dataflow"
    client.close()
    storage._storage("gs")._client.close()
    storage._storage.cache_clear()


@pytest.fixture(scope="module")
def ended(photographs_in_bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Ended]]]:
    """All commands, started at once: Beam's runner sleeps five seconds between two looks at a job."""
    gpu = [*WORKER, "--gpu=nvidia-l4"]
    commands = {
        "done": (DataflowService(), [*WORKER, "--shard_size=2"]),
        "failed": (DataflowService(), gpu),
        "cancelled": (DataflowService(end="JOB_STATE_CANCELLED"), WORKER),
        "forbidden": (DataflowService(refuse=(403, "The caller lacks dataflow.jobs.create")), WORKER),
        "not awaited": (DataflowService(), [*WORKER, "--no_wait_until_finish"]),
        "template": (DataflowService(), [*gpu, f"--setup_file={ROOT / 'setup.py'}"]),
        "no bucket": (DataflowService(), [*WORKER, "--staging_location=gs://nowhere/x"]),
    }
    root = tmp_path_factory.mktemp("dataflow")
    key = private_key()
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(4) as pool:
        patch.setattr(caption_shards, "load_captioner", lambda *_: FakeCaptioner())
        yield {
            name: pool.submit(_submit, photographs_in_bucket, root / name.replace(" ", "-"), key, *command)
            for name, command in commands.items()
        }


def _submit(bucket: str, folder: Path, key: str, service: DataflowService, options: list[str]) -> Ended:
    folder.mkdir()
    output, template = f"{bucket}/{folder.name}", folder / "template.json"
    options = [*options, f"--template_location={template}"] if folder.name == "template" else options
    with serving(service) as address:
        arguments = [f"--input={bucket}/photos", f"--output={output}", "--runner=DataflowRunner", "--project=p"]
        arguments += ["--region=us-central1", f"--temp_location={bucket}/temp", f"--dataflow_endpoint={address}"]
        done = subprocess.run(
            [sys.executable, "-m", "beam_job", *arguments, *options],
            env=os.environ | log_in(folder, key, address) | {"PYTHONPATH": str(ROOT)},
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    return Ended(done.returncode, done.stderr, service, output, template)


def stored(uri: str) -> list[str]:
    return [each.uri for each in storage.storage_for(uri).list(f"{uri}/")]


def summary_of(output: str) -> dict[str, Any]:
    """The summary of the only run that has one."""
    [uri] = [uri for uri in stored(output) if uri.endswith("summary.json")]
    return json.loads(storage.storage_for(uri).read(uri)[0])


def only_line(run: Ended) -> str:
    """The last line, and that nothing of a stack trace stands above it."""
    assert "Traceback" not in run.stderr, run.stderr
    assert 'File "' not in run.stderr
    return run.stderr.splitlines()[-1]


def test_a_job_that_was_submitted_captions_what_the_bucket_holds(ended: dict[str, Future[Ended]]) -> None:
    run = ended["done"].result()
    assert run.code == 0, run.stderr
    assert "Dataflow workers: up to 10 x n2-standard-2" in run.stderr
    assert f"Dataflow job {JOB_ID}: {PAGE}" in run.stderr
    assert "3 captions and 1 failure of 4 images" in run.stderr
    [job] = run.service.jobs
    run_id = next(uri for uri in stored(run.output) if uri.endswith("_SUCCESS")).split("/")[-2]
    assert job["name"] == f"caption-images-{run_id.lower()}"  # a second active job of it would be refused
    summary = summary_of(run.output)
    assert (summary["captions"], summary["failures_by_reason"]) == (3, {"decode: ImageError": 1})
    assert is_released(run.output)


def test_a_worker_without_its_gpu_fails_the_job_and_says_so(ended: dict[str, Future[Ended]]) -> None:
    run = ended["failed"].result()
    assert run.code == 1
    assert f"Dataflow job {JOB_ID}: failed" in run.stderr
    line = only_line(run)
    assert f"Dataflow job {JOB_ID} failed: --require_gpu: TensorFlow sees no GPU" in line
    assert PAGE in line
    assert line.endswith("; fix that, then repeat the command to resume")
    assert not [uri for uri in stored(run.output) if uri.endswith("summary.json")]


def test_a_cancelled_job_is_no_success(ended: dict[str, Future[Ended]]) -> None:
    run = ended["cancelled"].result()
    assert run.code == 1
    assert f"Dataflow job {JOB_ID} was cancelled ({PAGE}); fix that, then repeat the command to resume" in only_line(
        run
    )


def test_a_refused_job_names_what_is_missing(ended: dict[str, Future[Ended]]) -> None:
    run = ended["forbidden"].result()
    assert run.code == 1
    line = only_line(run)
    assert (
        "Dataflow refused the job: 403 The caller lacks dataflow.jobs.create; the Dataflow API must be enabled" in line
    )
    assert len(run.service.jobs) == 1


def test_a_job_that_is_not_awaited_claims_nothing_and_sums_itself_up(ended: dict[str, Future[Ended]]) -> None:
    run = ended["not awaited"].result()
    assert run.code == 0, run.stderr
    line = only_line(run)
    assert f"not waiting for job {JOB_ID}" in line
    assert line.endswith("at its end the job writes the run's summary.json")
    assert "captions and" not in run.stderr
    summary = summary_of(run.output)
    assert (summary["captions"], summary["failures_by_reason"]) == (3, {"decode: ImageError": 1})
    assert summary["ran_with"] == []  # metrics are with the runner
    assert [uri for uri in stored(run.output) if uri.endswith("_SUCCESS")]
    assert is_released(run.output)


def test_a_missing_bucket_is_found_before_anything_is_written(ended: dict[str, Future[Ended]]) -> None:
    run = ended["no bucket"].result()
    assert run.code == 2
    assert only_line(run).startswith("caption-images: there is no bucket gs://nowhere; create it")
    assert not run.service.jobs
    assert not stored(run.output)


def test_a_template_holds_what_the_options_mean(ended: dict[str, Future[Ended]]) -> None:
    run = ended["template"].result()
    assert run.code == 0, run.stderr
    assert f"template written to {run.template}; launch it to caption what run" in only_line(run)
    assert not run.service.jobs
    environment: dict[str, Any] = json.loads(run.template.read_text())["environment"]
    assert environment["serviceOptions"] == ["worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver:5xx"]
    assert "no_use_multiple_sdk_containers" in environment["experiments"]
    assert "use_multiple_sdk_containers" not in environment["experiments"]
    [pool] = environment["workerPools"]
    assert (pool["machineType"], pool["diskSizeGb"], pool["numThreadsPerWorker"]) == ("g2-standard-8", 50, 4)
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 10
    assert [each["containerImage"] for each in pool["sdkHarnessContainerImages"]] == [IMAGE]
    [package] = [each for each in pool["packages"] if each["name"] == "workflow.tar.gz"]
    assert storage.storage_for("gs://x").exists(package["location"].replace("storage.googleapis.com/", "gs://"))


def test_an_estimate_writes_nothing(photographs_in_bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    from beam_job.cli.command import main

    output = f"{photographs_in_bucket}/estimated"
    options = ["--runner=DataflowRunner", "--project=p", "--region=r", f"--temp_location={photographs_in_bucket}/temp"]
    given = [f"--input={photographs_in_bucket}/photos", f"--output={output}", "--estimate", "--worker_price=3"]
    assert main([*given, *options, *WORKER]) == 0
    told = capsys.readouterr().err
    assert "estimate: 4 images" in told
    assert "cost: $" in told
    assert "$3.00 per worker-hour, as given" in told
    assert not stored(output)


def test_a_job_that_captions_nothing_rents_no_gpu() -> None:
    service = "--dataflow_service_options=worker_accelerator=type:nvidia-l4;count:1"
    given = ["--runner=DataflowRunner", "--template_location=gs://b/t", service]
    options = PipelineOptions([*given, "--machine_type=g2-standard-8", "--job_name=nightly"])
    idle = options_without_gpu(options).get_all_options(drop_default=True)
    assert idle["dataflow_service_options"] == []
    assert (idle["machine_type"], idle["job_name"]) == ("n2-standard-4", "nightly")
    assert options.get_all_options(drop_default=True)["machine_type"] == "g2-standard-8"
    run = options_of_run(options, "20261123T223857626Z-c0382bde").get_all_options(drop_default=True)
    assert run["job_name"] == "nightly"


def test_a_quota_is_told_with_what_to_do() -> None:
    told = failure_reason(
        TooManyRequests("Quota NVIDIA_L4_GPUS exceeded"), PipelineOptions(["--runner=DataflowRunner"])
    )
    assert told is not None
    assert told.startswith("Dataflow refused the job: 429 Quota NVIDIA_L4_GPUS exceeded; it is a quota of the project")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param("Workflow failed. Causes: no capacity", "Workflow failed. Causes: no capacity", id="service"),
        pytest.param("", "no reason was given", id="nothing"),
        pytest.param(
            "Traceback (most recent call last):\n  File x\nbeam_job.storage.base.StorageError: gs://b: 403 no "
            "[while running 'CaptionShards-ptransform-3']\n\nNote: imports may be missing",
            "gs://b: 403 no",
            id="our own error",
        ),
        pytest.param("Traceback\nModuleNotFoundError: no beam_job", "ModuleNotFoundError: no beam_job", id="another's"),
    ],
)
def test_the_line_that_tells(text: str, line: str) -> None:
    assert last_error_line(text) == line
