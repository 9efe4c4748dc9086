"""Thumbnails for the review page, made while the pixels are in memory.

A worker keeps the thumbnails of a sample that depends only on the URIs, and those of the lowest scores of each shard.
They are stored with the run, one Parquet file per shard. A missing file makes the page smaller and does not affect the
run.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import io
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from beam_job.output.formats import PARQUET_FORMAT, open_part
from beam_job.planning.run import Run
from beam_job.records import CaptionedImage, DecodedImage
from beam_job.storage import StorageError, join, public_name
from beam_job.storage.parquet import parquet_bytes
from model.preprocessing import LoadedImage

_SIDE = 256  # pixels of the longer side
_LOWEST_OF_SHARD = 4
SHARDS_WITH_LOWEST = 2_000  # later shards keep sampled thumbnails only, since every file is read again for the page
_MAX_HELD = 3 * 512 * 512  # bytes of an image's pixels
_QUALITY = 70
_THREADS = 16

# `name` is the URI without its secrets, and `id` distinguishes URIs that differ only in them. Where there are secrets,
# `object_version` is null: without the whole URI a correction could not be assigned. `place` is the `sample_key`.
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("name", pa.string()),
        ("caption", pa.string()),
        ("score", pa.float32()),
        ("object_version", pa.string()),
        ("place", pa.float64()),
        ("jpeg", pa.binary()),
    ]
)


@dataclass(frozen=True)
class ThumbnailSampler:
    """Which images of a run are sampled for the review page.

    Attributes:
      share: of the images, from 0 to 1: those with a `sample_key` below it; with 0, no thumbnail is kept at all.
    """

    share: float

    @classmethod
    def for_run(cls, samples: int, inputs: int) -> ThumbnailSampler:
        """For a page with `samples` thumbnails: some more, since chance may give fewer, and some images will fail."""
        expected = samples + 5 * math.sqrt(samples) + 16 if samples else 0
        return cls(min(1.0, expected / max(inputs, 1)))

    def lowest_of(self, shard: int) -> int:
        """How many thumbnails of a shard's lowest scores are kept too."""
        return _LOWEST_OF_SHARD if self.share and shard < SHARDS_WITH_LOWEST else 0


NO_THUMBNAILS = ThumbnailSampler(0.0)


def sample_key(uri: str) -> float:
    """A hash of the URI in [0, 1), the same in every run: images are sampled in its order."""
    return (int(image_id(uri), 16) >> 11) / 2**53


def image_id(uri: str) -> str:
    """A name of the image that tells nothing of its URI: 16 hexadecimal digits."""
    return hashlib.sha256(uri.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class ShardThumbnails:
    """Collects the thumbnails of one shard.

    Args:
      sampler: the run's.
      shard: its number.
    """

    def __init__(self, sampler: ThumbnailSampler, shard: int) -> None:
        self._share = sampler.share
        self._lowest = sampler.lowest_of(shard)
        self._sampled: dict[str, npt.NDArray[np.uint8]] = {}
        self._low: list[tuple[float, str, npt.NDArray[np.uint8]]] = []  # a heap, the highest of the low scores first

    def offer(self, image: DecodedImage, row: CaptionedImage) -> None:
        """Keeps the image's pixels if it is sampled, or if its score is among the shard's lowest so far."""
        if sample_key(row.uri) < self._share:
            self._sampled[row.uri] = _small(image.pixels)
        score = row.captions[0].score
        if self._lowest and score is not None:
            entry = (-score, row.uri, _small(image.pixels))
            if len(self._low) < self._lowest:
                heapq.heappush(self._low, entry)
            elif entry[:2] > self._low[0][:2]:
                heapq.heapreplace(self._low, entry)

    def write(self, run: Run, shard: int, rows: list[CaptionedImage]) -> None:
        """Writes the shard's thumbnails; where that fails, the page lacks them and says how many it shows."""
        pixels = self._sampled | {uri: low for _, uri, low in self._low}
        table = [_entry(row, pixels[row.uri]) for row in rows if row.uri in pixels]
        if table:
            with contextlib.suppress(StorageError):
                run.storage.write(
                    _file(run, shard), parquet_bytes(pa.Table.from_pylist(table, SCHEMA.with_metadata(PARQUET_FORMAT)))
                )


def _small(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Pixels to be held until the shard is written: a large picture's only as large as a thumbnail needs."""
    if pixels.size <= _MAX_HELD:
        return pixels
    picture = Image.fromarray(pixels)
    picture.thumbnail((2 * _SIDE, 2 * _SIDE))
    return np.asarray(picture)


def _entry(row: CaptionedImage, pixels: npt.NDArray[np.uint8]) -> dict[str, Any]:
    name = public_name(row.uri)
    return {
        "id": image_id(row.uri),
        "name": name,
        "caption": row.captions[0].text,
        "score": row.captions[0].score,
        "object_version": row.object_version if name == row.uri else None,
        "place": sample_key(row.uri),
        "jpeg": _jpeg(pixels, row.width, row.height),
    }


def read_thumbnails(run: Run) -> pa.Table:
    """All thumbnails of a run; files that cannot be read are left out."""

    def read(uri: str) -> pa.Table:
        try:
            return open_part(uri).read().select(SCHEMA.names).cast(SCHEMA)
        except (StorageError, pa.ArrowException, LookupError, ValueError, OSError):
            return SCHEMA.empty_table()

    files = [stored.uri for stored in run.storage.list(join(run.folder, "thumbnails"))]
    with ThreadPoolExecutor(_THREADS) as threads:
        return pa.concat_tables([SCHEMA.empty_table(), *threads.map(read, files)])


def _file(run: Run, shard: int) -> str:
    return join(run.folder, "thumbnails", f"part-{shard:05d}.parquet")


def _jpeg(pixels: npt.NDArray[np.uint8], width: int, height: int) -> bytes:
    picture = LoadedImage(pixels, width, height).in_proportion()
    picture.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
