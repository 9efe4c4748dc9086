"""What the distance to the bucket costs: the whole job with 0 and 40 ms added to each image's GET.

    python -m tests.benchmarks.fetch_latency [--images=1000] [--rounds=2]

Starts a storage emulator and a proxy before it that holds back media downloads, uploads copies of the sample
photographs, and runs the job with each delay in turn. Prints images a second of the whole job, start-up included, and
the ratio within each round.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from beam_job.cli.demo import sample_photographs
from tests.benchmarks.bucket import Proxy, bucket_of

DELAY_S = 0.04


def main() -> int:
    """The benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.fetch_latency", description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    print(f"{args.images} images, {os.cpu_count()} cores, {platform.machine()}")
    samples = [path.read_bytes() for path in sample_photographs() if path.suffix == ".jpg"]
    photographs = itertools.islice(itertools.cycle(samples), args.images)
    with (
        tempfile.TemporaryDirectory(prefix="fetch-latency-") as folder,
        bucket_of(photographs, Path(folder)) as address,
    ):
        for number in range(args.rounds):
            near = images_per_second(address, 0.0, Path(folder) / f"near{number}")
            far = images_per_second(address, DELAY_S, Path(folder) / f"far{number}")
            print(f"0 ms {near:6.1f} images/s   40 ms {far:6.1f} images/s   ratio {far / near:.2f}", flush=True)
    return 0


def images_per_second(address: str, delay: float, output: Path) -> float:
    """Runs the job through the proxy; its summary's figure."""
    Proxy.delay = delay
    command = [sys.executable, "-m", "beam_job", "--input=gs://bucket/photos/", f"--output={output}"]
    environment = os.environ | {"STORAGE_EMULATOR_HOST": address}
    subprocess.run(command, env=environment, stderr=subprocess.DEVNULL, check=True)
    [summary] = output.glob("runs/*/summary.json")
    return float(json.loads(summary.read_text())["images_per_second"])


if __name__ == "__main__":
    sys.exit(main())
