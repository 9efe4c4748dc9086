"""Objects of Google Cloud Storage."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from beam_job.storage.base import StorageError, StoredObject, is_glob

if TYPE_CHECKING:
    from google.cloud import storage as gcs

_FIELDS = "name,generation,size,crc32c"


class GoogleCloudStorage:
    """`gs://` through one client a process; its threads share the connections."""

    @functools.cached_property
    def _client(self) -> gcs.Client:
        from google.cloud import storage as gcs

        return gcs.Client()

    def list(self, uri: str) -> Iterator[StoredObject]:
        bucket, name = _split(uri)
        if is_glob(name):
            select = {"match_glob": name}
        elif not name or name.endswith("/"):
            select = {"prefix": name}
        else:
            blob = self._blob(uri)
            with _gcs_errors(uri):
                found = blob.exists()
            select = {"match_glob": name} if found else {"prefix": name + "/"}
        with _gcs_errors(uri):
            for blob in self._client.list_blobs(bucket, fields=f"items({_FIELDS}),nextPageToken", **select):
                if not blob.name.endswith("/"):  # a folder's placeholder
                    yield _stored(bucket, blob)

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

    def read(self, uri: str, version: str | None = None, timeout: float = 60.0) -> tuple[bytes, str]:
        blob = self._blob(uri, version)
        with _gcs_errors(uri):
            data = blob.download_as_bytes(checksum="crc32c")
            if blob.generation is None:
                blob.reload()
        return data, str(blob.generation)

    def open(self, uri: str) -> BinaryIO:
        with _gcs_errors(uri):
            return self._blob(uri).open("rb")

    def exists(self, uri: str) -> bool:
        with _gcs_errors(uri):
            return self._blob(uri).exists()

    def write(self, uri: str, data: bytes) -> None:
        with _gcs_errors(uri):
            self._blob(uri).upload_from_string(data, "application/octet-stream", checksum="crc32c")

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

    def _blob(self, uri: str, version: str | None = None) -> gcs.Blob:
        bucket, name = _split(uri)
        with _gcs_errors(uri):
            return self._client.bucket(bucket).blob(name, generation=int(version) if version else None)


def _stored(bucket: str, blob: gcs.Blob) -> StoredObject:
    return StoredObject(f"gs://{bucket}/{blob.name}", str(blob.generation), blob.size, blob.crc32c)


def _split(uri: str) -> tuple[str, str]:
    bucket, _, name = uri[len("gs://") :].partition("/")
    if not bucket:
        raise StorageError(f"{uri}: names no bucket; write gs://BUCKET/NAME")
    return bucket, name


@contextlib.contextmanager
def _gcs_errors(uri: str) -> Iterator[None]:
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError

    try:
        yield
    except GoogleAPICallError as error:
        code: Any = error.code
        transient = code in (408, 429) or (code or 0) >= 500
        raise StorageError(f"{uri}: {code} {error.message or error}", type(error).__name__, transient) from error
    except GoogleAuthError as error:
        hint = "log in with `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS"
        raise StorageError(f"{uri}: {error}; {hint}", type(error).__name__) from error
    except (OSError, EOFError) as error:  # the connection: requests' errors are OSErrors
        raise StorageError(f"{uri}: {error}", type(error).__name__, transient=True) from error
