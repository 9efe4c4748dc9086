"""Writes WebDataset tars like img2dataset: `00000.tar` with `000000000.jpg`, `.txt` and `.json` of each image."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from collections.abc import Iterable

import pyarrow as pa

from beam_job.inputs.columns import to_json
from beam_job.results.export.images import ImageFetcher


def write_webdataset(
    tables: Iterable[pa.Table], folder: str, images: ImageFetcher, max_rows: int, max_bytes: int
) -> int:
    """Writes the tars; returns the number of images in them.

    The `json` holds the row. Files are named by numbers, never by URIs; the same rows give the same tars.

    Args:
      tables: of captions.
      folder: to write to.
      images: fetches the images of the captions.
      max_rows: images in a tar.
      max_bytes: size of a tar; its last image may exceed it.
    """
    with _Tars(folder, max_rows, max_bytes) as tars:
        for table in tables:
            for row, image in zip(table.to_pylist(), images.of(table), strict=True):
                if image is not None and image.data is not None:
                    key = f"{tars.images:09d}"
                    tars.add(
                        (f"{key}{image.suffix}", image.data),
                        (f"{key}.txt", row["caption"].encode("utf-8")),
                        (f"{key}.json", to_json({"key": key, **row}).encode("utf-8")),
                    )
        return tars.images


class _Tars(contextlib.AbstractContextManager["_Tars"]):
    """Writes tars one after the other; a sample is never split."""

    def __init__(self, folder: str, max_rows: int, max_bytes: int) -> None:
        self._folder, self._max_rows, self._max_bytes = folder, max_rows, max_bytes
        self._tar: tarfile.TarFile | None = None
        self._tars = self._in_tar = 0
        self.images = 0

    def add(self, *files: tuple[str, bytes]) -> None:
        if self._tar is None or self._in_tar >= self._max_rows or self._tar.offset >= self._max_bytes:
            self._close()
            self._tar = tarfile.open(os.path.join(self._folder, f"{self._tars:05d}.tar"), "x:")  # noqa: SIM115
            self._tars, self._in_tar = self._tars + 1, 0
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            self._tar.addfile(entry, io.BytesIO(content))
        self._in_tar += 1
        self.images += 1

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._tar is not None:
            self._tar.close()
