"""What 1 million, 100 million and 1 billion images take on Dataflow, on paper: the tables of docs/scale.md.

    python -m tests.benchmarks.scale

Nothing runs: the speeds, start-up times and prices are those of `runners.estimate` and `runners.machines`, and what
listing, planning and summing up take was measured by the benchmarks that are named beside each.
"""

from __future__ import annotations

import math

from beam_job.runners.dataflow import Workers
from beam_job.runners.estimate import Estimate, estimate_on_dataflow, format_hours
from beam_job.runners.machines import CPU_MACHINE, GPUS, PRICES

IMAGES = (1_000_000, 100_000_000, 1_000_000_000)
KINDS = (None, "nvidia-tesla-t4", "nvidia-l4", "nvidia-tesla-a100", "nvidia-h100-80gb")
BYTES = {"500x375": 52_000, "1920x1080": 420_000}
NIGHT_H = 8.0
SHARD_SIZE = 512

LIST_S_A_MILLION = 92  # list_million --latency=0.04, the slower of its runs: one page after the other
PLAN_S_A_MILLION = 6  # plan_million: CPU, half of them done
PLAN_BYTES_A_ROW = 39  # 16 of a completed image, 10 of a listed one, and half of that again while they are merged
PLAN_ROWS_A_FILE = 100 * SHARD_SIZE
PLAN_FILE_S = 0.2  # some 2 MB written to a bucket, one after the other; assumed
SUM_UP_A_SECOND = 16 / 0.05  # shards: a request of 50 ms for each, 16 threads


def main() -> None:
    """Prints the tables as Markdown."""
    print(tables())


def tables() -> str:
    """Captioning with each kind of worker, and what the launcher does before and after."""
    parts = [f"Prices: {PRICES}. Each row is done in {NIGHT_H:.0f} h, or has one worker."]
    for name, mean_bytes in BYTES.items():
        rows = [_row(images, kind, mean_bytes) for images in IMAGES for kind in KINDS]
        head = "| images | worker | images/s each | what limits it | workers | hours | worker-hours | dollars |"
        parts.append("\n".join([f"JPEGs of {name}, {mean_bytes // 1_000} kB:\n", head, "|---" * 8 + "|", *rows]))
    head = "| images | bytes at 52 kB | listing | planning | shards | summing up |"
    parts.append("\n".join(["The launcher:\n", head, "|---" * 6 + "|", *map(_launcher_row, IMAGES)]))
    return "\n\n".join(parts)


def _row(images: int, kind: str | None, mean_bytes: int) -> str:
    estimate = _estimate(images, kind, mean_bytes, workers=1)
    working = NIGHT_H - estimate.start_hours
    workers = math.ceil(images / estimate.worker.images_per_second / 3600 / working)
    estimate = _estimate(images, kind, mean_bytes, workers)
    assert estimate.cost is not None
    speed = estimate.worker
    return (
        f"| {images:,} | {kind or CPU_MACHINE} | {speed.images_per_second:,.0f} | {speed.bottleneck} | {workers:,} | "
        f"{estimate.hours:.1f} | {estimate.worker_hours:,.1f} | {estimate.cost:,.2f} |"
    )


def _estimate(images: int, kind: str | None, mean_bytes: int, workers: int) -> Estimate:
    machine = GPUS[kind].machine if kind else CPU_MACHINE
    asked = Workers(machine, kind, workers, 50 if kind else None, threads=4, one_process=True, image="an image")
    estimate = estimate_on_dataflow(images, mean_bytes, asked, SHARD_SIZE)
    assert estimate is not None
    return estimate


def _launcher_row(images: int) -> str:
    millions = images / 1e6
    shards = -(-images // SHARD_SIZE)
    plan_h = (millions * PLAN_S_A_MILLION + images / PLAN_ROWS_A_FILE * PLAN_FILE_S) / 3600
    memory = f"{0.4 + images * PLAN_BYTES_A_ROW / 1e9:,.1f} GB"
    return (
        f"| {images:,} | {images * 52_000 / 1e12:,.2f} TB | {format_hours(millions * LIST_S_A_MILLION / 3600)} | "
        f"{format_hours(plan_h)}, {memory} | {shards:,} | {format_hours(shards / SUM_UP_A_SECOND / 3600)} |"
    )


if __name__ == "__main__":
    main()
