"""The interface of a storage, and the errors and helpers that all storages share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_WILDCARD = re.compile(r"[*?\[]")

# When another run should try a failed URI again: at any later time, with other options, credentials or permissions, or
# only once its content has changed.
LATER, OPTIONS, CONTENT = "later", "options", "content"
RETRY_WHEN = (LATER, OPTIONS, CONTENT)

# How the names of objects end that stand for folders: consoles create the first kind, Hadoop the second.
FOLDER_MARKS = ("/", "_$folder$")

# The largest file that is read into memory unless a caller sets another limit.
MAX_BYTES = 1 << 30


class StorageError(Exception):
    """A file or object could not be read, listed or written; the message names it.

    Attributes:
      cause: name of the exception that the system or the client raised.
      transient: whether an attempt within the same run may succeed; `retrying` tries again.
      retry_after: seconds that the server asked to wait before the next attempt, if it did.
      retry_when: when another run should try again, one of `RETRY_WHEN`. The default is `LATER`: a file that was not
        read may be readable another time. `CONTENT` is for bytes that were read and found bad, and for names that can
        never be read.
    """

    def __init__(
        self,
        message: str,
        cause: str = "",
        transient: bool = False,
        retry_after: float | None = None,
        retry_when: str = LATER,
    ) -> None:
        super().__init__(message)
        if retry_when not in RETRY_WHEN:
            raise ValueError(f"retry_when must be one of {', '.join(RETRY_WHEN)}, not {retry_when!r}")
        self.cause = cause or type(self).__name__
        self.transient = transient
        self.retry_after = retry_after
        self.retry_when = retry_when


class TooLargeError(StorageError):
    """A file has more bytes than a read may hold.

    Attributes:
      size: bytes of the file, or as many as came before the read was stopped.
      version: of the file, where it is known.
    """

    def __init__(self, name: str, size: int, limit: int, version: str | None = None) -> None:
        super().__init__(f"{name}: {size:,} bytes are more than {limit:,}", "TooLarge", retry_when=OPTIONS)
        self.size = size
        self.version = version


class UnknownSchemeError(StorageError):
    """The URI has a scheme that cannot be read, at least not with the packages installed."""

    def __init__(self, message: str, cause: str = "") -> None:
        super().__init__(message, cause, retry_when=OPTIONS)


class CredentialsError(StorageError):
    """Credentials are missing or no longer accepted: every object of this storage would fail."""

    def __init__(self, message: str, cause: str = "") -> None:
        super().__init__(message, cause, retry_when=OPTIONS)


@dataclass(frozen=True)
class StoredObject:
    """A file or object in a listing.

    Attributes:
      uri: its name.
      version: a file's size and mtime in nanoseconds, an object's generation; it changes with the content.
      size: bytes.
      crc32c: checksum in base64, where the storage keeps one.
      modified: seconds since the epoch by the storage's own clock, not this machine's. Local storage and `stat` of
        Google Cloud Storage set it; None elsewhere.
      error: why a folder could not be listed; its version and size mean nothing then. None for a file.
    """

    uri: str
    version: str
    size: int
    crc32c: str | None = None
    modified: float | None = field(default=None, compare=False)
    error: str | None = None


class Storage(Protocol):
    """A place where files are stored."""

    def list(self, uri: str) -> Iterator[StoredObject]:
        """All files below a folder, or matching a glob, or the one file of that name; empty if there are none."""

    def stat(self, uri: str) -> StoredObject:
        """The file of that name, as a listing shows it."""

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
        max_bytes: int | None = None,
        on_size: Callable[[int], None] | None = None,
    ) -> tuple[bytes, str]:
        """The whole content, or a part of it, and the version of the whole.

        Args:
          uri: a file's name.
          version: as listed. Where the storage keeps versions, exactly that one is read. Elsewhere it is ignored, and
            a file that has changed since is returned with its present version.
          timeout: seconds in total, retries of transient errors included.
          size: bytes of `version` as listed; checked where the storage keeps versions.
          crc32c: checksum of `version` in base64, as listed; checked where the storage keeps versions.
          offset: where in the file to begin; then exactly `size` bytes are read and no checksum is checked.
          max_bytes: limit of the content's size, while it arrives and while it is decompressed; `MAX_BYTES` if None.
          on_size: called in this thread with the number of bytes that the read holds or is about to hold, each time
            that this number grows.

        Raises:
          TooLargeError: the content has more than `max_bytes`.
          StorageError: nothing was read.
        """

    def open(self, uri: str) -> BinaryIO:
        """A seekable file, for reading parts of it."""

    def exists(self, uri: str) -> bool:
        """Whether a file of that name exists."""

    def write(self, uri: str, data: bytes) -> None:
        """Replaces the file as a whole: readers see the old content or the new."""

    def delete(self, uri: str) -> None:
        """Removes the file; an error if there is none."""

    def create(self, uri: str, data: bytes) -> bool:
        """Writes the file unless one of that name exists; of several callers only one succeeds.

        A file that exists with exactly the content `data` counts as created: the answer to an earlier attempt may have
        been lost. Callers that must not mistake another's file for theirs put a unique token into it.

        Returns:
          False, with nothing changed, where a file with other content exists.
        """


class ByteMeter:
    """Holds one read to its limit of bytes, and reports how many it holds.

    Args:
      name: of the file, for the error.
      max_bytes: the limit; `MAX_BYTES` if None.
      on_size: see `Storage.read`.

    Attributes:
      limit: bytes.
      version: of the file, for the error; set once it is known.
    """

    def __init__(self, name: str, max_bytes: int | None = None, on_size: Callable[[int], None] | None = None) -> None:
        self._name = name
        self.limit = MAX_BYTES if max_bytes is None else min(max_bytes, MAX_BYTES)
        self.version: str | None = None
        self._on_size = on_size
        self._largest = 0

    def check(self, size: int, held: int = 0) -> None:
        """Reports that the content has `size` bytes or more, beside `held` bytes of another form of it.

        Raises:
          TooLargeError: `size` is above the limit.
        """
        if size > self.limit:
            raise TooLargeError(self._name, size, self.limit, self.version)
        if size + held > self._largest:
            self._largest = size + held
            if self._on_size is not None:
                self._on_size(self._largest)


def scheme_of(uri: str) -> str:
    """`gs` of `gs://bucket/name`; `file` for a path without a scheme."""
    match = SCHEME.match(uri)
    return match.group(1).lower() if match else "file"


def join(folder: str, *names: str) -> str:
    """A name below a folder, local or remote."""
    return "/".join((folder.rstrip("/") or "/", *names))


def literal_part(uri: str) -> str:
    """The part before the first wildcard; all of `uri` if it has none."""
    return _WILDCARD.split(uri, maxsplit=1)[0]


def is_glob(uri: str) -> bool:
    """Whether `uri` has one of the wildcards `*`, `?` and `[`."""
    return _WILDCARD.search(uri) is not None
