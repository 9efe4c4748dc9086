"""How fast the job is, beside what it could be: images a second of six ways to caption the same images.

    python -m tests.benchmarks.throughput [--images=128] [--rounds=1] [--sizes=224x224,500x375,1920x1080]
        [--delays=0,40] [--bucket_size=500x375] [--photographs=FOLDER_OR_PARQUET] [--model=FOLDER] [--batch_size=32]

    C  the ceiling: decoding threads and the model in one bare process, without Beam
    N  the course notebook's way: one image at a time, Keras called step by step (ten images, of local sets)
    R  what a Beam user would write first: ReadMatches, decode in a Map, stock RunInference, WriteToParquet
    H  the same with this job's decoding, and CaptionModelHandler in RunInference: J/H is what the job's engine is worth
    T  CaptionImages, WriteToParquet
    J  this job

The sets are JPEGs made from photographs (`photographs.py`), on the local disk and, for one size, in a storage emulator
that answers after some milliseconds. Each way runs in a process of its own; a round runs all of them, one after the
other; shown are medians over the rounds, and ratios are taken within a round.

Two speeds are told apart. "Steady" is that between the ends of the first batch and of the last one. It leaves out the
start, and compiling; but images that were decoded during that time count for nothing, which flatters C and J where
there are only a few batches: give --images=1000 or more for figures to be quoted. "Whole" is all images by the time
from the start of the process to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds

from beam_job.output.stage_clock import WAITED_FOR
from tests.benchmarks.bucket import Proxy, bucket_of
from tests.benchmarks.photographs import load_photographs, make_set

NAMES = {"C": "ceiling", "N": "notebook", "R": "beam", "H": "handler", "T": "transform"}


@dataclass(frozen=True)
class ImageSet:
    """A set of images: what the table calls it, where it lies, and after how many seconds the bucket answers."""

    name: str
    source: str
    delay: float | None = None


@dataclass(frozen=True)
class Figures:
    """What a run came to: images a second (see above), seconds from the process's start to the end of the first batch,
    and of the job its `summary.json`.
    """

    steady: float
    whole: float
    start: float
    summary: Mapping[str, Any]


Round = Mapping[str, Figures]  # by C, N, R, H, T, J


def main() -> int:
    """The benchmark."""
    args = parse()
    print(
        machine(),
        f"{args.images:,} images a set, rounds: {args.rounds}, batch size: {args.batch_size}",
        sep="\n\n",
        flush=True,
    )
    rounds: dict[ImageSet, list[Round]] = {}
    with tempfile.TemporaryDirectory(prefix="throughput-") as folder:
        for image_set in image_sets(args, Path(folder)):
            rounds[image_set] = []
            for number in range(args.rounds):
                output = Path(folder, "out", image_set.name.replace(" ", "-"), str(number))
                rounds[image_set].append(one_round(image_set, output, args))
                told = {name: f"{figures.steady:.1f}" for name, figures in rounds[image_set][-1].items()}
                print(f"round {number + 1}, {image_set.name}: {told}", file=sys.stderr, flush=True)
    for table in (speed_table, whole_table, time_table):
        print("", *table(rounds), sep="\n")
    return 0


def parse() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--sizes", type=_several(_size), default="224x224,500x375,1920x1080", help="of local sets")
    parser.add_argument("--delays", type=_several(int), default="0,40", help="milliseconds a request; '' for no bucket")
    parser.add_argument("--bucket_size", type=_size, default="500x375")
    parser.add_argument("--photographs", type=Path, help="a folder, or Parquet with a column image (default: demo's)")
    parser.add_argument("--model", help="folder of a bundle (default: the bundled model)")
    parser.add_argument("--batch_size", type=int, default=32)
    args = parser.parse_args()
    if args.images <= args.batch_size:
        parser.error(f"--images={args.images}: there must be more than one batch, of {args.batch_size}")
    return args


def image_sets(args: argparse.Namespace, folder: Path) -> Iterator[ImageSet]:
    """Makes each set; a bucket lasts until the next set is asked for."""
    photographs = load_photographs(args.photographs)

    def made(size: tuple[int, int], place: str) -> tuple[str, Path]:
        path = folder / place / f"{size[0]}x{size[1]}"
        make_set(photographs, size, args.images, path)
        kilobytes = sum(file.stat().st_size for file in path.iterdir()) / args.images / 1000
        return f"{size[0]}x{size[1]}, {kilobytes:.0f} kB", path

    for size in args.sizes:
        name, path = made(size, "local")
        yield ImageSet(f"{name}, local", str(path))
    if args.delays:
        name, path = made(args.bucket_size, "bucket")
        with bucket_of((file.read_bytes() for file in sorted(path.iterdir())), folder) as address:
            os.environ["STORAGE_EMULATOR_HOST"] = address  # for the processes that are measured
            for delay in args.delays:
                yield ImageSet(f"{name}, bucket, {delay} ms", "gs://bucket/photos/", delay / 1000)


def one_round(image_set: ImageSet, output: Path, args: argparse.Namespace) -> Round:
    """All ways, one after the other."""
    Proxy.delay = image_set.delay or 0.0
    model = [f"--model={args.model}"] if args.model else []
    done = {}
    for name in (*NAMES, "J"):
        if name == "N" and image_set.delay is not None:
            continue
        to = output / name
        # Those that are no job write their rows where the job has its own.
        program = (
            ["beam_job", f"--output={to}"]
            if name == "J"
            else ["tests.benchmarks.others", NAMES[name], f"--output={to / 'captions'}"]
        )
        options = [f"--input={image_set.source}", f"--batch_size={args.batch_size}", *model]
        started = time.time()
        run_python(*program, *options)
        done[name] = figures_of(to, started, time.time())
        if name != "N" and (rows := count_rows(to)) != args.images:
            raise SystemExit(f"{name} wrote {rows} rows for {args.images} images of {image_set.name}")
    return done


def run_python(*arguments: str) -> str:
    """What a module prints; its complaints are shown where it fails."""
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout


def count_rows(output: Path) -> int:
    """Captions written."""
    return int(ds.dataset(output / "captions").count_rows())


def figures_of(output: Path, started: float, ended: float) -> Figures:
    """From the times in the rows, and those of the process (seconds since 1970)."""
    column = ds.dataset(output / "captions").to_table(["captioned_at"]).column(0).to_pylist()
    times = sorted(time.timestamp() for time in column)
    first, last = times[0], times[-1]
    later = sum(time > first for time in times)
    summary = [json.loads(path.read_text()) for path in output.glob("runs/*/summary.json")]
    return Figures(later / (last - first), len(times) / (ended - started), first - started, *(summary or [{}]))


def speed_table(rounds: Mapping[ImageSet, Sequence[Round]]) -> Iterator[str]:
    """Images a second, steady."""
    yield from _head("images/s, steady", *NAMES, "J", "J/C", "J/R", "J/H", "J/T", "J/N")
    for image_set, done in rounds.items():
        yield _line(
            image_set.name,
            *(_median(done, lambda figures: figures.steady, name) for name in (*NAMES, "J")),
            *(_median(done, lambda figures: figures.steady, "J", other) for other in ("C", "R", "H", "T", "N")),
        )


def whole_table(rounds: Mapping[ImageSet, Sequence[Round]]) -> Iterator[str]:
    """Images a second of whole processes, and their starts."""
    yield from _head(
        *("images/s, whole", "C", "R", "H", "T", "J", "J/C", "J/R", "J/H", "J/T"),
        *("first batch after s: C", "R", "H", "T", "J"),
    )
    for image_set, done in rounds.items():
        yield _line(
            image_set.name,
            *(_median(done, lambda figures: figures.whole, name) for name in ("C", "R", "H", "T", "J")),
            *(_median(done, lambda figures: figures.whole, "J", other) for other in ("C", "R", "H", "T")),
            *(_median(done, lambda figures: figures.start, name) for name in ("C", "R", "H", "T", "J")),
        )


def time_table(rounds: Mapping[ImageSet, Sequence[Round]]) -> Iterator[str]:
    """Where the job's time goes, by `summary.json`."""
    yield from _head("J, seconds", *(f"waiting for {stage}" for stage in WAITED_FOR), "model", "all", "model's share")
    for image_set, done in rounds.items():
        summaries = [one["J"].summary for one in done]
        yield _line(
            image_set.name,
            *(f"{statistics.median(one['wait_seconds'][stage] for one in summaries):.1f}" for stage in WAITED_FOR),
            f"{statistics.median(one['seconds_by_stage']['caption'] for one in summaries):.1f}",
            f"{statistics.median(one['seconds'] for one in summaries):.1f}",
            f"{statistics.median(one['model_share'] for one in summaries):.0%}",
        )


def _median(done: Sequence[Round], value: Callable[[Figures], float], name: str, by: str | None = None) -> str:
    """Over the rounds, of `name`'s value or of its ratio to that of `by`."""
    if name not in done[0] or (by and by not in done[0]):
        return ""
    found = statistics.median(value(one[name]) / (value(one[by]) if by else 1.0) for one in done)
    return f"{found:.2f}" if by else f"{found:.1f}"


def _head(*cells: str) -> list[str]:
    return [_line(*cells), "|---" * len(cells) + "|"]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def machine() -> str:
    """What the figures belong to."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    seen = json.loads(run_python("tests.benchmarks.others", "machine"))
    versions = ", ".join(f"{name} {version}" for name, version in seen["versions"].items())
    return (
        f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB; TensorFlow sees {', '.join(seen['devices'])}; {versions}; "
        f"importing TensorFlow, Keras and Beam takes {seen['seconds']:.1f} s"
    )


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(width), int(height)


def _several(kind: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    return lambda text: tuple(kind(part) for part in text.split(",") if part)


if __name__ == "__main__":
    sys.exit(main())
