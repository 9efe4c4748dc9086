"""Writes data sets for Hugging Face's `datasets`: an ImageFolder, or Parquet with embedded images."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_job.results.export.files import put_image
from beam_job.results.export.images import FetchedImage, ImageFetcher
from beam_job.results.export.names import flat_name

_FILES_A_FOLDER = 1_000
_GROUP_BYTES = 32 * 2**20  # of images in a row group, which a reader holds in memory
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_imagefolder(tables: Iterable[pa.Table], folder: str, images: ImageFetcher) -> int:
    """Writes `train/metadata.parquet` and, below `train/images/`, the images; returns their number.

    The metadata has `file_name`, `text` (the caption) and the row's other columns.
    """
    train = os.path.join(folder, "train")
    os.makedirs(os.path.join(train, "images"))
    written = 0
    writer = None
    try:
        for table in tables:
            names: list[str | None] = []
            for uri, image in zip(table["uri"].to_pylist(), images.of(table), strict=True):
                names.append(None if image is None else _put(train, written, uri, image))
                written += image is not None
            named = _renamed(table).add_column(0, "file_name", pa.array(names, pa.string()))
            named = named.filter(pc.is_valid(named["file_name"]))
            writer = writer or pq.ParquetWriter(os.path.join(train, "metadata.parquet"), named.schema)
            if named.num_rows:
                writer.write_table(named)
    finally:
        if writer is not None:
            writer.close()
    return written


def write_with_images(
    tables: Iterable[pa.Table], folder: str, images: ImageFetcher, max_rows: int, max_bytes: int
) -> int:
    """Writes `data/train-00000-of-0000N.parquet` with embedded images; returns their number.

    The columns are `image` (Hugging Face's image feature), `text`, `captions` (a list with the text, or with all
    captions) and the row's other columns. `python -m model train --data=DIR/data` reads these files too.

    Args:
      tables: of captions.
      folder: to write to.
      images: fetches the images of the captions.
      max_rows: of a file.
      max_bytes: bytes of the images in a file; the last row group may exceed it by 32 MB.
    """
    files = _ParquetFiles(os.path.join(folder, "data"), max_rows, max_bytes)
    try:
        for table in tables:
            waiting: list[tuple[int, FetchedImage]] = []
            size = 0
            for row, image in enumerate(images.of(table)):
                if image is None or image.data is None:
                    continue
                waiting.append((row, image))
                size += len(image.data)
                if size >= _GROUP_BYTES:
                    files.write(_with_images(table, waiting), size)
                    waiting, size = [], 0
            if waiting:
                files.write(_with_images(table, waiting), size)
    finally:
        files.close()
    files.name()
    return files.rows


class _ParquetFiles:
    """Writes Parquet files one after the other, and names them when their number is known."""

    def __init__(self, folder: str, max_rows: int, max_bytes: int) -> None:
        os.makedirs(folder)
        self._folder, self._max_rows, self._max_bytes = folder, max_rows, max_bytes
        self._writer: pq.ParquetWriter | None = None
        self._files = self._rows = self._bytes = 0
        self.rows = 0

    def write(self, table: pa.Table, size: int) -> None:
        while table.num_rows:
            if self._writer is None or self._rows >= self._max_rows or self._bytes >= self._max_bytes:
                self.close()
                self._writer = pq.ParquetWriter(self._path(f"{self._files:05d}"), table.schema)
                self._files, self._rows, self._bytes = self._files + 1, 0, 0
            part = table.slice(0, self._max_rows - self._rows)
            self._writer.write_table(part)
            self._rows, self._bytes = self._rows + part.num_rows, self._bytes + size
            self.rows += part.num_rows
            table = table.slice(part.num_rows)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def name(self) -> None:
        for number in range(self._files):
            os.rename(self._path(f"{number:05d}"), self._path(f"train-{number:05d}-of-{self._files:05d}.parquet"))

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)


def _put(train: str, number: int, uri: str, image: FetchedImage) -> str:
    """Writes an image below `train`, a thousand in each folder; returns its path from there."""
    inner = f"images/{number // _FILES_A_FOLDER:05d}"
    os.makedirs(os.path.join(train, inner), exist_ok=True)
    name = f"{inner}/{flat_name(uri)}{image.suffix}"
    put_image(image, os.path.join(train, name))
    return name


def _renamed(table: pa.Table) -> pa.Table:
    """Names the caption `text`, as trainers expect, and renames carried columns that collide with reserved names."""
    return table.rename_columns(["text" if name == "caption" else _carried(name) for name in table.column_names])


def _carried(name: str) -> str:
    """A carried column's name; `datasets` would open the files that a column ending in `file_name` lists."""
    taken = name in ("text", "image", "label") or name.endswith(("file_name", "file_names"))
    return f"{name}_in_list" if taken else name


def _with_images(table: pa.Table, images: Sequence[tuple[int, FetchedImage]]) -> pa.Table:
    rows = table.take(pa.array([row for row, _ in images], pa.int64()))
    said = [[caption] for caption in rows["caption"].to_pylist()]
    if "captions" in rows.column_names:
        several = rows["captions"].to_pylist()
        said = [many or one for many, one in zip(several, said, strict=True)]
        rows = rows.drop_columns("captions")
    files = zip(rows["uri"].to_pylist(), images, strict=True)
    pictures = [{"bytes": image.data, "path": f"{flat_name(uri)}{image.suffix}"} for uri, (_, image) in files]
    rows = _renamed(rows).add_column(0, pa.field("image", _IMAGE), pa.array(pictures, _IMAGE))
    rows = rows.append_column("captions", pa.array(said, pa.list_(pa.string())))
    # The one feature that `datasets` cannot infer from the types.
    return rows.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})}
    )
