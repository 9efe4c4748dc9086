"""Objects of Google Cloud Storage."""

from __future__ import annotations

import contextlib
import functools
import gzip
import re
import shutil
import tempfile
import threading
import urllib.parse
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from beam_job.storage.base import CredentialsError, StorageError, StoredObject, is_glob
from beam_job.storage.checksum import check, check_file, crc32c_in
from beam_job.storage.connections import keep_deadline, pooled
from beam_job.storage.download import Downloaded, Part, decoded, download, download_to
from beam_job.storage.gcs_listing import NameOrderListing
from beam_job.storage.responses import DownloadError, is_transient
from beam_job.storage.retry import Deadline, Retrying, retrying

if TYPE_CHECKING:
    from google.cloud import storage as gcs

MAX_BYTES = 1 << 30
# For a copy on the disk, which may be of gigabytes: seconds, and at least so many bytes in each of the others.
_OPEN_S = 120.0
_OPEN_BYTES_A_SECOND = 1 << 20
_AS_STORED = {"Accept-Encoding": "gzip"}  # without it, Google undoes the gzip of objects stored so
_WILDCARD = re.compile(r"[*?\[{\\]")  # what means more than itself in a glob of Google's
_LOG_IN = "log in with `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS"
_NO_RIGHT = "grant this right to the account, or " + _LOG_IN.replace("log in", "log in as another", 1)
_REQUEST = re.compile(r"[A-Z]+ https?://\S+: ")  # what the client puts before Google's own words


class GoogleCloudStorage:
    """`gs://` through one client a process; its threads share the connections."""

    def __init__(self, retrying: Retrying = retrying) -> None:
        self._retrying = retrying
        self._lock = threading.Lock()
        self._made: gcs.Client | None = None

    @property
    def _client(self) -> gcs.Client:
        """The client, made at first use; its session has connections for all threads."""
        from google.cloud import storage as gcs

        with self._lock:
            if self._made is None:
                try:
                    client = gcs.Client()
                except OSError as error:  # no project to be found; its text says where it may be set
                    raise CredentialsError(f"gs://: {error}; {_LOG_IN}", type(error).__name__) from error
                pooled(client._http)
                self._made = client
            return self._made

    def list(self, uri: str) -> Iterator[StoredObject]:
        """See `Storage.list`: in the order of the names' code points, which is that of Google's own listing."""
        bucket, name = _split(uri)
        pages = functools.partial(self._pages, uri, bucket)
        if is_glob(name):
            yield from NameOrderListing(pages, bucket, _WILDCARD.split(name)[0], name)
        elif not name or name.endswith("/"):
            yield from NameOrderListing(pages, bucket, name)
        elif self.exists(uri):
            yield self.stat(uri)
        else:
            yield from NameOrderListing(pages, bucket, name + "/")

    def stat(self, uri: str) -> StoredObject:
        bucket, _ = _split(uri)
        blob = self._blob(uri)
        with _gcs_errors(uri):
            blob.reload()
        return _stored(bucket, blob)

    def is_folder(self, uri: str) -> bool:
        bucket, name = _split(uri)
        prefix = name if not name or name.endswith("/") else name + "/"
        with _gcs_errors(uri):
            return any(True for _ in self._client.list_blobs(bucket, prefix=prefix, max_results=1))

    def read(
        self,
        uri: str,
        version: str | None = None,
        timeout: float = 60.0,
        size: int | None = None,
        crc32c: str | None = None,
        offset: int | None = None,
    ) -> tuple[bytes, str]:
        """See `Storage.read`. Length and CRC-32C are those of the stored bytes, and are checked before gzip is undone.

        Objects stored with `Content-Encoding: gzip` are asked for as stored: unpacked by Google on the way they would
        have neither a length nor a checksum.
        """
        part = None if offset is None or size is None else Part(offset, size)
        return self._retrying(lambda deadline: self._read(uri, version, deadline, size, crc32c, part), timeout)

    def open(self, uri: str) -> BinaryIO:
        """A copy of the object on the disk, whole and checked: the client's own reader was seen to return wrong bytes.

        Raises:
          StorageError: not all of it came.
        """
        stored = self.stat(uri)
        timeout = _OPEN_S + stored.size / _OPEN_BYTES_A_SECOND
        file, packed = self._retrying(lambda deadline: self._copy(stored, deadline), timeout)
        return _unpacked(file, uri) if packed else file

    def exists(self, uri: str) -> bool:
        with _gcs_errors(uri):
            return self._blob(uri).exists()

    def write(self, uri: str, data: bytes) -> None:
        with _gcs_errors(uri):
            self._blob(uri).upload_from_string(data, "application/octet-stream", checksum="crc32c")

    def delete(self, uri: str) -> None:
        with _gcs_errors(uri):
            self._blob(uri).delete()

    def create(self, uri: str, data: bytes) -> bool:
        from google.api_core.exceptions import PreconditionFailed

        with _gcs_errors(uri):
            try:
                self._blob(uri).upload_from_string(
                    data, "application/octet-stream", checksum="crc32c", if_generation_match=0
                )
            except PreconditionFailed:
                return False
        return True

    def lacking(self, uri: str, permissions: Sequence[str]) -> tuple[str, ...] | None:
        """Those of `permissions` that the caller has not got in the bucket of `uri`; None where it cannot be told.

        Raises:
          StorageError: there is no such bucket, or nobody is logged in.
        """
        bucket, _ = _split(uri)
        place = f"gs://{bucket}"
        try:
            with _gcs_errors(place):
                next(self._client.list_blobs(bucket, max_results=1).pages, None)
        except StorageError as error:
            if error.cause != "Forbidden":  # to write needs no right to list
                raise
        try:
            with _gcs_errors(place):
                held = self._client.bucket(bucket).test_iam_permissions(list(permissions))
        except StorageError:  # an emulator has no such question
            return None
        return tuple(permission for permission in permissions if permission not in held)

    def close(self) -> None:
        """Closes the connections; the next call makes a new client."""
        with self._lock:
            if self._made is not None:
                self._made.close()
            self._made = None

    def _read(
        self,
        uri: str,
        version: str | None,
        deadline: Deadline,
        size: int | None,
        crc32c: str | None,
        part: Part | None,
    ) -> tuple[bytes, str]:
        got = self._download(uri, version, deadline, part)
        if part is None:
            check(got.data, size, crc32c, crc32c_in(got.headers.get("x-goog-hash")), name=uri)
        generation = got.headers.get("x-goog-generation") or version
        if version and generation != version:
            raise StorageError(f"{uri}: generation {generation} came instead of {version}", transient=True)
        if not generation:  # the emulator's answer has none
            generation = self._generation_of(uri, got.data if part is None else None, deadline)
        return decoded(got, MAX_BYTES, uri), generation

    def _pages(self, uri: str, bucket: str, **select: str | None) -> Iterator[Mapping[str, Any]]:
        with _gcs_errors(uri):
            for page in self._client.list_blobs(bucket, **select).pages:
                yield page.raw_page  # plain dictionaries: a client's object for each would cost more than the listing

    def _copy(self, stored: StoredObject, deadline: Deadline) -> tuple[BinaryIO, bool]:
        """A temporary file with the object's bytes as stored, and whether they are gzip's."""
        url = _media_url(self._client.api_endpoint, stored.uri, stored.version)
        with contextlib.ExitStack() as undo, _gcs_errors(stored.uri):
            file: BinaryIO = undo.enter_context(tempfile.TemporaryFile())
            headers = download_to(file, self._client._http, url, _AS_STORED, deadline, name=stored.uri)
            check_file(file, stored.size, stored.crc32c, name=stored.uri)
            file.seek(0)
            undo.pop_all()
        return file, headers.get("Content-Encoding") == "gzip"

    def _download(self, uri: str, version: str | None, deadline: Deadline, part: Part | None) -> Downloaded:
        with _gcs_errors(uri):
            client = self._client
            url = _media_url(client.api_endpoint, uri, version)
            try:
                return download(client._http, url, _AS_STORED, deadline, MAX_BYTES, part=part, name=uri)
            except DownloadError as error:
                gone = f"generation {version} was replaced or deleted" if version and error.status == 404 else ""
                error.args = (": ".join(filter(None, (str(error), error.detail, gone))),)
                if error.status == 403:
                    error.args = (f"{str(error).rstrip('.')}; {_NO_RIGHT}",)
                if error.status == 401:
                    raise CredentialsError(f"{error}; {_LOG_IN}", error.cause) from error
                raise

    def _generation_of(self, uri: str, data: bytes | None, deadline: Deadline) -> str:
        blob = self._blob(uri)
        with _gcs_errors(uri), keep_deadline(deadline):
            blob.reload(timeout=max(deadline.left(), 0.001), retry=None)
        if data is not None:
            check(data, blob.size, blob.crc32c, name=uri)  # another generation may have come in between
        return str(blob.generation)

    def _blob(self, uri: str, version: str | None = None) -> gcs.Blob:
        bucket, name = _split(uri)
        with _gcs_errors(uri):
            return self._client.bucket(bucket).blob(name, generation=int(version) if version else None)


def _stored(bucket: str, blob: gcs.Blob) -> StoredObject:
    return StoredObject(f"gs://{bucket}/{blob.name}", str(blob.generation), blob.size, blob.crc32c)


def _unpacked(packed: BinaryIO, uri: str) -> BinaryIO:
    """A temporary file with what the gzip file holds, which is closed."""
    with contextlib.ExitStack() as undo, packed, gzip.GzipFile(fileobj=packed) as plain:
        file = undo.enter_context(tempfile.TemporaryFile())
        try:
            shutil.copyfileobj(plain, file)
        except (OSError, EOFError, zlib.error) as error:
            raise StorageError(f"{uri}: its gzip encoding is damaged: {error}", type(error).__name__) from error
        file.seek(0)
        undo.pop_all()
    return file


def _media_url(endpoint: str, uri: str, version: str | None) -> str:
    bucket, name = (urllib.parse.quote(part, safe="") for part in _split(uri))
    generation = f"&generation={urllib.parse.quote(version, safe='')}" if version else ""
    return f"{endpoint}/download/storage/v1/b/{bucket}/o/{name}?alt=media{generation}"


def _split(uri: str) -> tuple[str, str]:
    bucket, _, name = uri[len("gs://") :].partition("/")
    if not bucket:
        raise StorageError(f"{uri}: names no bucket; write gs://BUCKET/NAME")
    return bucket, name


@contextlib.contextmanager
def _gcs_errors(uri: str) -> Iterator[None]:
    from google.api_core.exceptions import GoogleAPICallError, GoogleAPIError
    from google.auth.exceptions import GoogleAuthError, TransportError

    try:
        yield
    except GoogleAPICallError as error:
        code: Any = error.code or 0
        message = f"{uri}: {int(code)} {_REQUEST.sub('', error.message or str(error), count=1)}"
        if code == 403:
            message = f"{message.rstrip('.')}; {_NO_RIGHT}"
        raise StorageError(message, type(error).__name__, is_transient(code)) from error
    except GoogleAPIError as error:  # the client's own retries ran out of time
        raise StorageError(f"{uri}: {error}", type(error).__name__, transient=True) from error
    except GoogleAuthError as error:
        reason = " ".join(str(error.args[0] if error.args else error).split())[:300]  # it may hold a page of HTML
        if error.retryable or isinstance(error, TransportError):
            raise StorageError(f"{uri}: {reason}", type(error).__name__, transient=True) from error
        raise CredentialsError(f"{uri}: {reason}; {_LOG_IN}", type(error).__name__) from error
    except (OSError, EOFError) as error:  # the connection: requests' errors are OSErrors
        raise StorageError(f"{uri}: {error}", type(error).__name__, transient=True) from error
