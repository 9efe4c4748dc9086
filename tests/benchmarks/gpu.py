"""What a GPU host can do and what the job makes of it: images a second of the model, of decoding, and of whole jobs.

    python -m tests.benchmarks.gpu [--images=8192] [--sizes=500x375,1920x1080] [--backbone=inception_resnet_v2]
        [--batch_size=N] [--photographs=FOLDER_OR_PARQUET] [--data=DEV.parquet]

    model alone     its batches lie on the device already; and copied from the host, one after the other
    loading alone   fetching and decoding the files of a set, in threads of one process, and in processes, one a core
    plain job       decoding threads and the model in one bare process (C of `throughput.py`)
    our job         with its defaults; its share of the model alone, and what it ran with

The model has random weights, so its captions never end before the last word. Whole jobs are measured from the end of
the first batch to the end of the last one. With --data (image, captions), the captions that change with the model that
ships where its encoder computes in float16. Each figure comes from a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from beam_job.cli.quiet import quiet_stderr
from beam_job.inputs.filters import Filters
from beam_job.loading.load_config import LoadConfig, default_threads
from beam_job.loading.process_loader import ProcessLoader
from beam_job.loading.thread_loader import ThreadLoader
from beam_job.records import Failure, ImageInput
from beam_job.storage import Allowed
from model import CaptionerConfig, Decoding, load_captioner, load_config, pad_batch
from model.preprocessing import MAX_PIXELS
from tests.benchmarks.photographs import load_photographs, make_set
from tests.benchmarks.throughput import Figures, _several, _size, count_rows, figures_of, machine, run_python

_WORDS = 5_000
_SECONDS = 10.0  # that the model alone is measured
_THIS = "tests.benchmarks.gpu"


def main() -> int:
    """The benchmark; with PART, one of its processes, which prints JSON."""
    args = _parser().parse_args()
    if args.part:
        with quiet_stderr():
            print(json.dumps(_PARTS[args.part](args)))
        return 0
    print(seen := machine(), "", sep="\n", flush=True)
    if seen.partition("TensorFlow sees ")[2].startswith("CPU;"):
        print("no GPU: numbers of the CPU\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        bundle = Path(folder, "model")
        run_python(_THIS, "bundle", f"--model={bundle}", f"--backbone={args.backbone}")
        for line in table(args, bundle, Path(folder)):
            print(line, flush=True)
    if args.data:
        print("", run_python("tests.benchmarks.precision", f"--data={args.data}"), sep="\n")
    return 0


def table(args: argparse.Namespace, bundle: Path, folder: Path) -> Iterator[str]:
    """Rows of the table, as they are measured."""
    found = json.loads(run_python(_THIS, "model", f"--model={bundle}", *_batch_size(args)))
    batch_size, alone = found["batch_size"], found["on device"]
    if args.images < 2 * batch_size:
        raise SystemExit(f"--images={args.images}: there must be two batches, of {batch_size}")
    ran_with = f"{found['engine']}, {found['precision']}, {batch_size} at once"
    yield f"| {args.backbone}, {ran_with} | images/s | of the model |"
    yield "|---|---|---|"
    yield f"| model alone, batches on the device | {alone:.1f} | 100% |"
    yield _row("model alone, batches from the host", found["from host"], alone)
    photographs = load_photographs(args.photographs)
    for size in args.sizes:
        images = folder / f"{size[0]}x{size[1]}"
        make_set(photographs, size, args.images, images)
        loading = json.loads(run_python(_THIS, "loading", f"--model={bundle}", f"--images_folder={images}"))
        for way, speed in loading.items():
            yield _row(f"{images.name}: loading alone, {way}", speed, alone)
        options = [f"--input={images}", f"--model={bundle}", f"--batch_size={batch_size}"]
        plain = whole("tests.benchmarks.others", "ceiling", *options, output=folder / f"plain-{images.name}")
        yield _row(f"{images.name}: plain job", plain.steady, alone)
        ours = whole("beam_job", *options, output=folder / f"job-{images.name}")
        yield _row(f"{images.name}: our job", ours.steady, alone)
        yield f"| {images.name}: our job's model busy {ours.summary['model_share']:.0%} | {_ran_with(ours)} | |"


def whole(*command: str, output: Path) -> Figures:
    """A whole job's figures, from its rows."""
    rows = output if command[0] == "beam_job" else output / "captions"
    started = time.time()
    run_python(*command, f"--output={rows}")
    figures = figures_of(output, started, time.time())
    if not count_rows(output):
        raise SystemExit(f"{' '.join(command)} wrote no captions")
    return figures


def _ran_with(job: Figures) -> str:
    return "; ".join(
        f"{one['engine']}, {one['precision']}, {one['batch_size']} at once" for one in job.summary["ran_with"]
    )


def _row(name: str, speed: float, alone: float) -> str:
    return f"| {name} | {speed:.1f} | {speed / alone:.0%} |"


def _batch_size(args: argparse.Namespace) -> list[str]:
    return [f"--batch_size={args.batch_size}"] if args.batch_size else []


def make_bundle(args: argparse.Namespace) -> str:
    """A captioner with random weights."""
    from model.backbones import backbone_named
    from model.bundle_writer import save_bundle
    from model.captioner import Captioner
    from model.network import build_network
    from model.vocabulary import SPECIAL_WORDS, Vocabulary

    config = CaptionerConfig(args.backbone, backbone_named(args.backbone).input_size)
    vocabulary = Vocabulary((*SPECIAL_WORDS, *(f"word{number}" for number in range(_WORDS))))
    captioner = Captioner(config, vocabulary, *build_network(config, len(vocabulary)))
    return save_bundle(args.model, captioner, card="# Random weights\n")


def model_alone(args: argparse.Namespace) -> dict[str, object]:
    """Images a second of the captioner that the job would use."""
    import tensorflow as tf

    from model.captioner import Captioner
    from model.devices import default_batch_size

    captioner = load_captioner(args.model, Decoding(), "auto", lambda _: None, "auto")
    batch_size, size = args.batch_size or default_batch_size(), captioner.config.input_size
    noise = np.random.default_rng(0).integers(0, 256, (batch_size, size, size, 3), np.uint8)
    images = pad_batch(list(noise), batch_size)
    from_host = _speed(lambda: captioner.caption(images), batch_size)
    on_device = from_host
    if isinstance(captioner, Captioner) and captioner.engine == "xla":
        with tf.device("GPU:0"):
            given = [tf.identity(images), tf.identity(captioner._uniforms(images))]
        on_device = _speed(lambda: captioner._compiled(*given).words.numpy(), batch_size)
    told = {"engine": captioner.engine, "precision": captioner.precision, "batch_size": batch_size}
    return told | {"from host": from_host, "on device": on_device}


def loading_alone(args: argparse.Namespace) -> dict[str, float]:
    """Images a second, by whether the interpreter's lock is shared."""
    cores = os.cpu_count() or 1
    folder = str(args.images_folder.resolve())
    allowed = Allowed(("file",), (folder,))
    size = load_config(args.model).input_size
    speeds = {}
    for way, make in (("threads", ThreadLoader), ("processes", ProcessLoader)):
        fetch_threads, _ = default_threads(cores, on_gpu=way == "processes")
        config = LoadConfig(size, fetch_threads, cores, MAX_PIXELS, 2**28, 60.0, allowed, Filters())
        loader = make(config)
        loader.put(None, [ImageInput(str(path)) for path in sorted(args.images_folder.iterdir())])
        times: list[float] = []
        while loader.pending:
            for event in loader.get():
                assert not isinstance(event.outcome, Failure), event
                times += [time.monotonic()] * (event.outcome is not None)
        loader.close()
        speeds[f"{cores} {way}"] = len(times) / (max(times) - min(times))
    return speeds


def _speed(work: Callable[[], object], images: int) -> float:
    """Images a second, after a first time that compiles and starts what there is."""
    work()
    started, rounds = time.monotonic(), 0
    while (spent := time.monotonic() - started) < _SECONDS:
        work()
        rounds += 1
    return rounds * images / spent


_PARTS = {"bundle": make_bundle, "model": model_alone, "loading": loading_alone}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {_THIS}", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="?", choices=_PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, default=8192, help="of each set")
    parser.add_argument("--sizes", type=_several(_size), default="500x375,1920x1080")
    parser.add_argument("--backbone", default="inception_resnet_v2")
    parser.add_argument("--batch_size", type=int, help="(default: the job's)")
    parser.add_argument("--photographs", type=Path, help="a folder, or Parquet with a column image (default: demo's)")
    parser.add_argument("--data", help="Parquet (image, captions): compare precisions with the bundled model")
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--images_folder", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
