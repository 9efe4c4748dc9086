"""Objects of Google Cloud Storage."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import re
import shutil
import tempfile
import threading
import urllib.parse
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from beam_job.storage.access import current_access
from beam_job.storage.base import (
    CONTENT,
    FOLDER_MARKS,
    OPTIONS,
    ByteMeter,
    CredentialsError,
    StorageError,
    StoredObject,
    is_glob,
)
from beam_job.storage.checksum import check, check_file, crc32c_in, crc32c_of
from beam_job.storage.connections import keep_deadline, prepared
from beam_job.storage.download import Downloaded, Part, decoded, download, download_to, is_packed
from beam_job.storage.gcs_errors import LOG_IN, NO_PERMISSION, gcs_errors, requester_pays_hint
from beam_job.storage.responses import DownloadError
from beam_job.storage.retry import Deadline, Retrying, retrying

if TYPE_CHECKING:
    from google.cloud import storage as gcs

T = TypeVar("T")

# Total seconds, retries included, for each call that is not a read: a page of a listing, metadata, an upload or a
# deletion, even if the service answers 503 for ever. Uploads, and copies to the disk, get one second more per MiB.
CALL_S = 60.0
_BYTES_PER_SECOND = 1 << 20
_AS_STORED = {"Accept-Encoding": "gzip"}  # without it, Google decompresses objects that are stored compressed
_FIELDS = "items(name,generation,size,crc32c),nextPageToken"
_WILDCARD = re.compile(r"[*?\[{\\]")  # special characters in Google's globs


class GoogleCloudStorage:
    """`gs://`, through one client per process whose connections all threads share."""

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
                except OSError as error:  # no project was found; the message says where to set it
                    raise CredentialsError(f"gs://: {error}; {LOG_IN}", type(error).__name__) from error
                prepared(client._http)
                self._made = client
            return self._made

    def list(self, uri: str) -> Iterator[StoredObject]:
        """See `Storage.list`: in the order of the names' code points, as Google lists them.

        Google's listing shows every write and deletion that has returned.
        """
        bucket, name = _split(uri)
        if is_glob(name) and not ("*" not in name and self.exists(uri)):  # names may hold ? and [ themselves
            yield from self._objects(uri, bucket, _WILDCARD.split(name)[0], name)
        elif not name or name.endswith("/"):
            yield from self._objects(uri, bucket, name)
        elif self.exists(uri):
            yield self.stat(uri)
        else:
            yield from self._objects(uri, bucket, name + "/")

    def stat(self, uri: str) -> StoredObject:
        return self._call(uri, lambda options: self._stat(uri, options))

    def is_folder(self, uri: str) -> bool:
        bucket, name = _split(uri)
        prefix = name if not name or name.endswith("/") else name + "/"

        def ask(options: dict[str, Any]) -> bool:
            found = self._client.list_blobs(self._bucket(bucket), prefix=prefix, max_results=1, **options)
            return any(True for _ in found)

        return self._call(uri, ask)

    def read(
        self,
        uri: str,
        version: str | None = None,
        timeout: float = 60.0,
        size: int | None = None,
        crc32c: str | None = None,
        offset: int | None = None,
        max_bytes: int | None = None,
        on_size: Callable[[int], None] | None = None,
    ) -> tuple[bytes, str]:
        """See `Storage.read`. Length and CRC-32C are those of the stored bytes, checked before decompression.

        Objects stored with `Content-Encoding: gzip` are requested as stored: if Google decompressed them, there would
        be neither a length nor a checksum.
        """
        part = None if offset is None or size is None else Part(offset, size)
        meter = ByteMeter(uri, max_bytes, on_size)
        meter.version = version
        return self._retrying(lambda deadline: self._read(uri, version, deadline, size, crc32c, part, meter), timeout)

    def open(self, uri: str) -> BinaryIO:
        """A complete and checked copy of the object on the disk: the client's own reader returned wrong bytes in tests.

        Raises:
          StorageError: it could not be copied completely.
        """
        stored = self.stat(uri)
        file, packed = self._retrying(lambda deadline: self._copy(stored, deadline), _seconds_for(stored.size))
        return _decompressed(file, uri) if packed else file

    def exists(self, uri: str) -> bool:
        return self._call(uri, lambda options: bool(self._blob(uri).exists(**options)))

    def write(self, uri: str, data: bytes) -> None:
        self._call(uri, lambda options: self._upload(uri, data, options), len(data))

    def delete(self, uri: str) -> None:
        attempts = 0

        def delete(options: dict[str, Any]) -> None:
            nonlocal attempts
            attempts += 1
            self._blob(uri).delete(**options)

        try:
            self._call(uri, delete)
        except StorageError as error:
            if attempts == 1 or error.cause != "NotFound":  # else the answer to the first attempt was lost
                raise

    def create(self, uri: str, data: bytes) -> bool:
        """See `Storage.create`. Google refuses all uploads but the first, with 412.

        After a refusal, or an error that leaves open whether the upload took effect, the stored bytes decide.
        """
        from google.api_core.exceptions import PreconditionFailed

        def create(options: dict[str, Any]) -> bool:
            try:
                self._upload(uri, data, {**options, "if_generation_match": 0})
            except PreconditionFailed:
                return False
            return True

        try:
            return self._call(uri, create, len(data)) or self._has_content(uri, data)
        except StorageError as error:
            if not error.transient:
                raise
            with contextlib.suppress(StorageError):  # the upload's own error says more
                if self._has_content(uri, data):
                    return True
            raise

    def lacking(self, uri: str, permissions: Sequence[str]) -> tuple[str, ...] | None:
        """Those of `permissions` that the caller lacks in the bucket of `uri`; None if that cannot be determined.

        Raises:
          StorageError: there is no such bucket, or there are no credentials.
        """
        bucket, _ = _split(uri)
        place = f"gs://{bucket}"
        try:
            self.is_folder(place)
        except StorageError as error:
            if error.cause != "Forbidden":  # writing does not need the permission to list
                raise
        try:
            held = self._call(
                place, lambda options: self._bucket(bucket).test_iam_permissions(list(permissions), **options)
            )
        except StorageError:  # emulators do not answer this question
            return None
        return tuple(permission for permission in permissions if permission not in held)

    def close(self) -> None:
        """Closes the connections; the next call makes a new client."""
        with self._lock:
            if self._made is not None:
                self._made.close()
            self._made = None

    def _call(self, uri: str, attempt: Callable[[dict[str, Any]], T], size: int = 0) -> T:
        """What `attempt` returns within `CALL_S` seconds, and the time for an upload of `size` bytes.

        Args:
          uri: for errors.
          attempt: gets the options that keep the client from retrying and waiting by its own rules.
          size: bytes to upload.
        """

        def within(deadline: Deadline) -> T:
            with gcs_errors(uri), keep_deadline(deadline):
                return attempt({"timeout": max(deadline.left(), 0.001), "retry": None})

        return self._retrying(within, _seconds_for(size))

    def _objects(self, uri: str, bucket: str, prefix: str, match_glob: str | None = None) -> Iterator[StoredObject]:
        """Page after page; placeholders of folders are left out."""
        from google.cloud.storage.retry import DEFAULT_RETRY

        options = {"fields": _FIELDS, "retry": DEFAULT_RETRY.with_timeout(CALL_S), "timeout": CALL_S}
        with gcs_errors(uri):
            listing = self._client.list_blobs(self._bucket(bucket), prefix=prefix, match_glob=match_glob, **options)
            for page in listing.pages:
                # Plain dictionaries: making the client's objects would take longer than the listing itself.
                for item in page.raw_page.get("items", ()):
                    if not item["name"].endswith(FOLDER_MARKS):
                        name = f"gs://{bucket}/{item['name']}"
                        yield StoredObject(name, str(item["generation"]), int(item["size"]), item.get("crc32c"))

    def _stat(self, uri: str, options: dict[str, Any]) -> StoredObject:
        blob = self._blob(uri)
        blob.reload(**options)
        updated: datetime.datetime | None = blob.updated
        modified = updated.timestamp() if updated else None
        return StoredObject(
            f"gs://{blob.bucket.name}/{blob.name}", str(blob.generation), blob.size, blob.crc32c, modified
        )

    def _upload(self, uri: str, data: bytes, options: dict[str, Any]) -> None:
        self._blob(uri).upload_from_string(data, "application/octet-stream", checksum="crc32c", **options)

    def _has_content(self, uri: str, data: bytes) -> bool:
        """Whether the object's stored bytes are `data`; not whether it exists."""
        try:
            stored = self.stat(uri)
            if (stored.size, stored.crc32c) != (len(data), crc32c_of(data)):
                return False
            return self.read(uri, stored.version)[0] == data
        except StorageError as error:
            if error.cause == "NotFound":  # deleted since
                return False
            raise

    def _read(
        self,
        uri: str,
        version: str | None,
        deadline: Deadline,
        size: int | None,
        crc32c: str | None,
        part: Part | None,
        meter: ByteMeter,
    ) -> tuple[bytes, str]:
        got = self._download(uri, version, deadline, part, meter)
        if part is None and not was_unpacked(got.headers):
            self._check(uri, got, size, crc32c, deadline)
        generation = got.headers.get("x-goog-generation") or version
        if version and generation != version:
            raise StorageError(f"{uri}: generation {generation} came instead of {version}", transient=True)
        if not generation:  # the emulator's answer has none
            generation = self._generation_of(uri, got.data if part is None else None, deadline)
        return decoded(got, meter, uri), generation

    def _copy(self, stored: StoredObject, deadline: Deadline) -> tuple[BinaryIO, bool]:
        """A temporary file with the object's bytes as stored, and whether they are compressed with gzip."""
        url = _media_url(self._client.api_endpoint, stored.uri, stored.version)
        with contextlib.ExitStack() as undo, gcs_errors(stored.uri):
            file: BinaryIO = undo.enter_context(tempfile.TemporaryFile())
            headers = download_to(file, self._client._http, url, _AS_STORED, deadline, name=stored.uri)
            if not was_unpacked(headers):
                check_file(file, stored.size, stored.crc32c, name=stored.uri)
            file.seek(0)
            packed = is_packed(headers, file.read(2), stored.uri)
            file.seek(0)
            undo.pop_all()
        return file, packed

    def _check(self, uri: str, got: Downloaded, size: int | None, crc32c: str | None, deadline: Deadline) -> None:
        """Checks that the object came as it is stored, or decompressed on its way.

        Google, or a proxy before it, may decompress objects that are stored with `Content-Encoding: gzip`. Their size
        and checksum are those of the compressed bytes then, and the next attempt would bring the same.
        """
        try:
            check(got.data, size, crc32c, crc32c_in(got.headers.get("x-goog-hash")), name=uri)
        except StorageError:
            if is_packed(got.headers, got.data[:2], uri) or not self._is_stored_packed(uri, deadline):
                raise

    def _is_stored_packed(self, uri: str, deadline: Deadline) -> bool:
        blob = self._blob(uri)
        try:
            with gcs_errors(uri), keep_deadline(deadline):
                blob.reload(timeout=max(deadline.left(), 0.001), retry=None)
        except StorageError:  # what came does not match what was listed, which says more
            return False
        return "gzip" in (blob.content_encoding or "")

    def _download(
        self, uri: str, version: str | None, deadline: Deadline, part: Part | None, meter: ByteMeter
    ) -> Downloaded:
        with gcs_errors(uri):
            client = self._client
            url = _media_url(client.api_endpoint, uri, version)
            try:
                return download(client._http, url, _AS_STORED, deadline, meter, part=part, name=uri)
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

    def _generation_of(self, uri: str, data: bytes | None, deadline: Deadline) -> str:
        with gcs_errors(uri), keep_deadline(deadline):
            stored = self._stat(uri, {"timeout": max(deadline.left(), 0.001), "retry": None})
        if data is not None:
            check(data, stored.size, stored.crc32c, name=uri)  # it may have been replaced since
        return stored.version

    def _blob(self, uri: str) -> gcs.Blob:
        bucket, name = _split(uri)
        return self._bucket(bucket).blob(name)

    def _bucket(self, name: str) -> gcs.Bucket:
        return self._client.bucket(name, user_project=current_access().billing_project or None)


def was_unpacked(headers: Mapping[str, str]) -> bool:
    """Whether an object that is stored compressed was decompressed on its way."""
    packed = "gzip" in headers.get("x-goog-stored-content-encoding", "").lower()
    return packed and "gzip" not in headers.get("Content-Encoding", "").lower()


def _seconds_for(size: int) -> float:
    return CALL_S + size / _BYTES_PER_SECOND


def _decompressed(packed: BinaryIO, uri: str) -> BinaryIO:
    """A temporary file with the content of the gzip file, which is closed."""
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


def _media_url(endpoint: str, uri: str, version: str | None) -> str:
    bucket, name = (urllib.parse.quote(part, safe="") for part in _split(uri))
    generation = f"&generation={urllib.parse.quote(version, safe='')}" if version else ""
    payer = current_access().billing_project
    project = f"&userProject={urllib.parse.quote(payer, safe='')}" if payer else ""
    return f"{endpoint}/download/storage/v1/b/{bucket}/o/{name}?alt=media{generation}{project}"


def _split(uri: str) -> tuple[str, str]:
    bucket, _, name = uri[len("gs://") :].partition("/")
    if not bucket:
        raise StorageError(f"{uri}: names no bucket; write gs://BUCKET/NAME", retry_when=CONTENT)
    return bucket, name
