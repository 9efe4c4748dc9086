"""A cache of files in the user's cache folder, for results that are slow to compute."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

_KEPT = 4  # files for each suffix, the last used; one takes 16 MB for the bundled model, and 200 MB for the largest
_OUR_NAME = r"[0-9a-f]{64}-[0-9a-f]{64}"  # only such files are ever removed


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/caption-images`, usually in ~/.cache (XDG Base Directory Specification, section 3).

    Raises:
      OSError: the user has no home folder.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not Path(base).is_absolute():  # the specification says to ignore a relative path
        try:
            base = str(Path.home() / ".cache")
        except RuntimeError as error:
            raise OSError(str(error)) from error
    return Path(base) / "caption-images"


def get(key: str, suffix: str) -> bytes | None:
    """The content stored under `key`, or None; a damaged file is removed.

    Args:
      key: a hexadecimal SHA-256 of everything that the content depends on.
      suffix: of the file name.

    Raises:
      OSError: the folder cannot be used.
    """
    for path in _our_files(own_folder(), suffix):
        if path.name.startswith(f"{key}-"):
            with contextlib.suppress(FileNotFoundError):  # another process has just removed it
                content = path.read_bytes()
                if path.name == _name(key, content, suffix):
                    with contextlib.suppress(OSError):  # a folder that can only be read
                        os.utime(path)  # it is in use, so others are removed first
                    return content
                path.unlink()
    return None


def put(key: str, content: bytes, suffix: str) -> Path:
    """Stores `content` under `key`, and removes all files of this cache with the same suffix but the few last used.

    Returns:
      the folder.

    Raises:
      OSError: the folder cannot be used or written.
    """
    folder = own_folder()
    path = folder / _name(key, content, suffix)
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".partial", delete=False) as partial:
        try:
            partial.write(content)
            partial.close()
            os.replace(partial.name, path)  # atomic: concurrent readers see a whole file or none
        except BaseException:
            os.unlink(partial.name)
            raise
    with contextlib.suppress(FileNotFoundError):
        for old in sorted(_our_files(folder, suffix), key=os.path.getmtime)[:-_KEPT]:
            old.unlink()
    return folder


def own_folder() -> Path:
    """The folder, created if necessary.

    Raises:
      OSError: it cannot be created, or others could have written its files.
    """
    folder = cache_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{folder} belongs to another user or is writable by others")
    return folder


def _our_files(folder: Path, suffix: str) -> Iterator[Path]:
    """Files that `put` wrote."""
    return (path for path in sorted(folder.iterdir()) if re.fullmatch(_OUR_NAME + re.escape(suffix), path.name))


def _name(key: str, content: bytes, suffix: str) -> str:
    return f"{key}-{hashlib.sha256(content).hexdigest()}{suffix}"
