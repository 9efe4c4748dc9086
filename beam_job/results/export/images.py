"""Fetches images in the version that was captioned, and only from places that their run was allowed to read."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from beam_job.inputs.filters import Filters
from beam_job.inputs.packed import Place, list_of_row
from beam_job.inputs.tars import container_of
from beam_job.loading.images import fetch, fetch_failure
from beam_job.records import Failure, ImageInput
from beam_job.results.export.left_out import LeftOut
from beam_job.results.export.names import SIGNATURE_BYTES, suffix_of
from beam_job.results.planned_images import PlannedImages
from beam_job.storage import Allowed, StorageError, real_path, scheme_of, storage_for
from beam_job.storage.versions import is_same_version

_COLUMNS = ["uri", "object_version", "run"]
_AHEAD = 2  # images per thread that may wait for the writer


@dataclass(frozen=True)
class FetchedImage:
    """An image to export.

    Attributes:
      suffix: file extension of its kind, with the dot.
      data: the file's bytes; None where `path` is to be linked.
      path: the local file, without symbolic links.
    """

    suffix: str
    data: bytes | None
    path: str | None = None


class ImageFetcher:
    """Fetches images, several at a time, and returns them in the order of their rows.

    Args:
      allowed: what each run could read, by the run's name.
      otherwise: what may be read for rows of any other run.
      left_out: gets the images that are missing, have changed, or may not be read.
      planned: what the runs planned of their images.
      link: return the paths of local files instead of their content.
      threads: number of fetching threads.
      timeout: seconds for one image, retries included.
    """

    def __init__(
        self,
        allowed: Mapping[str, Allowed],
        otherwise: Allowed,
        left_out: LeftOut,
        planned: PlannedImages,
        link: bool = False,
        threads: int = 16,
        timeout: float = 60.0,
    ) -> None:
        self._allowed = allowed
        self._otherwise = otherwise
        self._planned = planned
        self._link = link
        self._threads = threads
        self._timeout = timeout
        self.left_out = left_out

    def of(self, rows: pa.Table) -> Iterator[FetchedImage | None]:
        """The image of each row; None for one that is left out.

        Raises:
          CredentialsError: the user is not logged in.
        """
        with ThreadPoolExecutor(self._threads, "fetch") as threads:
            ahead: collections.deque[Future[FetchedImage | Failure]] = collections.deque()
            try:
                for row in rows.select(_COLUMNS).to_pylist():
                    ahead.append(threads.submit(self._fetch, self._image(row), row["run"]))
                    if len(ahead) == _AHEAD * self._threads:
                        yield self._or_left_out(ahead.popleft().result())
                while ahead:
                    yield self._or_left_out(ahead.popleft().result())
            finally:
                threads.shutdown(cancel_futures=True)

    def _or_left_out(self, taken: FetchedImage | Failure) -> FetchedImage | None:
        if isinstance(taken, Failure):
            self.left_out.add(taken)
            return None
        return taken

    def _image(self, row: Mapping[str, Any]) -> ImageInput:
        image = self._planned.of(row["run"], row["uri"]) or ImageInput(row["uri"])
        return dataclasses.replace(image, object_version=row["object_version"] or None)

    def _fetch(self, image: ImageInput, run: str) -> FetchedImage | Failure:
        allowed = self._allowed.get(run, self._otherwise).of(image.is_trusted)
        is_local = scheme_of(image.uri) == "file"
        in_list = image.parquet_place is not None or list_of_row(image.uri) is not None
        if self._link and is_local and not in_list and container_of(image.uri) == image.uri:
            return _link(image, allowed)
        try:
            if image.parquet_place is not None:  # which a run does not check, since it has listed it itself
                storage_for(Place.from_json(image.parquet_place).given, allowed)
        except StorageError as error:
            return fetch_failure(image, error)
        fetched = fetch(image, self._timeout, allowed, Filters())
        if isinstance(fetched, Failure):
            return fetched
        data, version = fetched.data, fetched.object_version
        return _changed(image, version) or FetchedImage(suffix_of(data[:SIGNATURE_BYTES]), data)


def _link(image: ImageInput, allowed: Allowed) -> FetchedImage | Failure:
    try:
        storage = storage_for(image.uri, allowed)
        path = real_path(image.uri)
        with contextlib.closing(storage.open(image.uri)) as file:
            head = file.read(SIGNATURE_BYTES)
        changed = _changed(image, storage.stat(image.uri).version)
        changed = changed and _changed(image, storage.read(image.uri)[1])  # perhaps it is only the file's time
        return changed or FetchedImage(suffix_of(head), None, path)
    except StorageError as error:
        return fetch_failure(image, error)


def _changed(image: ImageInput, version: str) -> Failure | None:
    """The failure of an image that is not the version that was captioned."""
    if image.object_version is None or is_same_version(version, image.object_version):
        return None
    message = (
        f"{image.uri} has changed since it was captioned (version {version} instead of {image.object_version}); "
        "run the job again, then export"
    )
    return Failure(image.uri, "fetch", "Changed", message, False, version)
