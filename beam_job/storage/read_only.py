"""Places that images may come from and results cannot go to."""

from __future__ import annotations

from beam_job.storage.base import StorageError, scheme_of
from beam_job.storage.responses import public_name

_INSTEAD = "name a local folder or a gs:// bucket for output"


class ReadOnly:
    """The writing half of `Storage` for places that results cannot go to.

    A place without an atomic "create where there is none" is one: two attempts at one shard could both win there.
    """

    def write(self, uri: str, data: bytes) -> None:
        raise _no_output(uri)

    def delete(self, uri: str) -> None:
        raise _no_output(uri)

    def create(self, uri: str, data: bytes) -> bool:
        raise _no_output(uri)


def _no_output(uri: str) -> StorageError:
    return StorageError(f"{public_name(uri)}: {scheme_of(uri)}:// is read-only; {_INSTEAD}")
