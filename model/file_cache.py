"""What is slow to make and can be made again, kept for the next process in the user's own cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path

_KEPT = 4  # files; one is some 16 MB for the model that ships, and 200 for the largest


def cache_folder() -> Path:
    """By the XDG Base Directory Specification, section 3: `$XDG_CACHE_HOME/caption-images`, mostly below ~/.cache.

    Raises:
      OSError: it cannot be told, since there is no home.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not Path(base).is_absolute():  # which the specification wants ignored
        try:
            base = str(Path.home() / ".cache")
        except RuntimeError as error:
            raise OSError(str(error)) from error
    return Path(base) / "caption-images"


def get(key: str, suffix: str) -> bytes | None:
    """What was put under `key`, where it is still whole; damaged files are removed.

    Args:
      key: a hexadecimal checksum of all that decides the content.
      suffix: of the file's name.

    Raises:
      OSError: the folder cannot be used.
    """
    folder = own_folder()
    for path in sorted(folder.glob(f"{key}-*{suffix}")):
        with contextlib.suppress(FileNotFoundError):  # another process has just removed it
            content = path.read_bytes()
            if path.name == _name(key, content, suffix):
                return content
            path.unlink()
    return None


def put(key: str, content: bytes, suffix: str) -> Path:
    """Keeps `content` under `key`; of files with this suffix the newest few remain.

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
            os.replace(partial.name, path)  # whole or not at all, whoever reads or writes meanwhile
        except BaseException:
            os.unlink(partial.name)
            raise
    with contextlib.suppress(FileNotFoundError):
        for old in sorted(folder.glob(f"*{suffix}"), key=os.path.getmtime)[:-_KEPT]:
            old.unlink()
    return folder


def own_folder() -> Path:
    """The folder, made if it is not there; where others may write, what lies there may be anybody's.

    Raises:
      OSError: there is none, or others may write there.
    """
    folder = cache_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{folder} belongs to others or may be written by them")
    return folder


def _name(key: str, content: bytes, suffix: str) -> str:
    return f"{key}-{hashlib.sha256(content).hexdigest()}{suffix}"
