"""Estimates the time and cost of a run from measured speeds.

The speeds were measured with one process: the default model on a CPU (docs/performance.md), and loading on the host of
an H200. The text names what was assumed instead of measured. `tests/benchmarks/scale.py` computes docs/scale.md with
the same functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from beam_job.loading.load_config import default_threads
from beam_job.runners.dataflow import Workers
from beam_job.runners.machines import GPUS, PRICES, READS, WRITES
from beam_job.text import counted

MEAN_BYTES = 200_000  # of an image whose size is unknown

# Milliseconds of a core an image takes: so much, and so much more for each kB of JPEG. Fitted through two points each.
# Two cores of an AMD EPYC, the whole job (growth.py): 200 images/s of 46 kB (500x375), 166 of 348 kB (1920x1080).
_CPU_MS, _CPU_MS_A_KB = 9.69, 0.0068
# 16 cores beside an H200, the whole job with a model for 299 pixels (gpu.py): 3,324 images/s of 39 kB with the cores
# busy for 60 % of the time and the GPU for half, so that the model's process is to blame; 1,380 of 315 kB with 94 %.
_LOAD_MS, _LOAD_MS_A_KB = 1.76, 0.0290
_PROCESS_MS = 0.30
_REQUEST_S = 0.05  # from asking a bucket for an image to having it
_START_H = {"gpu": 0.12, "image": 0.06, "package": 0.1}  # until the first image; assumed
_ROWS_A_LISTING = 1_000


@dataclass(frozen=True)
class Speed:
    """Images per second that each part of one worker can process.

    Attributes:
      parts: by name: "fetching", then on the CPU "decoding and the model", beside a GPU each for itself.
    """

    parts: Mapping[str, float]

    @property
    def images_per_second(self) -> float:
        """The speed of the slowest part."""
        return min(self.parts.values())

    @property
    def bottleneck(self) -> str:
        """The slowest part."""
        return min(self.parts, key=lambda part: self.parts[part])


def speed(cores: int, gpu: str | None, mean_bytes: float, fetch_threads: int | None = None) -> Speed:
    """The speed of a worker with so many cores: one process, or as many on the CPU as they can feed.

    Args:
      cores: or vCPUs, which are taken for as much.
      gpu: one of `GPUS`, or None.
      mean_bytes: of an image.
      fetch_threads: of its process; None for the default.
    """
    kilobytes = mean_bytes / 1_000
    fetching, decoding = default_threads(cores, on_gpu=gpu is not None)
    fetching = fetch_threads or fetching
    if gpu is None:
        processes = max(1, cores // 2)
        return Speed(
            {
                "fetching": processes * fetching / _REQUEST_S,
                "decoding and the model": 1_000 * cores / (_CPU_MS + _CPU_MS_A_KB * kilobytes),
            }
        )
    parts = {
        "fetching": fetching / _REQUEST_S,
        "decoding": 1_000 * decoding / (_LOAD_MS + _LOAD_MS_A_KB * kilobytes),
        "the model's process": 1_000 / _PROCESS_MS,
    }
    return Speed(parts | ({"the GPU": GPUS[gpu].images_per_second} if gpu in GPUS else {}))


@dataclass(frozen=True)
class Estimate:
    """The estimated time and cost of a run.

    Attributes:
      images: to be captioned.
      mean_bytes: of one.
      workers: that take part.
      worker: the speed of one.
      start_hours: of each until its first image.
      price: dollars for a worker's hour; None where it is unknown.
      shards: files to be written, some for each.
      in_bucket: whether images are fetched from a bucket, which charges for it.
    """

    images: int
    mean_bytes: float
    workers: int
    worker: Speed
    start_hours: float
    price: float | None
    shards: int
    in_bucket: bool

    @property
    def hours(self) -> float:
        """From the start to the end, with all workers from the start."""
        return self.start_hours + self.images / self.worker.images_per_second / self.workers / 3600

    @property
    def worker_hours(self) -> float:
        """The hours of all workers together."""
        return self.hours * self.workers

    @property
    def requests_cost(self) -> float:
        """Dollars for the bucket's operations: an image fetched, a page listed, two files a shard and its checks."""
        if not self.in_bucket:
            return 0.0
        return self.images * READS + (self.images / _ROWS_A_LISTING + 2 * self.shards) * WRITES

    @property
    def cost(self) -> float | None:
        """Dollars for all."""
        return None if self.price is None else self.worker_hours * self.price + self.requests_cost


def estimate_on_dataflow(
    images: int,
    mean_bytes: float,
    workers: Workers,
    shard_size: int,
    price: float | None = None,
    fetch_threads: int | None = None,
) -> Estimate | None:
    """Estimates a run with these workers; None where nobody knows the size of their machine.

    Args:
      images: to be captioned.
      mean_bytes: of one.
      workers: as `dataflow.workers_of` tells.
      shard_size: images.
      price: dollars for a worker's hour, instead of the list price.
      fetch_threads: of a process; None for the default.
    """
    size = workers.size
    if size is None:
        return None
    shards = -(-images // shard_size)
    machine = size.hour(workers.disk_gb or 25)
    if price is None and machine is not None and (workers.gpu is None or workers.gpu in GPUS):
        price = machine + (workers.gpu_count * GPUS[workers.gpu].hour if workers.gpu else 0.0)
    start = "gpu" if workers.gpu else "image" if workers.image else "package"
    return Estimate(
        images=images,
        mean_bytes=mean_bytes,
        workers=max(1, min(workers.max_workers, shards)),
        worker=speed(size.vcpus, workers.gpu, mean_bytes, fetch_threads),
        start_hours=_START_H[start],
        price=price,
        shards=shards,
        in_bucket=True,
    )


def describe(estimate: Estimate, listed: bool, own_price: bool) -> list[str]:
    """The estimate in lines for people.

    Args:
      estimate: of the run.
      listed: whether the images' sizes are known, or assumed.
      own_price: whether the user has given the price.
    """
    each = f"{estimate.mean_bytes / 1_000:,.0f} kB each{'' if listed else ', assumed, since the list has no sizes'}"
    rate = estimate.worker.images_per_second
    size = format_bytes(estimate.images * estimate.mean_bytes)
    lines = [
        f"estimate: {counted(estimate.images, 'image')}, {size} ({each})",
        f"  {format_hours(estimate.hours)} with {counted(estimate.workers, 'worker')} at {rate:,.0f} images/s each, "
        f"{estimate.worker_hours:,.2f} worker-hours; {format_hours(estimate.start_hours)} of each to start",
        f"  bottleneck of a worker: {estimate.worker.bottleneck} "
        f"({', '.join(f'{part} {limit:,.0f}' for part, limit in estimate.worker.parts.items())} images/s)",
    ]
    if estimate.cost is None:
        lines.append("  cost: unknown, since this machine is not in the price table; give --worker_price=DOLLARS")
    elif estimate.cost or estimate.price:
        source = "as given" if own_price else PRICES
        lines.append(
            f"  cost: ${estimate.cost:,.2f} (${estimate.price:,.2f} per worker-hour, {source}; "
            f"${estimate.requests_cost:,.2f} of it for the bucket's operations)"
        )
    lines.append(
        "  assumed: the default model and decoding, speeds measured on other machines (a vCPU as one of their cores; "
        f"GPUs derived from an H100), {1_000 * _REQUEST_S:.0f} ms a request; the result may be off by a factor of two"
    )
    return lines


def format_bytes(number: float) -> str:
    """`12.3 GB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1_000:
            return f"{number:,.0f} {unit}" if unit == "B" else f"{number:,.1f} {unit}"
        number /= 1_000
    return f"{number:,.1f} PB"


def format_hours(hours: float) -> str:
    """`2 min`, `3.4 h`, `5.6 days`."""
    if hours < 1:
        return f"{round(60 * hours)} min" if hours > 1 / 60 else "less than a minute"
    return f"{hours:,.1f} h" if hours < 48 else f"{hours / 24:,.1f} days"
