"""Lists a bucket of N objects from a local server that waits before each page, as Google's would.

    python -m tests.benchmarks.list_million [--objects=1000000] [--latency=0.05] [--layout=folders]

Prints seconds, requests and the process's peak memory; the server is a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import sys
import time
from multiprocessing.connection import Connection

from beam_job.inputs.listing import list_images
from tests.benchmarks.plan_million import peak_mb
from tests.paging_server import serve_pages

LAYOUTS = {
    "folders": lambda n: f"photos/{n // 1000:05d}/{n % 1000:04d}.jpg",
    "small_folders": lambda n: f"photos/{n // 10:06d}/{n % 10}.jpg",
    "ten_folders": lambda n: f"photos/{n % 10}/{n:08d}.jpg",
    "flat": lambda n: f"photos/{n:08d}.jpg",
    "hashes": lambda n: f"photos/{n * 2654435761 % (1 << 32):08x}.jpg",
    "dates": lambda n: f"photos/{2020 + n % 6}/{n // 6 % 12 + 1:02d}/{n // 72 % 28 + 1:02d}/{n:08d}.jpg",
}


def main() -> int:
    """The benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.list_million", description=__doc__)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds before each page")
    parser.add_argument("--layout", choices=LAYOUTS, default="folders")
    args = parser.parse_args()
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(
        target=serve, args=(theirs, args.layout, args.objects, args.latency), daemon=True
    )
    server.start()
    os.environ["STORAGE_EMULATOR_HOST"] = ours.recv()
    base, started = peak_mb(), time.monotonic()
    objects = sum(batch.num_rows for batch in list_images(["gs://bucket/"]))
    seconds = time.monotonic() - started
    ours.send("done")
    pages = ours.recv()
    print(
        f"{args.layout}: {objects:,} objects, {args.latency * 1000:.0f} ms a page: {seconds:.1f} s, {pages:,} pages, "
        f"peak {peak_mb():.0f} MB (imports {base:.0f} MB); {os.cpu_count()} cores, {platform.machine()}"
    )
    return 0


def serve(pipe: Connection, layout: str, objects: int, latency_s: float) -> None:
    """The server's process; sends its address, and at the end the number of requests."""
    with serve_pages([LAYOUTS[layout](number) for number in range(objects)], latency_s=latency_s) as paging:
        pipe.send(paging.address)
        pipe.recv()
        pipe.send(len(paging.asked))


if __name__ == "__main__":
    sys.exit(main())
