"""`demo`: captions sample photographs that scikit-image and scikit-learn contain, and prints them as a table."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import pyarrow.dataset as ds

from beam_job.cli.command import main as caption_images
from beam_job.cli.logs import LOGGER
from beam_job.inputs.options import CommandParser
from beam_job.text import printable

SAMPLES = {
    "skimage": (
        "data/camera.png",
        "data/motorcycle_left.png",
        "data/astronaut.png",
        "data/chelsea.png",
        "data/coffee.png",
        "data/rocket.jpg",
    ),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
}
OUTPUT = "demo-output"
_DESCRIPTION = """\
Captions sample photographs with the bundled model, writes the output to demo-output/ in the working directory, and
prints a table of the captions. The photographs come with scikit-image and scikit-learn:
pip install 'caption-images[demo]'
"""


def sample_photographs() -> list[Path]:
    """Paths of the sample photographs. Raises FileNotFoundError if the packages of the extra are not installed."""
    found = []
    for package, names in SAMPLES.items():
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise FileNotFoundError(
                "the sample photographs come with scikit-image and scikit-learn: pip install 'caption-images[demo]'"
            )
        found += [Path(spec.origin).parent / name for name in names]
    missing = [str(path) for path in found if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"sample photographs are missing: {', '.join(missing)}")
    return found


def main(arguments: Sequence[str]) -> int:
    """Captions the samples into `demo-output/` in the working directory; returns the exit code."""
    CommandParser("caption-images demo", description=_DESCRIPTION).parse_args(arguments)
    try:
        photographs = sample_photographs()
    except FileNotFoundError as error:
        LOGGER.error(str(error))
        return 2
    given = [*(f"--input={path}" for path in photographs), f"--output={OUTPUT}", "--recaption"]
    code = caption_images(given, examples=False)  # all of them follow as a table
    if code == 0:
        print_captions(Path(OUTPUT))
    return code


def print_captions(output: Path) -> None:
    """Prints a table of the newest run: image, caption, score."""
    newest = max((output / "captions").iterdir())
    rows = ds.dataset(newest).to_table(["uri", "caption", "score"]).to_pylist()
    names = [printable(Path(row["uri"]).name) for row in rows]
    captions = [printable(row["caption"]) for row in rows]
    name_width, caption_width = max(map(len, names)), max(map(len, captions))
    print(f"\n{'image':{name_width}}  {'caption':{caption_width}}  score")
    for name, caption, row in zip(names, captions, rows, strict=True):
        print(f"{name:{name_width}}  {caption:{caption_width}}  {row['score']:.2f}")
    print(f"\nParquet files: {newest.resolve()}")
