"""Small pictures for the review page, made while the images are in hand.

A worker keeps them of a sample that depends on nothing but the URIs, and of the lowest scores of each shard. They lie
beside the run, a Parquet file a shard; the page is poorer without one of them, and a run no worse.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import io
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_job.planning.run import Run
from beam_job.records import CaptionedImage, DecodedImage
from beam_job.storage import StorageError, join, public_name
from beam_job.storage.parquet import parquet_bytes, read_parquet
from model.preprocessing import LoadedImage

LOWEST = 50  # of a run's captions, shown with their pictures
_SIDE = 160  # pixels of the longer side
_LOWEST_OF_SHARD = 4
SHARDS_WITH_LOWEST = 2_000  # of larger runs the other shards have sampled pictures alone: each file is read again
_QUALITY = 70
_THREADS = 16

# `name` is the URI without its secrets, `id` tells apart those that differ in them alone, and where there are some
# `object_version` is null: without its whole URI nobody can say whose correction it is.
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
class Picks:
    """Of which images of a run a picture is kept.

    Attributes:
      share: of the sample, from 0 to 1: images with a `place_of` below it; with 0, none is kept at all.
    """

    share: float

    @classmethod
    def of_run(cls, samples: int, inputs: int) -> Picks:
        """For a page with so many samples: some more, since chance may give fewer, and some of the images will fail."""
        expected = samples + 5 * math.sqrt(samples) + 16 if samples else 0
        return cls(min(1.0, expected / max(inputs, 1)))

    def lowest_of(self, shard: int) -> int:
        """How many of a shard's lowest scores."""
        return _LOWEST_OF_SHARD if self.share and shard < SHARDS_WITH_LOWEST else 0


NO_PICTURES = Picks(0.0)


def place_of(uri: str) -> float:
    """Where a URI stands in the order in which images are sampled: in [0, 1), the same in every run."""
    return (int(_id(uri), 16) >> 11) / 2**53


def _id(uri: str) -> str:
    return hashlib.sha256(uri.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Pictures:
    """Of the images of one shard, those whose pictures are kept.

    Args:
      picks: of the run.
      shard: its number.
    """

    def __init__(self, picks: Picks, shard: int) -> None:
        self._share = picks.share
        self._lowest = picks.lowest_of(shard)
        self._kept: dict[str, npt.NDArray[np.uint8]] = {}
        self._low: list[tuple[float, str, npt.NDArray[np.uint8]]] = []  # a heap, the highest of the low scores first

    def see(self, image: DecodedImage, row: CaptionedImage) -> None:
        """Keeps an image's pixels if it is one of those."""
        if place_of(row.uri) < self._share:
            self._kept[row.uri] = image.pixels
        if self._lowest:
            entry = (-row.captions[0].score, row.uri, image.pixels)
            if len(self._low) < self._lowest:
                heapq.heappush(self._low, entry)
            elif entry[:2] > self._low[0][:2]:
                heapq.heapreplace(self._low, entry)

    def write(self, run: Run, shard: int, rows: list[CaptionedImage]) -> None:
        """Writes the shard's pictures."""
        pixels = self._kept | {uri: low for _, uri, low in self._low}
        table = [_entry(row, pixels[row.uri]) for row in rows if row.uri in pixels]
        if table:
            with contextlib.suppress(StorageError):  # the page lacks them then, and says how many it shows
                run.storage.write(_file(run, shard), parquet_bytes(pa.Table.from_pylist(table, SCHEMA)))


def _entry(row: CaptionedImage, pixels: npt.NDArray[np.uint8]) -> dict[str, Any]:
    name = public_name(row.uri)
    return {
        "id": _id(row.uri),
        "name": name,
        "caption": row.captions[0].text,
        "score": row.captions[0].score,
        "object_version": row.object_version if name == row.uri else None,
        "place": place_of(row.uri),
        "jpeg": _jpeg(pixels, row.width, row.height),
    }


def read_pictures(run: Run) -> Iterator[pa.Table]:
    """All that was kept of a run; files that cannot be read are left out."""

    def read(uri: str) -> pa.Table:
        try:
            return read_parquet(uri).read().cast(SCHEMA)
        except (StorageError, pa.ArrowException, ValueError, OSError):
            return SCHEMA.empty_table()

    files = [stored.uri for stored in run.storage.list(join(run.folder, "thumbnails"))]
    with ThreadPoolExecutor(_THREADS) as threads:
        yield from threads.map(read, files)


def _file(run: Run, shard: int) -> str:
    return join(run.folder, "thumbnails", f"part-{shard:05d}.parquet")


def _jpeg(pixels: npt.NDArray[np.uint8], width: int, height: int) -> bytes:
    picture = LoadedImage(pixels, width, height).in_proportion()
    picture.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
