"""What the job asks of a place where files lie, and the errors that all such places share."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_WILDCARD = re.compile(r"[*?\[]")


# When reading the same URI again may succeed: at another time, with other options, credentials or permissions, or only
# once its content has changed.
LATER, OPTIONS, CONTENT = "later", "options", "content"
RETRY_WHEN = (LATER, OPTIONS, CONTENT)


class StorageError(Exception):
    """A file or object could not be read, listed or written; the message names it.

    Attributes:
      cause: name of the exception that the system or the client raised.
      transient: whether an attempt within the same run may succeed; `retrying` tries again.
      retry_after: seconds that the server asked to wait before the next attempt, if it did.
      retry_when: when another run should try again, one of `RETRY_WHEN`; by default `LATER` for a transient error and
        `CONTENT` for any other.
    """

    def __init__(
        self,
        message: str,
        cause: str = "",
        transient: bool = False,
        retry_after: float | None = None,
        retry_when: str | None = None,
    ) -> None:
        super().__init__(message)
        self.cause = cause or type(self).__name__
        self.transient = transient
        self.retry_after = retry_after
        self._retry_when = retry_when

    @property
    def retry_when(self) -> str:
        """See the class."""
        return self._retry_when or (LATER if self.transient else CONTENT)


class UnknownSchemeError(StorageError):
    """A URI of a scheme that this version does not read."""


class CredentialsError(StorageError):
    """Nobody is logged in, or no more: every object of this storage would fail like this one."""


@dataclass(frozen=True)
class StoredObject:
    """A file or object as listed.

    Attributes:
      uri: its name.
      version: a file's size and mtime in nanoseconds, an object's generation; another content has another version.
      size: bytes.
      crc32c: checksum in base64, where the storage keeps one.
    """

    uri: str
    version: str
    size: int
    crc32c: str | None = None


class Storage(Protocol):
    """What the job asks of a place where files lie."""

    def list(self, uri: str) -> Iterator[StoredObject]:
        """All files below a folder, or matching a glob, or the one file of that name; nothing where nothing is."""

    def stat(self, uri: str) -> StoredObject:
        """The one file of that name, as listed."""

    def is_folder(self, uri: str) -> bool:
        """Whether `uri` names a folder (a prefix of objects)."""

    def read(
        self,
        uri: str,
        version: str | None = None,
        timeout: float = 60.0,
        size: int | None = None,
        crc32c: str | None = None,
        offset: int | None = None,
    ) -> tuple[bytes, str]:
        """The whole content, or a part of it, and the version of the whole.

        Args:
          uri: a file's name.
          version: as listed; where the storage keeps versions, that one is read or none. Elsewhere it is ignored, and
            a file that has changed since comes with its own version.
          timeout: seconds for all of it, retries of transient errors included.
          size: bytes of `version` as listed; checked where the storage keeps versions.
          crc32c: checksum of `version` in base64, as listed; checked likewise.
          offset: where in the file to begin; then exactly `size` bytes are read and no checksum is known.

        Raises:
          StorageError: nothing of it was read; `transient` where another time may do.
        """

    def open(self, uri: str) -> BinaryIO:
        """A seekable file, for reading parts of it."""

    def exists(self, uri: str) -> bool:
        """Whether a file of that name is there."""

    def write(self, uri: str, data: bytes) -> None:
        """Replaces the file as a whole: readers see the old content or the new."""

    def delete(self, uri: str) -> None:
        """Removes the file."""

    def create(self, uri: str, data: bytes) -> bool:
        """Writes the file where there is none, as a whole; False, and no change, where there is one."""


def scheme_of(uri: str) -> str:
    """`gs` of `gs://bucket/name`; `file` for a path without a scheme."""
    match = SCHEME.match(uri)
    return match.group(1).lower() if match else "file"


def join(folder: str, *names: str) -> str:
    """A name below a folder, local or remote."""
    return "/".join((folder.rstrip("/") or "/", *names))


def literal_part(uri: str) -> str:
    """What stands before the first wildcard; all of `uri` where there is none."""
    return _WILDCARD.split(uri, maxsplit=1)[0]


def is_glob(uri: str) -> bool:
    """Whether `uri` has one of the wildcards `*`, `?` and `[`."""
    return _WILDCARD.search(uri) is not None
