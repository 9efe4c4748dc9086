"""Downloads of objects of Google Cloud Storage, whole or not at all, in the version that was asked for.

Objects stored with `Content-Encoding: gzip` are requested as stored: if Google decompressed them, there would be
neither a length nor a checksum.
"""

from __future__ import annotations

import contextlib
import gzip
import shutil
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from beam_job.storage.base import CONTENT, OPTIONS, ByteMeter, CredentialsError, StorageError, StoredObject
from beam_job.storage.checksum import check, check_file, crc32c_in
from beam_job.storage.connections import keep_deadline
from beam_job.storage.download import Downloaded, Part, decoded, download, download_to, is_packed
from beam_job.storage.gcs_errors import LOG_IN, NO_PERMISSION, gcs_errors, requester_pays_hint
from beam_job.storage.gcs_objects import blob_of, media_url, stat_blob
from beam_job.storage.responses import DownloadError
from beam_job.storage.retry import Deadline

if TYPE_CHECKING:
    from google.cloud import storage as gcs

_AS_STORED = {"Accept-Encoding": "gzip"}  # without it, Google decompresses objects that are stored compressed


@dataclass(frozen=True)
class ObjectReader:
    """Reads an object, or a part of one, in one or more attempts.

    Attributes:
      uri: of the object.
      version: its generation; None for the newest.
      size: its bytes as stored, where known.
      crc32c: its checksum as stored, where known.
      part: what to read of it; None for all.
      meter: refuses too many bytes.
    """

    uri: str
    version: str | None
    size: int | None
    crc32c: str | None
    part: Part | None
    meter: ByteMeter

    def read(self, client: gcs.Client, deadline: Deadline) -> tuple[bytes, str]:
        """The bytes, decompressed if the object is stored compressed, and their generation.

        Raises:
          StorageError: they could not be read within the deadline, or are not what is stored.
        """
        got = self._download(client, deadline)
        if self.part is None and not _was_unpacked(got.headers):
            self._check(client, got, deadline)
        generation = got.headers.get("x-goog-generation") or self.version
        if self.version and generation != self.version:
            raise StorageError(f"{self.uri}: generation {generation} came instead of {self.version}", transient=True)
        if not generation:  # the emulator's answer has none
            generation = self._generation_of(client, got.data if self.part is None else None, deadline)
        return decoded(got, self.meter, self.uri), generation

    def _download(self, client: gcs.Client, deadline: Deadline) -> Downloaded:
        uri, version = self.uri, self.version
        with gcs_errors(uri):
            url = media_url(client, uri, version)
            try:
                return download(client._http, url, _AS_STORED, deadline, self.meter, part=self.part, name=uri)
            except DownloadError as error:
                gone = f"generation {version} was replaced or deleted" if version and error.status == 404 else ""
                error.args = (": ".join(filter(None, (str(error), error.detail, gone))),)
                if hint := requester_pays_hint(error.detail):
                    raise StorageError(f"{error}{hint}", error.cause, retry_when=OPTIONS) from error
                if error.status == 403:
                    error.args = (f"{str(error).rstrip('.')}; {NO_PERMISSION}",)
                if error.status == 401:
                    raise CredentialsError(f"{error}; {LOG_IN}", error.cause) from error
                raise

    def _check(self, client: gcs.Client, got: Downloaded, deadline: Deadline) -> None:
        """Checks that the object came as it is stored, or decompressed on its way.

        Google, or a proxy before it, may decompress objects that are stored with `Content-Encoding: gzip`. Their size
        and checksum are those of the compressed bytes then, and the next attempt would bring the same.
        """
        try:
            check(got.data, self.size, self.crc32c, crc32c_in(got.headers.get("x-goog-hash")), name=self.uri)
        except StorageError:
            if is_packed(got.headers, got.data[:2], self.uri) or not self._is_stored_packed(client, deadline):
                raise

    def _is_stored_packed(self, client: gcs.Client, deadline: Deadline) -> bool:
        blob = blob_of(client, self.uri)
        try:
            with gcs_errors(self.uri), keep_deadline(deadline):
                blob.reload(timeout=max(deadline.left(), 0.001), retry=None)
        except StorageError:  # what came does not match what was listed, which says more
            return False
        return "gzip" in (blob.content_encoding or "")

    def _generation_of(self, client: gcs.Client, data: bytes | None, deadline: Deadline) -> str:
        with gcs_errors(self.uri), keep_deadline(deadline):
            options = {"timeout": max(deadline.left(), 0.001), "retry": None}
            stored = stat_blob(blob_of(client, self.uri), options)
        if data is not None:
            check(data, stored.size, stored.crc32c, name=self.uri)  # it may have been replaced since
        return stored.version


def copy_object(client: gcs.Client, stored: StoredObject, deadline: Deadline) -> tuple[BinaryIO, bool]:
    """A temporary file with the object's bytes as stored, and whether they are compressed with gzip.

    Raises:
      StorageError: the object could not be copied within the deadline, or its copy differs from it.
    """
    url = media_url(client, stored.uri, stored.version)
    with contextlib.ExitStack() as undo, gcs_errors(stored.uri):
        file: BinaryIO = undo.enter_context(tempfile.TemporaryFile())
        headers = download_to(file, client._http, url, _AS_STORED, deadline, name=stored.uri)
        if not _was_unpacked(headers):
            check_file(file, stored.size, stored.crc32c, name=stored.uri)
        file.seek(0)
        packed = is_packed(headers, file.read(2), stored.uri)
        file.seek(0)
        undo.pop_all()
    return file, packed


def _was_unpacked(headers: Mapping[str, str]) -> bool:
    """Whether an object that is stored compressed was decompressed on its way."""
    packed = "gzip" in headers.get("x-goog-stored-content-encoding", "").lower()
    return packed and "gzip" not in headers.get("Content-Encoding", "").lower()


def decompressed(packed: BinaryIO, uri: str) -> BinaryIO:
    """A temporary file with the content of the gzip file, which is closed. Raises StorageError."""
    with contextlib.ExitStack() as undo, packed, gzip.GzipFile(fileobj=packed) as plain:
        file = undo.enter_context(tempfile.TemporaryFile())
        try:
            shutil.copyfileobj(plain, file)
        except (OSError, EOFError, zlib.error) as error:
            reason = f"{uri}: its gzip encoding is damaged: {error}"
            raise StorageError(reason, type(error).__name__, retry_when=CONTENT) from error
        file.seek(0)
        undo.pop_all()
    return file
