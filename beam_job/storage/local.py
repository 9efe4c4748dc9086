"""Files of this machine."""

from __future__ import annotations

import contextlib
import glob
import os
import urllib.parse
import uuid
from collections.abc import Iterator
from typing import BinaryIO

from beam_job.storage.base import SCHEME, StorageError, StoredObject, is_glob, scheme_of
from beam_job.storage.checksum import check


class LocalStorage:
    """Local paths and `file://`; a relative path is the working directory's."""

    def list(self, uri: str) -> Iterator[StoredObject]:
        path = local_path(uri)
        if os.path.isdir(path):
            paths = _walk(path)
        elif os.path.exists(path) or not is_glob(path):
            paths = iter([path])
        else:
            # "." would keep `**/*.jpg` relative to the caller's folder: names in the output are absolute.
            matches = glob.iglob(os.path.abspath(path), recursive=True)
            paths = iter(sorted(match for match in matches if os.path.isfile(match)))
        for found in _with_errors(uri, paths):
            with _local_errors(found):
                stored = _stat_or_none(found)
            if stored:
                yield stored

    def stat(self, uri: str) -> StoredObject:
        with _local_errors(uri):
            return _stored(uri, os.stat(local_path(uri)))

    def is_folder(self, uri: str) -> bool:
        return os.path.isdir(local_path(uri))

    def read(
        self,
        uri: str,
        version: str | None = None,
        timeout: float = 60.0,
        size: int | None = None,
        crc32c: str | None = None,
        offset: int | None = None,
    ) -> tuple[bytes, str]:
        with _local_errors(uri), open(local_path(uri), "rb") as file:
            file.seek(offset or 0)
            data = file.read(-1 if offset is None else size)
            found = _version(os.fstat(file.fileno()))
        if offset is not None:
            check(data, size, name=uri)
        return data, found

    def open(self, uri: str) -> BinaryIO:
        with _local_errors(uri):
            return open(local_path(uri), "rb")

    def exists(self, uri: str) -> bool:
        return os.path.exists(local_path(uri))

    def write(self, uri: str, data: bytes) -> None:
        with _local_errors(uri), _temporary(local_path(uri), data) as temporary:
            os.replace(temporary, local_path(uri))

    def delete(self, uri: str) -> None:
        with _local_errors(uri):
            os.unlink(local_path(uri))

    def create(self, uri: str, data: bytes) -> bool:
        with _local_errors(uri), _temporary(local_path(uri), data) as temporary:
            try:
                os.link(temporary, local_path(uri))
            except FileExistsError:
                return False
            except OSError:
                # A file system without hard links has no atomic "create with content"; two attempts at one shard
                # at the same time do not occur on one machine.
                if os.path.exists(local_path(uri)):
                    return False
                os.replace(temporary, local_path(uri))
            return True


def local_path(uri: str) -> str:
    """The path of a local URI: `file:///a%20b` is `/a b`; a path without scheme is itself.

    `?` and `#` are characters of a name here, as in a path.

    Raises:
      StorageError: it names another machine, or is no text.
    """
    scheme = SCHEME.match(uri)
    if scheme_of(uri) != "file" or scheme is None:
        return uri
    host, slash, path = uri[scheme.end() :].partition("/")
    if host.lower() not in ("", "localhost"):
        raise StorageError(f"{uri}: names the host {host}; a local path is written file:///FOLDER/NAME")
    with _local_errors(uri):
        return os.fsdecode(urllib.parse.unquote_to_bytes(os.fsencode(slash + path)))


def real_path(uri: str) -> str:
    """The path of a local URI from the root on, without `..` and symbolic links. Raises StorageError."""
    with _local_errors(uri):
        return os.path.realpath(local_path(uri))


def absolute(uri: str) -> str:
    """A path from the root on, which other working directories read the same; a URI with a scheme as it is."""
    return uri if SCHEME.match(uri) else os.path.abspath(uri)


def local_uri(path: str) -> str:
    """The URI of a path: itself, but `file://` with escapes where its name is no text, which Parquet could not hold."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return "file://" + urllib.parse.quote(os.fsencode(path))
    return path


def _with_errors(uri: str, paths: Iterator[str]) -> Iterator[str]:
    """The same paths; what goes wrong while they are looked up is a StorageError."""
    while True:
        with _local_errors(uri):
            path = next(paths, None)
        if path is None:
            return
        yield path


def _stat_or_none(path: str) -> StoredObject | None:
    """The file as listed; None where it was deleted while listing."""
    try:
        return _stored(local_uri(os.path.abspath(path)), os.stat(path))
    except FileNotFoundError:
        return None


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # deleted while listing
        raise error


def _walk(folder: str) -> Iterator[str]:
    # Without `onerror` a folder that may not be read would be passed over, and its images lost without a word.
    for parent, folders, files in os.walk(folder, onerror=_raise):
        folders.sort()
        for name in sorted(files):
            yield os.path.join(parent, name)


def _stored(uri: str, stat: os.stat_result) -> StoredObject:
    return StoredObject(uri, _version(stat), stat.st_size)


def _version(stat: os.stat_result) -> str:
    return f"{stat.st_size}-{stat.st_mtime_ns}"


@contextlib.contextmanager
def _temporary(path: str, data: bytes) -> Iterator[str]:
    """A file beside `path` that holds `data`, on the disk and not only in a cache; gone afterwards."""
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    # The leading dot keeps readers of Parquet folders away from it.
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


# By what the system said; a bad file of a run has the words in its failure row.
_REMEDIES: dict[type[Exception], str] = {
    NotADirectoryError: "; a part of this path is a file, name another path",
    PermissionError: "; change its rights, or name another path",
}


@contextlib.contextmanager
def _local_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL byte
        reason = getattr(error, "strerror", None) or str(error)
        transient = isinstance(error, (TimeoutError, InterruptedError, BlockingIOError))
        remedy = _REMEDIES.get(type(error), "")
        raise StorageError(f"{uri}: {reason}{remedy}", type(error).__name__, transient) from error
