"""Local files that appear with all of their content, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator

from beam_job.storage.regular_file import open_regular

_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}


def replace_file(path: str, data: bytes) -> None:
    """Writes a file, in place of one that is there. Raises OSError."""
    with _temporary(path, data) as temporary:
        os.replace(temporary, path)


def create_file(path: str, data: bytes) -> bool:
    """Writes a file unless there is one; returns whether the file there has this content. Raises OSError."""
    with _temporary(path, data) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            # Over NFS an answer may be lost: the first attempt succeeded and the kernel's second one fails.
            return _has_content(path, data)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            return _create_without_links(temporary, path, data)
        return True


@contextlib.contextmanager
def _temporary(path: str, data: bytes) -> Iterator[str]:
    """A file beside `path` that holds `data`, synced to the disk; removed afterwards.

    A killed process leaves it behind. It stays there, since nothing could tell it from one that another process is
    still writing; readers of Parquet folders ignore names that begin with a dot.
    """
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
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


def _create_without_links(temporary: str, path: str, data: bytes) -> bool:
    """For file systems without hard links: an exclusive, empty file claims the name, then gets its content at once."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return _has_content(path, data)
    os.replace(temporary, path)
    return True


def _has_content(path: str, data: bytes) -> bool:
    try:
        if os.stat(path).st_size != len(data):
            return False
        with open_regular(path, path) as file:
            return file.read() == data
    except FileNotFoundError:  # deleted since
        return False
