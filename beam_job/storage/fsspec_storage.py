"""Files of the other clouds, through fsspec and the packages that it finds for their schemes."""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

from beam_job.storage.base import StorageError, StoredObject, UnknownSchemeError, is_glob
from beam_job.storage.checksum import check
from beam_job.storage.read_only import ReadOnly
from beam_job.storage.responses import is_transient
from beam_job.storage.retry import Deadline, Retrying, retrying

# The schemes and the package that each needs beside fsspec; `caption-images[fsspec]` brings fsspec and s3fs.
FSSPEC_SCHEMES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "az": "adlfs",
    "abfs": "adlfs",
    "hf": "huggingface_hub",
    "memory": "",
}
_CHUNK = 1 << 20
# What `info` calls the thing that changes with the content, best first; times are joined with the size.
_TAGS = ("ETag", "etag", "blob_id", "md5", "checksum")
_TIMES = ("mtime", "LastModified", "last_modified", "created")
_PERMANENT = (LookupError, NotImplementedError, PermissionError, TypeError, ValueError)
_MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


class FsspecStorage(ReadOnly):
    """One scheme of fsspec, one file system a process; credentials and endpoints are those of the scheme's package.

    For reading: `write` and `create` refuse, because no file system of fsspec promises a write that is both whole and
    exclusive, and the output needs both.
    """

    def __init__(self, scheme: str, retrying: Retrying = retrying) -> None:
        self._scheme = scheme
        self._retrying = retrying
        self._lock = threading.Lock()
        self._made: Any = None

    @property
    def _fs(self) -> Any:
        with self._lock:
            if self._made is None:
                self._made = _file_system(self._scheme)
            return self._made

    def list(self, uri: str) -> Iterator[StoredObject]:
        with _fsspec_errors(uri):
            search = self._fs.glob if is_glob(uri) else self._fs.find
            found = search(uri, detail=True)
        for path, info in sorted(found.items()):
            if info["type"] == "file":
                yield _stored(self._fs.unstrip_protocol(path), info)

    def stat(self, uri: str) -> StoredObject:
        with _fsspec_errors(uri):
            return _stored(uri, self._fs.info(uri))

    def is_folder(self, uri: str) -> bool:
        with _fsspec_errors(uri):
            return self._fs.isdir(uri)

    def read(
        self,
        uri: str,
        version: str | None = None,
        timeout: float = 60.0,
        size: int | None = None,
        crc32c: str | None = None,
        offset: int | None = None,
    ) -> tuple[bytes, str]:
        """What is there with its own version, like a local file: fsspec's reads pin none.

        It is checked to be as long as the file was just before. Two requests or more.
        """
        end = None if offset is None or size is None else offset + size
        return self._retrying(lambda deadline: self._read(uri, deadline, offset, end), timeout)

    def open(self, uri: str) -> BinaryIO:
        with _fsspec_errors(uri):
            return self._fs.open(uri, "rb")

    def exists(self, uri: str) -> bool:
        try:
            self.stat(uri)
        except StorageError as error:
            if isinstance(error.__cause__, _MISSING):
                return False
            raise
        return True

    def _read(self, uri: str, deadline: Deadline, start: int | None, end: int | None) -> tuple[bytes, str]:
        with _fsspec_errors(uri):
            path = self._fs._strip_protocol(uri)
            if self._fs.async_impl:
                info = self._wait(self._fs._info, path, deadline)
                data = self._wait(functools.partial(self._fs._cat_file, start=start, end=end), path, deadline)
            else:
                info = self._fs.info(path)
                data = self._read_in_chunks(path, deadline, start or 0, end)
            stored = _stored(uri, info)
        check(data, stored.size if start is None or end is None else end - start, name=uri)
        return data, stored.version

    def _wait(self, call: Callable[[str], Any], path: str, deadline: Deadline) -> Any:
        """The result of an asynchronous call, cancelled at the deadline, in the middle of a read if need be."""
        sync = importlib.import_module("fsspec.asyn").sync
        # 0 would wait for ever.
        return sync(self._fs.loop, call, path, timeout=max(deadline.left(), 0.001))

    def _read_in_chunks(self, path: str, deadline: Deadline, start: int, end: int | None) -> bytes:
        """A file system that blocks is asked for a piece at a time; a piece takes as long as its package lets it."""
        data = bytearray()
        with self._fs.open(path, "rb") as file:
            file.seek(start)
            while chunk := file.read(_CHUNK if end is None else min(_CHUNK, end - start - len(data))):
                data += chunk
                if deadline.expired:
                    raise TimeoutError(f"{len(data)} bytes had come when its time was over")
        return bytes(data)


def _file_system(scheme: str) -> Any:
    try:
        # A listing kept in memory would hide that a file has changed.
        return importlib.import_module("fsspec").filesystem(scheme, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        package = FSSPEC_SCHEMES.get(scheme, "")
        also = f" and `pip install {package}`" if package not in ("", "s3fs") else ""
        hint = f"{scheme}:// needs `pip install 'caption-images[fsspec]'`{also}"
        raise UnknownSchemeError(f"{hint}: {error}", type(error).__name__) from error


def _stored(uri: str, info: Mapping[str, Any]) -> StoredObject:
    if info["type"] != "file":
        raise IsADirectoryError(f"{uri} is a folder")
    return StoredObject(uri, _version(info), int(info["size"] or 0))


def _version(info: Mapping[str, Any]) -> str:
    for tag in _TAGS:
        if info.get(tag):
            return str(info[tag]).strip('"')
    stamp = next((info[time] for time in _TIMES if info.get(time)), "")
    if isinstance(stamp, datetime.datetime):  # `info` and `find` of one file system may differ here
        stamp = stamp.timestamp()
    return f"{info['size']}-{stamp}"


@contextlib.contextmanager
def _fsspec_errors(uri: str) -> Iterator[None]:
    """Whatever the scheme's package raises, as a StorageError: permanent where another attempt cannot help."""
    try:
        yield
    except StorageError:
        raise
    except _MISSING as error:
        raise StorageError(f"{uri}: {_line(error)}", type(error).__name__) from error
    except Exception as error:  # botocore's, aiohttp's, Azure's: they have no base in common
        status = getattr(getattr(error, "response", None), "status_code", None)
        transient = not isinstance(error, _PERMANENT) and "Credential" not in type(error).__name__
        if isinstance(status, int):
            transient = is_transient(status)
        raise StorageError(f"{uri}: {_line(error)}", type(error).__name__, transient) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
