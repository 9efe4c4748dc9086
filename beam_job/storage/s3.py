"""Amazon S3 and servers that speak its protocol: read through s3fs, written with S3's own preconditions."""

from __future__ import annotations

import threading
import uuid
from typing import Any

from beam_job.storage.base import StorageError
from beam_job.storage.fsspec_storage import FsspecStorage
from beam_job.storage.retry import Retrying, retrying

_WRITE_TIMEOUT_S = 120.0
# 412: there is such an object. 409: another upload of it ends at the same time, and may still fail.
_EXISTS, _CONFLICT = ("PreconditionFailed", "412"), ("ConditionalRequestConflict", "409")


class S3Storage(FsspecStorage):
    """`s3://` and `s3a://`, for output too: `create` uploads with `If-None-Match: *`, which S3 grants to one caller.

    Servers that do not know this condition would ignore it and overwrite. So before a process first creates an object
    in a bucket, it tries the condition on an object with a name of its own.
    """

    def __init__(self, scheme: str = "s3", retrying: Retrying = retrying) -> None:
        super().__init__(scheme, retrying)
        self._checked: set[str] = set()
        self._check_lock = threading.Lock()

    def write(self, uri: str, data: bytes) -> None:
        self._retrying(lambda _: self._put(uri, data), _WRITE_TIMEOUT_S)

    def delete(self, uri: str) -> None:
        with self._errors(uri):
            bucket, key = self._bucket_and_key(uri)
            self._fs.call_s3("head_object", Bucket=bucket, Key=key)  # to delete nothing is no error on S3
            self._fs.call_s3("delete_object", Bucket=bucket, Key=key)

    def create(self, uri: str, data: bytes) -> bool:
        self._check_condition(uri)
        return self._retrying(lambda _: self._put_new(uri, data), _WRITE_TIMEOUT_S) or self.read(uri)[0] == data

    def _put(self, uri: str, data: bytes, **condition: str) -> None:
        with self._errors(uri):
            bucket, key = self._bucket_and_key(uri)
            self._fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition)

    def _put_new(self, uri: str, data: bytes) -> bool:
        """Uploads unless there is such an object; whether it did."""
        try:
            self._put(uri, data, IfNoneMatch="*")
            return True
        except StorageError as error:
            code = _code(error)
            if code in _EXISTS:
                return False
            if code in _CONFLICT:
                raise StorageError(str(error), error.cause, transient=True) from error
            raise

    def _check_condition(self, uri: str) -> None:
        """Raises StorageError if the bucket's server overwrites in spite of the condition."""
        bucket, _ = self._bucket_and_key(uri)
        with self._check_lock:
            if bucket in self._checked:
                return
            probe = f"{uri.rpartition('/')[0]}/.precondition-{uuid.uuid4().hex}"
            self.write(probe, b"")
            refused = not self._retrying(lambda _: self._put_new(probe, b""), _WRITE_TIMEOUT_S)
            self.delete(probe)
            if not refused:
                raise StorageError(
                    f"{uri}: this server ignores the condition `If-None-Match: *`, without which two workers could "
                    "write one file; use a newer version of it, or another place for --output"
                )
            self._checked.add(bucket)

    def _bucket_and_key(self, uri: str) -> tuple[str, str]:
        bucket, _, key = self._path(uri).partition("/")
        return bucket, key


def _code(error: BaseException) -> str:
    """S3's code for an error, which s3fs may have turned into an OSError."""
    link: BaseException | None = error
    while link is not None:
        response: Any = getattr(link, "response", None)
        if isinstance(response, dict) and response.get("Error"):
            return str(response["Error"].get("Code"))
        link = link.__cause__
    return ""
