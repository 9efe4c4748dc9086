"""Derives Dataflow's options from a few options of the user, with one-line errors for contradictions.

This module reads only the arguments and does not import Beam, so that wrong usage is reported immediately.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from beam_job.config import JobConfig
from beam_job.runners.machines import CPU_MACHINE, GPUS, Machine, family_of, machine_of
from beam_job.storage import is_glob, public_name, scheme_of

# Threads of the one process, each with a bundle of shards of its own: while one waits for its bundle's last shard to be
# written, the others keep the model busy. All share one engine, so one model and one budget of memory.
_THREADS = 4
_MAX_WORKERS = 10
_GPU_DISK_GB = 50  # an image with CUDA's libraries is some 10 GB unpacked, twice while it is fetched
_ONE_PROCESS = "no_use_multiple_sdk_containers"
_DRIVER = "install-nvidia-driver"
_DRIVER_VERSION = "5xx"  # without a version, some GPUs get a driver of the 4xx series, on which CUDA 12 does not run
_SETUP_FILE = Path(__file__).parents[2] / "setup.py"


class DataflowError(ValueError):
    """These options do not go together, or one is missing; the message says what to give."""


@dataclass(frozen=True)
class Workers:
    """The workers that the arguments request from Dataflow.

    Attributes:
      machine: its type.
      gpu: the type of its GPUs, such as one of `GPUS`, or None.
      max_workers: to which Dataflow scales.
      disk_gb: a worker's; None for Dataflow's default.
      threads: a process; None for Dataflow's default.
      one_process: whether one process, with one model, serves a worker; else there is one a vCPU.
      image: of the container; None where the workers install the package.
      gpu_count: GPUs of a worker that has any.
    """

    machine: str
    gpu: str | None
    max_workers: int
    disk_gb: int | None
    threads: int | None
    one_process: bool
    image: str | None
    gpu_count: int = 1

    @property
    def size(self) -> Machine | None:
        """The machine's size, where its name tells it."""
        return machine_of(self.machine)

    @property
    def _gpus(self) -> str:
        return f"{self.gpu_count} x {self.gpu}" if self.gpu_count > 1 else str(self.gpu)

    def __str__(self) -> str:
        words = [
            f"up to {self.max_workers} x {self.machine}",
            f"{self._gpus} and driver" if self.gpu else "no GPU",
            f"{self.disk_gb} GB disk" if self.disk_gb else "",
            f"one process of {self.threads or 'many'} threads" if self.one_process else "a process a vCPU",
            f"image {self.image}" if self.image else "the package installed at each worker's start",
        ]
        return ", ".join(filter(None, words))


def on_dataflow(arguments: Sequence[str]) -> bool:
    """Whether Beam's arguments name Dataflow's runner."""
    return (_given(arguments).runner or "").lower() in ("dataflow", "dataflowrunner")


def with_dataflow(config: JobConfig, arguments: Sequence[str]) -> tuple[JobConfig, list[str]]:
    """The configuration and Beam's arguments with all that Dataflow needs; as they are with another runner.

    Beam options that the user sets are kept; the others are added.

    Raises:
      DataflowError: options are missing or contradict each other.
    """
    given = _given(arguments)
    if not on_dataflow(arguments):
        if config.gpu:
            raise DataflowError(
                f"--gpu={config.gpu} applies only to --runner=DataflowRunner; with other runners TensorFlow uses the "
                "GPU that it finds (--require_gpu requires one)"
            )
        return config, list(arguments)
    _check_places(config, given)
    _check_accelerator(config, given)
    added = _added(config, given)
    _check_code(config, _given([*arguments, *added]))
    _check_installed()
    return dataclasses.replace(config, require_gpu=config.require_gpu or bool(config.gpu)), [*arguments, *added]


def workers_of(arguments: Sequence[str]) -> Workers:
    """What complete arguments, as `with_dataflow` gives them, ask for."""
    given = _given(arguments)
    return Workers(
        machine=given.machine_type,
        gpu=_accelerator(given).get("type"),
        gpu_count=_gpu_count(_accelerator(given)),
        max_workers=int(given.max_num_workers or given.num_workers),
        disk_gb=int(given.disk_size_gb) if given.disk_size_gb else None,
        threads=int(given.number_of_worker_harness_threads) if given.number_of_worker_harness_threads else None,
        one_process=_ONE_PROCESS in given.experiments,
        image=given.sdk_container_image,
    )


def places_of(arguments: Sequence[str]) -> list[str]:
    """Where Dataflow puts its own files."""
    given = _given(arguments)
    return [place for place in (given.temp_location, given.staging_location) if place]


def _given(arguments: Sequence[str]) -> argparse.Namespace:
    """Those of Beam's options that matter here, as Beam reads them."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("runner", "project", "region", "temp_location", "staging_location", "template_location"):
        parser.add_argument(f"--{name}")
    for name in ("sdk_container_image", "setup_file", "num_workers", "max_num_workers", "disk_size_gb"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--number_of_worker_harness_threads")
    parser.add_argument("--worker_machine_type", "--machine_type", dest="machine_type")
    several = {"resource_hint": "resource_hints", "dataflow_service_option": "service", "experiment": "experiments"}
    for name, dest in several.items():
        parser.add_argument(f"--{name}", f"--{name}s", dest=dest, action="append", default=[])
    given, _ = parser.parse_known_args(list(arguments))
    given.experiments = [each.strip() for group in given.experiments for each in group.split(",")]
    given.service = [each.strip() for group in given.service for each in group.split(",")]
    return given


def _accelerator(given: argparse.Namespace) -> dict[str, str]:
    """Dataflow's own option for a GPU, in its parts: `type`, `count`, and words such as `install-nvidia-driver`.

    It is a service option, and an experiment for templates and older versions of Beam.
    """
    for option in (*given.service, *given.experiments):
        name, _, value = option.partition("=")
        if name == "worker_accelerator":
            return {key: rest for key, _, rest in (part.partition(":") for part in value.split(";"))}
    return {}


def _gpu_count(accelerator: dict[str, str]) -> int:
    count = accelerator.get("count", "1")
    return int(count) if count.isdecimal() else 1


def _check_places(config: JobConfig, given: argparse.Namespace) -> None:
    wanted = {"project": "PROJECT", "region": "us-central1", "temp_location": "gs://BUCKET/temp"}
    missing = [f"--{name}={value}" for name, value in wanted.items() if not getattr(given, name)]
    if missing:
        raise DataflowError(f"--runner={given.runner} needs {', '.join(missing)}")
    for name in ("temp_location", "staging_location"):
        value = getattr(given, name)
        if value and scheme_of(value) != "gs":
            raise DataflowError(f"--{name} must be in a bucket, gs://BUCKET/temp, not {value!r}")
    if scheme_of(config.output) != "gs":
        raise DataflowError(
            f"--output must be in a bucket, gs://BUCKET/captions, not {config.output!r}: the disks of "
            "Dataflow's workers are deleted with the workers"
        )
    from beam_job.inputs.lists import is_list  # loads Arrow, which --help does without

    for name in config.inputs:
        if scheme_of(name) == "file" and (is_glob(name) or not is_list(name)):
            raise DataflowError(
                f"--input={public_name(name)} is on this machine, where Dataflow's workers cannot read it; copy it "
                "to a bucket (gcloud storage cp) and give gs://BUCKET/..."
            )


def _check_accelerator(config: JobConfig, given: argparse.Namespace) -> None:
    accelerator = _accelerator(given)
    gpu = config.gpu or accelerator.get("type")
    option = f"--gpu={config.gpu}" if config.gpu else "worker_accelerator"
    if not gpu:
        return
    if config.gpu and accelerator and accelerator.get("type") != config.gpu:
        raise DataflowError(f"{option} and worker_accelerator=type:{accelerator.get('type')} name two GPUs; leave one")
    _check_machine(gpu, option, given)
    _check_sharing(option, accelerator, given)
    if accelerator and accelerator.get(_DRIVER) != _DRIVER_VERSION:
        raise DataflowError(
            f"{option} must request the driver as {_DRIVER}:{_DRIVER_VERSION}; otherwise workers have no "
            "driver, or one that is too old for CUDA 12"
        )
    if not given.sdk_container_image:
        raise DataflowError(
            f"{option} needs --sdk_container_image=IMAGE: Beam's own image has no CUDA (build one from the Dockerfile)"
        )


def _check_machine(gpu: str, option: str, given: argparse.Namespace) -> None:
    """Checks that the machine type, or the default one, can have this GPU."""
    machine = given.machine_type
    if gpu not in GPUS:
        if not machine:
            raise DataflowError(f"{option} names {gpu}, for which the job knows no machine type; give --machine_type")
        return
    if not machine and not GPUS[gpu].on_demand:
        raise DataflowError(
            f"{option}: {GPUS[gpu].machine}, the machine with one {gpu}, is available as Spot and Flex-start only; "
            f"give --machine_type={GPUS[gpu].machine} if your project can use it, or another GPU"
        )
    if machine and family_of(machine) != GPUS[gpu].family:
        raise DataflowError(
            f"--machine_type={machine} cannot have a {gpu}, which comes with {GPUS[gpu].family} machines, "
            f"such as {GPUS[gpu].machine}"
        )


def _check_sharing(option: str, accelerator: dict[str, str], given: argparse.Namespace) -> None:
    """Checks what else is asked of Dataflow together with a GPU."""
    hints = [hint for hint in given.resource_hints if hint.startswith("accelerator=")]
    if hints or "enable_prime" in (*given.service, *given.experiments):
        other = f"--resource_hints={hints[0]}" if hints else "enable_prime"
        raise DataflowError(
            f"{other} uses right fitting, which Dataflow refuses together with worker_accelerator ({option}); "
            "leave one of them out"
        )
    if "use_nvidia_mps" in accelerator and _ONE_PROCESS in given.experiments:
        raise DataflowError(
            f"use_nvidia_mps shares the GPU among processes, but --experiments={_ONE_PROCESS} allows only one; "
            "leave one of them out"
        )
    if "use_nvidia_mps" in accelerator and accelerator.get("count", "1") != "1":
        raise DataflowError(
            f"use_nvidia_mps is for workers with one GPU, not count:{accelerator['count']}; leave out one of them"
        )


def _added(config: JobConfig, given: argparse.Namespace) -> list[str]:
    accelerator = _accelerator(given)
    added = []
    if config.gpu and not accelerator:
        accelerated = f"worker_accelerator=type:{config.gpu};count:1;{_DRIVER}:{_DRIVER_VERSION}"
        added.append(f"--dataflow_service_options={accelerated}")
    if not given.machine_type:
        gpu = config.gpu or accelerator.get("type", "")
        added.append(f"--machine_type={GPUS[gpu].machine if gpu in GPUS else CPU_MACHINE}")
    if (config.gpu or accelerator) and not given.disk_size_gb:
        added.append(f"--disk_size_gb={_GPU_DISK_GB}")
    several = "use_nvidia_mps" in accelerator or "use_multiple_sdk_containers" in given.experiments
    if not several:
        if _ONE_PROCESS not in given.experiments:
            added.append(f"--experiments={_ONE_PROCESS}")
        if not given.number_of_worker_harness_threads:
            added.append(f"--number_of_worker_harness_threads={_THREADS}")
    if not given.max_num_workers:
        added.append(f"--max_num_workers={max(_MAX_WORKERS, int(given.num_workers or 0))}")
    if not given.sdk_container_image and not given.setup_file and _SETUP_FILE.exists():
        added.append(f"--setup_file={_SETUP_FILE}")
    return added


def _check_code(config: JobConfig, given: argparse.Namespace) -> None:
    if not given.sdk_container_image and not given.setup_file:
        raise DataflowError(
            "Dataflow's workers need the job's code: give --sdk_container_image=IMAGE, or --setup_file=setup.py of a "
            "checkout"
        )
    is_folder_here = config.model and scheme_of(config.model) == "file"
    if config.captioner:
        is_folder_here = is_folder_here and config.is_named and Path(config.model or "").is_dir()
    if is_folder_here and not given.sdk_container_image:
        raise DataflowError(
            f"--model={config.model} is on this machine, where Dataflow's workers cannot read it; copy it to a "
            "bucket (gcloud storage cp --recursive) and give --model=gs://BUCKET/..., or build an image that has it "
            "under the same path, and give --sdk_container_image=IMAGE"
        )


def _check_installed() -> None:
    try:
        found = importlib.util.find_spec("google.cloud.dataflow")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise DataflowError("--runner=DataflowRunner needs another package: pip install 'caption-images[dataflow]'")
