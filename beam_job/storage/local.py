"""Files of this machine."""

from __future__ import annotations

import contextlib
import errno
import os
import stat as stat_module
import urllib.parse
from collections.abc import Callable, Iterator
from typing import BinaryIO

from beam_job.storage.atomic_file import create_file, replace_file
from beam_job.storage.base import (
    CONTENT,
    LATER,
    OPTIONS,
    SCHEME,
    ByteMeter,
    StorageError,
    StoredObject,
    is_glob,
    scheme_of,
)
from beam_job.storage.checksum import check
from beam_job.storage.near_miss import near_miss
from beam_job.storage.regular_file import open_regular
from beam_job.storage.retry import Deadline, Retrying, retrying
from beam_job.storage.versions import listed_version, read_version
from beam_job.storage.walk import Found, walk

_CHUNK = 1 << 20
# Errors that may be gone within seconds: another thread closes files, a client of NFS gets a new handle.
_TRANSIENT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_BAD_NAME = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}
_HINTS = {
    errno.ENOTDIR: "; a part of this path is a file, name another path",
    errno.EEXIST: "; a part of this path is a file or a link that leads nowhere, name another path",
    errno.EACCES: "; change its permissions, or name another path",
    errno.EPERM: "; change its permissions, or name another path",
}


class LocalStorage:
    """Local paths and `file://`; relative paths start at the working directory.

    Only regular files are read. Reads check their deadline after each MiB. A network mount that is dead and was mounted
    "hard" can still block a single system call (stat, open or read) for as long as the kernel waits; mount with `soft`
    to bound that.
    """

    def __init__(self, retrying: Retrying = retrying) -> None:
        self._retrying = retrying

    def list(self, uri: str, with_errors: bool = False) -> Iterator[StoredObject]:
        """See `Storage.list`.

        Folders and globs yield everything but folders. What cannot be read (a broken link, a FIFO) fails when it is
        read, so that it gets a failure row instead of being lost. Linked folders are followed, see `walk`.

        Args:
          uri: a folder, a glob or a file.
          with_errors: yield a subfolder that cannot be read, with its `error`, instead of raising StorageError.
        """
        path = local_path(uri)
        if os.path.isdir(path):
            found = walk(path)
        elif os.path.lexists(path) or not is_glob(path):
            stored = _stat_or_none(uri)
            if stored is not None:
                yield _stored(local_uri(os.path.abspath(path)), stored)
            return
        else:
            found = _matches(path)
        for entry in _with_errors(uri, found):
            with _local_errors(entry.path):
                if entry.error is not None and not with_errors:
                    raise entry.error
                listed = _listed(entry.path) if entry.error is None else _unreadable(entry.path, entry.error)
            if listed:
                yield listed

    def stat(self, uri: str) -> StoredObject:
        with _local_errors(uri):
            return _stored(uri, os.stat(local_path(uri)))

    def is_folder(self, uri: str) -> bool:
        found = _stat_or_none(uri)
        return found is not None and stat_module.S_ISDIR(found.st_mode)

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
        meter = ByteMeter(uri, max_bytes, on_size)
        part = None if offset is None or size is None else (offset, size)
        return self._retrying(lambda deadline: _read(uri, deadline, meter, part), timeout)

    def open(self, uri: str) -> BinaryIO:
        with _local_errors(uri):
            return open_regular(local_path(uri), uri)

    def exists(self, uri: str) -> bool:
        return _stat_or_none(uri) is not None

    def write(self, uri: str, data: bytes) -> None:
        with _local_errors(uri):
            replace_file(local_path(uri), data)

    def delete(self, uri: str) -> None:
        with _local_errors(uri):
            os.unlink(local_path(uri))

    def create(self, uri: str, data: bytes) -> bool:
        with _local_errors(uri):
            return create_file(local_path(uri), data)


def local_path(uri: str) -> str:
    """The path of a local URI: `file:///a%20b` is `/a b`; a path without scheme is returned as is.

    `?` and `#` are characters of a name here, as in a path.

    Raises:
      StorageError: the URI names another machine, or cannot be a path.
    """
    scheme = SCHEME.match(uri)
    if scheme_of(uri) != "file" or scheme is None:
        return uri
    host, slash, path = uri[scheme.end() :].partition("/")
    if host.lower() not in ("", "localhost"):
        raise StorageError(
            f"{uri}: names the host {host}; a local path is written file:///FOLDER/NAME", retry_when=CONTENT
        )
    with _local_errors(uri):
        return os.fsdecode(urllib.parse.unquote_to_bytes(os.fsencode(slash + path)))


def real_path(uri: str) -> str:
    """The absolute path of a local URI, without `..` and symbolic links. Raises StorageError."""
    with _local_errors(uri):
        return os.path.realpath(local_path(uri))


def absolute(uri: str) -> str:
    """An absolute path, which means the same in any working directory; a URI with a scheme is returned as is."""
    return uri if SCHEME.match(uri) else os.path.abspath(uri)


def local_uri(path: str) -> str:
    """The URI of a path: the path itself, or `file://` with escapes if it is not valid text, which Parquet needs."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return "file://" + urllib.parse.quote(os.fsencode(path))
    return path


def _read(uri: str, deadline: Deadline, meter: ByteMeter, part: tuple[int, int] | None) -> tuple[bytes, str]:
    with _local_errors(uri), open_regular(local_path(uri), uri) as file:
        found = os.fstat(file.fileno())
        offset, size = part or (0, found.st_size)
        meter.version = listed_version(found)
        meter.check(size)
        file.seek(offset)
        chunks: list[bytes] = []
        received = 0
        while chunk := file.read(_CHUNK if part is None else min(_CHUNK, size - received)):
            chunks.append(chunk)
            received += len(chunk)
            meter.check(received)  # a file may grow while it is read
            if deadline.expired:
                raise TimeoutError(errno.ETIMEDOUT, f"the time limit was reached after {received:,} bytes")
    data = b"".join(chunks)
    if part is not None:
        check(data, size, name=uri)
        return data, listed_version(found)
    return data, read_version(found, data)


def _with_errors(uri: str, entries: Iterator[Found]) -> Iterator[Found]:
    """The same entries; errors of looking them up are raised as StorageError."""
    while True:
        with _local_errors(uri):
            entry = next(entries, None)
        if entry is None:
            return
        yield entry


def _matches(path: str) -> Iterator[Found]:
    """The files that match a glob; names in the output are absolute."""
    segments = os.path.abspath(path).split(os.sep)
    # The folders before the first wildcard, and those with wildcards that are there by exactly that name.
    count = 1
    while count < len(segments) and os.path.isdir(os.sep.join(segments[: count + 1])):
        count += 1
    root = os.sep.join(segments[:count]) or os.sep
    return iter(()) if count == len(segments) else walk(root, segments[count:])


def _stat_or_none(uri: str) -> os.stat_result | None:
    """None if there is no such file; an error if that cannot be known, as when a mount has gone."""
    with _local_errors(uri):
        try:
            return os.stat(local_path(uri))
        except (FileNotFoundError, NotADirectoryError):
            return None


def _listed(path: str) -> StoredObject | None:
    """The file as listed; None if it was deleted in the meantime."""
    uri = local_uri(os.path.abspath(path))
    try:
        try:
            return _stored(uri, os.stat(path))
        except OSError:  # a link that leads nowhere, in a circle or where nobody may look: its own name is listed
            return _stored(uri, os.lstat(path))
    except FileNotFoundError:
        return None
    except PermissionError as error:  # a folder that shows its names and nothing else
        return _unreadable(path, error)


def _unreadable(path: str, error: OSError) -> StoredObject:
    uri = local_uri(os.path.abspath(path))
    hint = "; change its permissions, or leave it out with --exclude" if error.errno in _REFUSED else ""
    return StoredObject(uri, "", 0, error=f"{uri}: {error.strerror or error}{hint}", modified=None)


def _stored(uri: str, found: os.stat_result) -> StoredObject:
    return StoredObject(uri, listed_version(found), found.st_size, modified=found.st_mtime)


@contextlib.contextmanager
def _local_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:  # a name with a NUL byte, or one that cannot be encoded
        raise StorageError(f"{uri}: {error}", type(error).__name__, retry_when=CONTENT) from error
    except MemoryError as error:
        raise StorageError(f"{uri}: not enough memory", "MemoryError") from error
    except OSError as error:
        code = error.errno or 0
        retry_when = OPTIONS if code in _REFUSED else CONTENT if code in _BAD_NAME else LATER
        hint = near_miss(local_path(uri)) if code == errno.ENOENT else _HINTS.get(code, "")
        message = f"{uri}: {error.strerror or error}{hint}"
        raise StorageError(message, type(error).__name__, code in _TRANSIENT, retry_when=retry_when) from error
