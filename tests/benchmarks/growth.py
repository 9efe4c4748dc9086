"""Whether speed and memory stay the same as runs grow: the whole job over 1,000 to 20,000 photographs.

    python -m tests.benchmarks.growth [--images=1000,4000,16000,20000] [--size=500x375] [--model=FOLDER]

One run after the other over photographs on the local disk (`photographs.py`), with the default decoding. Prints for
each its speed, beside that of the first run, and the peak resident memory of all its processes, beside the first's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.memory_curve import resident_mb
from tests.benchmarks.photographs import load_photographs, make_set
from tests.benchmarks.throughput import figures_of, machine


@dataclass(frozen=True)
class Run:
    """What a run came to: images a second between the ends of its first and last batch, seconds from the start of the
    process to its first captions and to its end, and megabytes.
    """

    images: int
    steady: float
    first: float
    seconds: float
    peak_mb: float


def main() -> int:
    """The benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.growth", description=__doc__)
    parser.add_argument("--images", default="1000,4000,16000,20000", help="of each run")
    parser.add_argument("--size", default="500x375", help="of the photographs, in pixels")
    parser.add_argument("--model", help="folder of a bundle (default: the bundled model)")
    args = parser.parse_args()
    print(f"{machine()}\n\nJPEGs of {args.size}\n", flush=True)
    print(
        "| images | images/s | of the first | first captions after s | all s | peak MB | above the first |", flush=True
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    runs: list[Run] = []
    width, height = map(int, args.size.split("x"))
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        for images in map(int, args.images.split(",")):
            photographs = Path(folder, f"{len(runs)}-{images}")
            make_set(load_photographs(None), (width, height), images, photographs)
            runs.append(measure(photographs, Path(folder, f"{len(runs)}-out"), images, args.model))
            run, first = runs[-1], runs[0]
            print(
                f"| {run.images:,} | {run.steady:.1f} | {run.steady / first.steady:.2f} | {run.first:.1f} | "
                f"{run.seconds:.0f} | {run.peak_mb:,.0f} | {run.peak_mb - first.peak_mb:+,.0f} |",
                flush=True,
            )
    return 0


def measure(photographs: Path, output: Path, images: int, model: str | None) -> Run:
    """Runs the job once and watches its memory."""
    command = [sys.executable, "-m", "beam_job", f"--input={photographs}", f"--output={output}"]
    command += [f"--model={model}"] if model else []
    started, peak = time.time(), 0.0
    with tempfile.TemporaryFile("w+") as printed, subprocess.Popen(command, stderr=printed) as job:
        while job.poll() is None:
            peak = max(peak, resident_mb(job.pid))
            time.sleep(0.2)
        ended = time.time()
        summaries = [json.loads(path.read_text()) for path in output.glob("runs/*/summary.json")]
        if [summary["captions"] for summary in summaries] != [images]:
            printed.seek(0)
            raise SystemExit(f"the run over {images} images failed:\n{printed.read()}")
    figures = figures_of(output, started, ended)
    return Run(images, figures.steady, figures.start, ended - started, peak)


if __name__ == "__main__":
    sys.exit(main())
