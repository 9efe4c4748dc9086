"""Opens regular files only: opening a FIFO would wait for a writer for ever, and opening a device may do anything."""

from __future__ import annotations

import os
import stat as stat_module
from typing import BinaryIO

from beam_job.storage.base import CONTENT, StorageError


def open_regular(path: str, uri: str) -> BinaryIO:
    """Opens a regular file, and nothing else, without ever waiting for a writer.

    Args:
      path: of the file.
      uri: for the error.

    Raises:
      StorageError: it is something else.
      OSError: it cannot be opened.
    """
    _check_is_regular(uri, os.stat(path))
    # The file may have been replaced since: without O_NONBLOCK, opening a FIFO would hang.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_is_regular(uri, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _check_is_regular(uri: str, found: os.stat_result) -> None:
    if stat_module.S_ISREG(found.st_mode):
        return
    kinds = {
        stat_module.S_IFDIR: "a folder",
        stat_module.S_IFIFO: "a FIFO",
        stat_module.S_IFSOCK: "a socket",
        stat_module.S_IFCHR: "a device",
        stat_module.S_IFBLK: "a device",
    }
    kind = kinds.get(stat_module.S_IFMT(found.st_mode), "a special file")
    raise StorageError(f"{uri}: is {kind}, not a regular file", "NotAFile", retry_when=CONTENT)
