"""What the engines of a CPU are worth: the encoder, the decoding loop and the whole job, in turn.

    python -m tests.benchmarks.engines [--engines=litert,openvino] [--images=1000] [--size=500x375] [--rounds=3]
        [--photographs=FOLDER_OR_PARQUET] [--model=FOLDER]

The first table has milliseconds of CPU for each image, the least of the rounds. The second has one line for each run of
the job: images a second between the ends of its first and last batch and of the whole process, seconds to its first
captions, milliseconds of CPU for each image, and the peak memory of its largest process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from beam_job.cli.quiet import quiet_stderr
from model import DEFAULT_BUNDLE, load_captioner, load_image
from model.cpu_captioner import CpuCaptioner
from tests.benchmarks.photographs import load_photographs, make_set
from tests.benchmarks.throughput import figures_of, machine

_BATCH = 32


def main() -> int:
    """The benchmark."""
    args = parse()
    engines = args.engines.split(",")
    width, height = map(int, args.size.split("x"))
    print(f"{machine()}\n\n{args.images:,} JPEGs of {args.size}\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="engines-") as folder:
        photographs = Path(folder, "photographs")
        make_set(load_photographs(args.photographs), (width, height), args.images, photographs)
        print("| engine | encoder, ms | decoding loop, ms |\n|---|---|---|", flush=True)
        for engine in engines:
            encoder, loop = parts(engine, args.model, sorted(photographs.iterdir())[:256], args.rounds)
            print(f"| {engine} | {encoder:.1f} | {loop:.1f} |", flush=True)
        print(
            "\n| engine | images/s | whole | first captions after s | CPU ms | MB |\n|---|---|---|---|---|---|",
            flush=True,
        )
        for number in range(args.rounds):
            for engine in engines:
                print(job_line(engine, args.model, photographs, Path(folder, f"{engine}-{number}")), flush=True)
    return 0


def parse() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.engines",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--engines", default="litert,openvino")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--size", default="500x375", help="of the photographs, in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--photographs", type=Path, help="a folder, or Parquet with a column image (default: demo's)")
    parser.add_argument("--model", type=Path, default=DEFAULT_BUNDLE)
    return parser.parse_args()


def parts(engine: str, model: Path, files: list[Path], rounds: int) -> tuple[float, float]:
    """Milliseconds of CPU for each image: of the encoder, and of all else that captioning takes."""
    with quiet_stderr():
        captioner = load_captioner(model, engine=engine, log=lambda _: None)
        assert isinstance(captioner, CpuCaptioner), f"{engine} is no engine of a CPU"
        pixels = np.stack([load_image(path.read_bytes(), captioner.input_size).pixels for path in files])
        batches = np.split(pixels, range(_BATCH, len(pixels), _BATCH))
        captioner.caption(batches[0])
        encoder = min(cpu_seconds(captioner._encode, batches) for _ in range(rounds))
        everything = min(cpu_seconds(captioner.caption, batches) for _ in range(rounds))
    return 1000 * encoder / len(pixels), 1000 * (everything - encoder) / len(pixels)


def cpu_seconds(function: Callable[[np.ndarray], object], batches: list[np.ndarray]) -> float:
    """Of all threads, for all batches."""
    started = time.process_time()
    for batch in batches:
        function(batch)
    return time.process_time() - started


def job_line(engine: str, model: Path, photographs: Path, output: Path) -> str:
    """A line of the second table."""
    command = [sys.executable, "-m", "beam_job", f"--input={photographs}", f"--output={output}"]
    started = time.time()
    with tempfile.TemporaryFile("w+") as printed:
        job = subprocess.Popen([*command, f"--engine={engine}", f"--model={model}"], stderr=printed)
        _, status, usage = os.wait4(job.pid, 0)
        ended = time.time()
        if status:
            printed.seek(0)
            raise SystemExit(f"the run with {engine} failed:\n{printed.read()}")
    figures = figures_of(output, started, ended)
    cpu_ms = 1000 * (usage.ru_utime + usage.ru_stime) / len(list(photographs.iterdir()))
    return (
        f"| {engine} | {figures.steady:.1f} | {figures.whole:.1f} | {figures.start:.1f} | {cpu_ms:.1f} | "
        f"{usage.ru_maxrss / 1000:.0f} |"
    )


if __name__ == "__main__":
    sys.exit(main())
