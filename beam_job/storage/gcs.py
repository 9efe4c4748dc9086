"""Objects of Google Cloud Storage."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from beam_job.storage.base import FOLDER_MARKS, ByteMeter, CredentialsError, StorageError, StoredObject, is_glob
from beam_job.storage.checksum import crc32c_of
from beam_job.storage.connections import keep_deadline, prepared
from beam_job.storage.download import Part
from beam_job.storage.gcs_download import ObjectReader, copy_object, decompressed
from beam_job.storage.gcs_errors import LOG_IN, gcs_errors
from beam_job.storage.gcs_objects import bucket_of, split, stat_blob
from beam_job.storage.retry import Deadline, Retrying, retrying

if TYPE_CHECKING:
    from google.cloud import storage as gcs

T = TypeVar("T")

# Total seconds, retries included, for each call that is not a read: a page of a listing, metadata, an upload or a
# deletion, even if the service answers 503 for ever. Uploads, and copies to the disk, get one second more per MiB.
CALL_S = 60.0
_BYTES_PER_SECOND = 1 << 20
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

    def _client_for(self, uri: str) -> gcs.Client:
        """The client; errors of making it are errors about `uri`."""
        with gcs_errors(uri):
            return self._client

    def list(self, uri: str) -> Iterator[StoredObject]:
        """See `Storage.list`: in the order of the names' code points, as Google lists them.

        Google's listing shows every write and deletion that has returned.
        """
        bucket, name = split(uri)
        if is_glob(name) and not ("*" not in name and self.exists(uri)):  # names may hold ? and [ themselves
            yield from self._objects(uri, bucket, _WILDCARD.split(name)[0], name)
        elif not name or name.endswith("/"):
            yield from self._objects(uri, bucket, name)
        elif self.exists(uri):
            yield self.stat(uri)
        else:
            yield from self._objects(uri, bucket, name + "/")

    def stat(self, uri: str) -> StoredObject:
        return self._call(uri, lambda options: stat_blob(self._blob(uri), options))

    def is_folder(self, uri: str) -> bool:
        bucket, name = split(uri)
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
        """See `Storage.read`. Length and CRC-32C are those of the stored bytes, checked before decompression."""
        part = None if offset is None or size is None else Part(offset, size)
        meter = ByteMeter(uri, max_bytes, on_size)
        meter.version = version
        reader = ObjectReader(uri, version, size, crc32c, part, meter)
        return self._retrying(lambda deadline: reader.read(self._client_for(uri), deadline), timeout)

    def open(self, uri: str) -> BinaryIO:
        """A complete and checked copy of the object on the disk: the client's own reader returned wrong bytes in tests.

        Raises:
          StorageError: it could not be copied completely.
        """
        stored = self.stat(uri)
        file, packed = self._retrying(
            lambda deadline: copy_object(self._client, stored, deadline), _seconds_for(stored.size)
        )
        return decompressed(file, uri) if packed else file

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
        bucket, _ = split(uri)
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

    def _blob(self, uri: str) -> gcs.Blob:
        bucket, name = split(uri)
        return self._bucket(bucket).blob(name)

    def _bucket(self, name: str) -> gcs.Bucket:
        return bucket_of(self._client, name)


def _seconds_for(size: int) -> float:
    return CALL_S + size / _BYTES_PER_SECOND
