"""Storages that can be read but not written."""

from __future__ import annotations

from beam_job.storage.base import StorageError, scheme_of
from beam_job.storage.responses import public_name

_INSTEAD = "name a local folder, or a gs:// or s3:// bucket, for output"


class ReadOnly:
    """The writing methods of a `Storage` that cannot hold results; they raise StorageError.

    Results need an atomic "create unless it exists": without it, two attempts at one shard could both succeed.
    """

    def write(self, uri: str, data: bytes) -> None:
        raise _no_output(uri)

    def delete(self, uri: str) -> None:
        raise _no_output(uri)

    def create(self, uri: str, data: bytes) -> bool:
        raise _no_output(uri)


def _no_output(uri: str) -> StorageError:
    return StorageError(f"{public_name(uri)}: {scheme_of(uri)}:// is read-only; {_INSTEAD}")
