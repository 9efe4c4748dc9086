"""What a precision of the encoder costs in captions: those that change, and the CIDEr of each.

    python -m tests.benchmarks.precision --data=DEV.parquet [--model=FOLDER] [--limit=N]

On a GPU this is what the job does there, compiled with XLA; on a CPU TensorFlow's graph computes in float16 too, slowly
but to the same rounding of each layer.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from beam_job.cli.quiet import quiet_stderr
from model import DEFAULT_BUNDLE, Decoding
from model.training.data import Example, read_examples
from model.training.evaluate import caption_examples
from model.training.metrics import caption_metrics

PRECISIONS = ("float32", "float16")


def main() -> int:
    """The table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.precision", description=__doc__)
    parser.add_argument("--data", required=True, help="Parquet files (image, captions)")
    parser.add_argument("--model", type=Path, default=DEFAULT_BUNDLE)
    parser.add_argument("--limit", type=int, help="only the first N photographs")
    args = parser.parse_args()
    with quiet_stderr():
        lines = [*agreement(read_examples(args.data, None)[: args.limit], args.model)]
    print(*lines, sep="\n")
    return 0


def agreement(examples: list[Example], bundle: Path) -> Iterator[str]:
    """Rows of a table, with the job's default decoding."""
    yield f"| {len(examples):,} photographs | captions that change | CIDEr | seconds |"
    yield "|---|---|---|---|"
    references = {example.image_id: example.captions for example in examples}
    first: dict[str, list[str]] = {}
    for precision in PRECISIONS:
        started = time.monotonic()
        captions = caption_examples(examples, bundle, Decoding(), "tensorflow", precision)
        said = {name: [caption.text] for name, caption in captions}
        seconds = time.monotonic() - started
        first = first or said
        changed = sum(said[name] != first[name] for name in said)
        metrics = caption_metrics(references, said).metrics
        yield f"| {precision} | {changed:,} | {metrics['CIDEr']:.2f} | {seconds:.0f} |"


if __name__ == "__main__":
    sys.exit(main())
