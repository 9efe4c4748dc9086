"""Sets of JPEGs of one size, made from photographs: cut out, scaled up, with noise in place of the detail they lack."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from beam_job.cli.demo import sample_photographs

DISTINCT = 32  # files of a set; the others are links to them
_SHARE = (0.7, 1.0)  # of the photograph's width or height that is cut out
_NOISE = 4.0  # standard deviation, of 255; it makes files of the size that cameras make
_QUALITY = 85


def load_photographs(source: Path | None) -> list[Image.Image]:
    """Some photographs: of a folder, of a Parquet file's column `image`, or those of the demo."""
    if source is None:
        files: list[Any] = list(sample_photographs())
    elif source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    else:
        first = next(pq.ParquetFile(source).iter_batches(DISTINCT, columns=["image"]))
        cells = first.column("image").to_pylist()
        files = [io.BytesIO(cell["bytes"] if isinstance(cell, dict) else cell) for cell in cells]
    if not files:
        raise SystemExit(f"--photographs={source}: no photographs there")
    return [Image.open(file).convert("RGB") for file in files[:DISTINCT]]


def make_set(photographs: list[Image.Image], size: tuple[int, int], images: int, folder: Path) -> None:
    """Writes `images` JPEGs of `size` into a new folder."""
    folder.mkdir(parents=True)
    for number, jpeg in enumerate(_jpegs(photographs, size, min(images, DISTINCT))):
        (folder / f"{number:05d}.jpg").write_bytes(jpeg)
    for number in range(DISTINCT, images):
        os.link(folder / f"{number % DISTINCT:05d}.jpg", folder / f"{number:05d}.jpg")


def _jpegs(photographs: list[Image.Image], size: tuple[int, int], count: int) -> Iterator[bytes]:
    random = np.random.default_rng(0)
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        scaled = photograph.resize(size, Image.Resampling.LANCZOS, _cut(photograph.size, size, random))
        noisy = np.asarray(scaled, np.float32) + random.normal(0, _NOISE, (size[1], size[0], 1))
        file = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=_QUALITY)
        yield file.getvalue()


def _cut(
    whole: tuple[int, int], size: tuple[int, int], random: np.random.Generator
) -> tuple[float, float, float, float]:
    """A box of `size`'s shape somewhere in the picture."""
    scale = random.uniform(*_SHARE) * min(whole[0] / size[0], whole[1] / size[1])
    width, height = scale * size[0], scale * size[1]
    left, top = random.uniform(0, whole[0] - width), random.uniform(0, whole[1] - height)
    return left, top, left + width, top + height
