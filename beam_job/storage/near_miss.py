"""Finds names that nearly match a missing local file, for error messages better than "No such file"."""

from __future__ import annotations

import functools
import os
import re
import unicodedata
import urllib.parse
from collections.abc import Mapping

_MOST_NAMES = 100_000  # of a folder; larger ones are not searched
_FOLDERS_KEPT = 4
_WEB = re.compile(r"^//|/www\.|https?:/")
_DRIVE = re.compile(r"/[A-Za-z]:[\\/]")


def near_miss(path: str) -> str:
    """A hint for the message about a file that does not exist; "" if there is none.

    It finds dangling links, names that differ only in capitals or Unicode form, which macOS and Windows ignore,
    names with %-escapes or backslashes, names with a label behind them, web addresses in another form, and paths of
    Windows.
    """
    try:
        missing = os.path.abspath(path)
    except FileNotFoundError:
        return "; the working directory was removed, so give an absolute path"
    try:
        while not os.path.exists(folder := os.path.dirname(missing)):
            missing = folder
        name = os.path.basename(missing)
        if os.path.islink(missing):
            return f"; {missing} is a symbolic link to {os.readlink(missing)}, which does not exist"
        near = _folded_names(folder, os.stat(folder).st_mtime_ns).get(_folded(name))
        if near is not None:
            same = unicodedata.normalize("NFC", near) == unicodedata.normalize("NFC", name)
            how = "its Unicode form (NFC or NFD)" if same else "letter case"
            return f"; there is {os.path.join(folder, near)}, which differs only in {how}"
        return _other_spelling(os.path.abspath(path), folder)
    except (OSError, ValueError):
        return ""


def _other_spelling(path: str, folder: str) -> str:
    """A hint at a file below `folder`, where `path` would be if all its folders existed."""
    for other, how in (
        (urllib.parse.unquote(path), "the same name without %-escapes"),
        (path.replace("\\", "/"), "the same name with slashes"),
        (re.split(r"[\t,]", path)[0], "the same name without what follows it"),
        (path.rpartition(" ")[0], "the same name without what follows it"),
    ):
        other = os.path.normpath(other)
        if other != path and other.startswith(folder.rstrip("/") + "/") and os.path.exists(other):
            return f"; there is {other}, {how}"
    if _WEB.search(path):
        return "; a web address is written alone, as https://HOST/NAME"
    if _DRIVE.search(path):
        return "; this is a path of Windows, name the file as this machine does"
    return ""


@functools.lru_cache(_FOLDERS_KEPT)
def _folded_names(folder: str, _modified: int) -> Mapping[str, str]:
    names: dict[str, str] = {}
    with os.scandir(folder) as entries:
        for number, entry in enumerate(entries):
            if number == _MOST_NAMES:
                return {}
            key = _folded(entry.name)
            names[key] = min(entry.name, names.get(key, entry.name))
    return names


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
