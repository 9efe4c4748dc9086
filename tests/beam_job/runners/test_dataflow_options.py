"""What few words become on Dataflow, what is refused, and what an estimate says: from arguments alone."""

from __future__ import annotations

import importlib.util

import pytest

from beam_job.config import JobConfig
from beam_job.runners.dataflow import DataflowError, with_dataflow, workers_of
from beam_job.runners.dataflow_job import options_without_gpu
from beam_job.runners.estimate import describe, estimate_on_dataflow, format_hours, speed
from beam_job.runners.machines import GPUS, machine_of
from tests.conftest import has_package

DATAFLOW = ["--runner=DataflowRunner", "--project=p", "--region=us-central1", "--temp_location=gs://b/temp"]
IMAGE = "--sdk_container_image=us-docker.pkg.dev/p/r/captions:1"
MPS = "--dataflow_service_options=worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver:5xx;use_nvidia_mps"
ONE = "--experiments=no_use_multiple_sdk_containers"

needs_dataflow = pytest.mark.skipif(
    not (has_package("google.cloud") and has_package("google.cloud.dataflow")), reason="needs the extra dataflow"
)


def config(gpu: str | None = None, **others: object) -> JobConfig:
    return JobConfig(**{"inputs": ("gs://b/photos",), "output": "gs://b/out", "gpu": gpu} | others)  # type: ignore[arg-type]


@needs_dataflow
@pytest.mark.parametrize("gpu", [name for name, gpu in GPUS.items() if gpu.on_demand])
def test_a_gpu_is_one_word(gpu: str) -> None:
    made, arguments = with_dataflow(config(gpu), [*DATAFLOW, IMAGE])
    assert made.require_gpu  # a worker without one must not caption on its CPU at the price of a GPU
    assert arguments == [
        *DATAFLOW,
        IMAGE,
        f"--dataflow_service_options=worker_accelerator=type:{gpu};count:1;install-nvidia-driver:5xx",
        f"--machine_type={GPUS[gpu].machine}",
        "--disk_size_gb=50",
        ONE,
        "--number_of_worker_harness_threads=4",
        "--max_num_workers=10",
    ]
    assert GPUS[gpu].machine.split("-")[0] == GPUS[gpu].family
    assert machine_of(GPUS[gpu].machine) is not None


@needs_dataflow
def test_what_beam_is_told_stands() -> None:
    own = ["--machine_type=g2-standard-16", "--disk_size_gb=80", "--number_of_worker_harness_threads=9"]
    arguments = with_dataflow(config("nvidia-l4"), [*DATAFLOW, IMAGE, *own, ONE, "--max_num_workers=3", MPS[:-15]])[1]
    assert arguments == [*DATAFLOW, IMAGE, *own, ONE, "--max_num_workers=3", MPS[:-15]]
    workers = workers_of(arguments)
    assert (workers.machine, workers.gpu, workers.max_workers) == ("g2-standard-16", "nvidia-l4", 3)


@needs_dataflow
@pytest.mark.parametrize(
    ("gpu", "machine"),
    [
        ("nvidia-tesla-t4", "custom-8-30720"),
        ("nvidia-tesla-t4", "n1-custom-8-30720"),
        ("nvidia-h100-80gb", "a3-highgpu-1g"),
    ],
)
def test_machines_that_may_have_the_gpu(gpu: str, machine: str) -> None:
    _, arguments = with_dataflow(config(gpu), [*DATAFLOW, IMAGE, f"--machine_type={machine}"])
    workers = workers_of(arguments)
    assert (workers.machine, workers.gpu) == (machine, gpu)
    assert workers.size is not None
    assert workers.size.hour(50) is not None


def test_a_custom_machine_has_the_size_that_it_names() -> None:
    for name in ("custom-8-30720", "n1-custom-8-30720", "n2-custom-8-30720-ext"):
        machine = machine_of(name)
        assert machine is not None
        assert (machine.vcpus, machine.memory_gb) == (8, 30)


@needs_dataflow
@pytest.mark.parametrize("option", ["dataflow_service_options", "experiments"])
def test_an_accelerator_is_seen_wherever_it_is_given(option: str) -> None:
    """A GPU that the table does not know may be asked for, if its machine is given."""
    given = f"--{option}=worker_accelerator=type:nvidia-rtx;count:2;install-nvidia-driver:5xx"
    _, arguments = with_dataflow(config(), [*DATAFLOW, IMAGE, given, "--machine_type=g4-standard-48"])
    assert arguments[len(DATAFLOW) + 1] == given
    assert "--disk_size_gb=50" in arguments
    assert not [each for each in arguments if each != given and "worker_accelerator" in each]
    workers = workers_of(arguments)
    assert (workers.machine, workers.gpu, workers.gpu_count) == ("g4-standard-48", "nvidia-rtx", 2)
    assert "2 x nvidia-rtx" in str(workers)


@needs_dataflow
def test_a_job_that_captions_nothing_rents_no_gpu() -> None:
    from apache_beam.options.pipeline_options import PipelineOptions, WorkerOptions

    accelerator = "worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver:5xx"
    for option in ("dataflow_service_options", "experiments"):
        given = [*DATAFLOW, f"--{option}={accelerator}", "--machine_type=g2-standard-8"]
        options = options_without_gpu(PipelineOptions(given))
        assert "worker_accelerator" not in str(options.get_all_options())
        assert options.view_as(WorkerOptions).machine_type == "n2-standard-4"


@needs_dataflow
def test_shared_gpus_keep_their_processes() -> None:
    _, arguments = with_dataflow(config("nvidia-l4"), [*DATAFLOW, IMAGE, MPS])
    assert ONE not in arguments
    assert not [each for each in arguments if "harness_threads" in each]


@needs_dataflow
def test_without_an_image_the_package_travels() -> None:
    made, arguments = with_dataflow(config(), DATAFLOW)
    assert not made.require_gpu
    [setup_file] = [each for each in arguments if each.startswith("--setup_file=")]
    assert setup_file.endswith("/setup.py")
    assert "--machine_type=n2-standard-2" in arguments
    assert not [each for each in with_dataflow(config(), [*DATAFLOW, IMAGE])[1] if "setup_file" in each]


@pytest.mark.parametrize("runner", [[], ["--runner=DirectRunner"], ["--runner=FlinkRunner", "--parallelism=2"]])
def test_other_runners_keep_their_arguments(runner: list[str]) -> None:
    local = JobConfig(("photos",), "out")
    assert with_dataflow(local, runner) == (local, runner)


@pytest.mark.parametrize(
    ("job", "arguments", "message"),
    [
        pytest.param(config("nvidia-l4"), [], "--gpu=nvidia-l4 applies only to --runner=DataflowRunner", id="local"),
        pytest.param(config(), DATAFLOW[:1], "needs --project=PROJECT, --region=.*, --temp_location=gs", id="missing"),
        pytest.param(config(), [*DATAFLOW, "--temp_location=/tmp"], "--temp_location must be in a bucket", id="temp"),
        pytest.param(config(), [*DATAFLOW, "--staging_location=x"], "--staging_location must be in a", id="staging"),
        pytest.param(config(output="out"), DATAFLOW, "--output must be in a bucket.*not 'out'", id="local output"),
        pytest.param(config(inputs=("photos",)), DATAFLOW, "--input=photos is on this machine", id="local input"),
        pytest.param(config(inputs=("*.csv",)), DATAFLOW, "is on this machine", id="local glob"),
        pytest.param(config("nvidia-l4"), DATAFLOW, "needs --sdk_container_image=IMAGE", id="GPU without image"),
        pytest.param(
            config("nvidia-l4"),
            [*DATAFLOW, IMAGE, MPS, ONE],
            "use_nvidia_mps shares the GPU .* allows only one",
            id="MPS",
        ),
        pytest.param(
            config("nvidia-l4"),
            [*DATAFLOW, IMAGE, "--resource_hint=accelerator=type:nvidia-l4"],
            "uses right fitting, which Dataflow refuses together with worker_accelerator",
            id="right fitting",
        ),
        pytest.param(
            config("nvidia-l4"),
            [*DATAFLOW, IMAGE, "--experiments=a,enable_prime"],
            "enable_prime uses right",
            id="Prime",
        ),
        pytest.param(config("nvidia-tesla-t4"), [*DATAFLOW, IMAGE, MPS], "name two GPUs; leave one", id="two GPUs"),
        pytest.param(
            config("nvidia-h100-80gb"),
            [*DATAFLOW, IMAGE],
            "available as Spot and Flex-start only; give",
            id="H100",
        ),
        pytest.param(
            config(),
            [*DATAFLOW, IMAGE, "--experiments=worker_accelerator=type:nvidia-rtx;install-nvidia-driver:5xx"],
            "names nvidia-rtx, for which the job knows no machine type; give --machine_type",
            id="unknown GPU",
        ),
        pytest.param(
            config(),
            [*DATAFLOW, IMAGE, MPS.replace(":5xx", "")],
            "must request the driver as install-nvidia-driver:5xx",
            id="driver",
        ),
        pytest.param(
            config(),
            [*DATAFLOW, IMAGE, MPS.replace("count:1", "count:2")],
            "workers with one GPU, not count:2",
            id="MPS 2",
        ),
        pytest.param(
            config("nvidia-l4"), [*DATAFLOW, IMAGE, "--machine_type=custom-8-30720"], "cannot have a", id="custom"
        ),
        pytest.param(
            config("nvidia-l4"),
            [*DATAFLOW, IMAGE, "--machine_type=n1-standard-8"],
            "n1-standard-8 cannot have a nvidia-l4, which comes with g2 machines, such as g2-standard-8",
            id="machine",
        ),
        pytest.param(
            config(model="my-model"), DATAFLOW, "--model=my-model is on this machine.*gcloud storage cp", id="model"
        ),
    ],
)
def test_contradictions_get_a_line(job: JobConfig, arguments: list[str], message: str) -> None:
    with pytest.raises(DataflowError, match=message) as refused:
        with_dataflow(job, arguments)
    assert "\n" not in str(refused.value)


@needs_dataflow
@pytest.mark.parametrize(
    ("job", "image"),
    [
        pytest.param(config(model="gs://b/model"), [], id="in a bucket"),
        pytest.param(config(model="/opt/model"), [IMAGE], id="in the image"),
        pytest.param(config(model="hub/name", captioner="theirs:make"), [], id="another captioner's"),
    ],
)
def test_models_that_the_workers_can_read(job: JobConfig, image: list[str]) -> None:
    assert with_dataflow(job, [*DATAFLOW, *image])[0] == job


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DataflowError, match=r"pip install 'caption-images\[dataflow\]'"):
        with_dataflow(config(), DATAFLOW)


def test_speeds_are_those_that_were_measured() -> None:
    assert speed(2, None, 46_000).images_per_second == pytest.approx(200, rel=0.01)
    assert speed(2, None, 348_000).images_per_second == pytest.approx(166, rel=0.01)
    for mean_bytes, bottleneck, found in ((39_000, "the model's process", 3_324), (315_000, "decoding", 1_380)):
        hopper = speed(16, "nvidia-h100-80gb", mean_bytes, fetch_threads=256)
        assert hopper.bottleneck == bottleneck
        assert hopper.images_per_second == pytest.approx(found, rel=0.08)


@needs_dataflow
def test_an_estimate_by_hand() -> None:
    """A million images of 52 kB on the CPU, two workers at two dollars an hour; 199 images/s a worker."""
    _, arguments = with_dataflow(config(), [*DATAFLOW, IMAGE, "--max_num_workers=2"])
    estimate = estimate_on_dataflow(1_000_000, 52_000, workers_of(arguments), shard_size=500, price=2.0)
    assert estimate is not None
    working = 1_000_000 / 199 / 3600  # worker-hours
    assert estimate.worker_hours == pytest.approx(working + 2 * 0.06, rel=0.01)
    assert estimate.hours == pytest.approx(working / 2 + 0.06, rel=0.01)
    assert estimate.requests_cost == pytest.approx(0.4 + (1_000 + 2 * 2_000) * 0.000005)
    assert estimate.cost == pytest.approx(2 * estimate.worker_hours + estimate.requests_cost)
    told = "\n".join(describe(estimate, listed=True, own_price=True))
    assert "1,000,000 images, 52.0 GB (52 kB each)" in told
    assert "$2.00 per worker-hour, as given" in told
    assert "assumed" in told


@needs_dataflow
def test_of_an_unknown_machine_no_price_is_made_up() -> None:
    _, arguments = with_dataflow(config(), [*DATAFLOW, IMAGE, "--machine_type=c9-odd-8"])
    estimate = estimate_on_dataflow(1_000, 52_000, workers_of(arguments), shard_size=500)
    assert estimate is not None
    assert estimate.cost is None
    assert "--worker_price=DOLLARS" in "\n".join(describe(estimate, listed=False, own_price=False))


@pytest.mark.parametrize(
    ("hours", "told"), [(0.001, "less than a minute"), (0.2, "12 min"), (3, "3.0 h"), (72, "3.0 days")]
)
def test_hours_for_people(hours: float, told: str) -> None:
    assert format_hours(hours) == told
