"""Resolves relative names in lists: against the working directory or the list's folder."""

from __future__ import annotations

import logging
import os
import re
import unicodedata
import urllib.parse
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from beam_job.storage import WEB, bucket_of, local_path, local_uri, scheme_of
from beam_job.text import counted

_LOGGER = logging.getLogger(__name__)
_ABSOLUTE = r"^(?:/|[A-Za-z][A-Za-z0-9+.\-]*://)"
_ONE_NAME = "a line must be one name, without sizes or labels; a list with columns needs the extension .csv or .tsv"
_TAR_MEMBER = re.compile(r"\.tar#", re.IGNORECASE)


def is_absolute(name: str) -> bool:
    """Whether a name in a list is that of one file, wherever the list lies."""
    return re.match(_ABSOLUTE, name) is not None


def spellings(name: str) -> Iterator[str]:
    """Yields the name unchanged, then other spellings of it.

    These are: without spaces and quotes around it, with slashes (Windows: "Copy as path"), in each Unicode form
    (macOS), without %-escapes (web pages), below the home folder (shells), and as a URI (Java's `file:/x`).
    """
    yield name
    bare = name.strip()
    if len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "\"'":
        bare = bare[1:-1]
    slashed = bare.replace("\\", "/")
    forms = [unicodedata.normalize(form, slashed) for form in ("NFC", "NFD")]
    others = [bare, slashed, *forms, urllib.parse.unquote(slashed)]
    if slashed.startswith("~/"):
        others.append(os.path.expanduser(slashed))
    if slashed.startswith("file:/"):
        others.append(f"file://{slashed.removeprefix('file:')}")
    yield from dict.fromkeys(other for other in others if other != name and "\0" not in other)


class RelativeNames:
    """Makes the names of a list absolute, so that the same name from another folder is another image.

    In a list on this machine a name starts at the working folder, or, if no such file is there, at the list's folder;
    if it is in neither, it is looked for as other systems spell it (`spellings`). In a list from elsewhere it starts at
    the list's folder.

    Args:
      given: the list.
    """

    def __init__(self, given: str) -> None:
        self._given = given
        self._is_local = scheme_of(given) == "file"
        here = os.path.abspath(local_path(given)) if self._is_local else given
        self._folder = os.path.dirname(here) if self._is_local else here.rpartition("/")[0]
        self._folders = tuple(dict.fromkeys((os.getcwd(), self._folder))) if self._is_local else ()
        self._missing = 0
        self._first_missing = ""

    def resolve(self, uris: pa.Array) -> pa.Array:
        """The URIs, with absolute names in place of relative ones."""
        is_absolute = pc.match_substring_regex(uris, _ABSOLUTE)
        if pc.all(is_absolute).as_py() in (True, None):
            return uris
        names: Iterable[str] = uris.filter(pc.invert(is_absolute)).to_pylist()
        found = pa.array([self._absolute(name) for name in names], pa.string())
        return pc.replace_with_mask(uris, pc.invert(is_absolute), found)

    def log_missing(self) -> None:
        """Logs how many relative names were not found, and where they were looked for."""
        if self._missing:
            where = " nor in ".join(self._folders)
            where = f" in {where}" if len(self._folders) == 1 else f", neither in {where}"
            rest = f"{self._first_missing}{' and others' if self._missing > 1 else ''}"
            hint = f"; {_ONE_NAME}" if re.search(r"[\s,]", self._first_missing) else ""
            _LOGGER.warning(f"{self._given}: {counted(self._missing, 'relative name')} not found{where}: {rest}{hint}")

    def _absolute(self, name: str) -> str:
        if not self._is_local:
            return self._beside(name)
        if "\0" in name:
            return name
        for spelling in spellings(name):
            if is_absolute(spelling):
                return spelling
            member = _TAR_MEMBER.search(spelling)
            file = spelling[: member.start() + 4] if member else spelling
            for folder in self._folders:
                path = os.path.normpath(os.path.join(folder, file))
                if os.path.lexists(path):
                    return local_uri(path) + spelling[len(file) :]
        self._missing += 1
        self._first_missing = self._first_missing or name
        paths = [os.path.normpath(os.path.join(folder, name)) for folder in self._folders]
        # Where its folder is, the failure can name a file that differs little.
        return local_uri(next((path for path in paths if os.path.isdir(os.path.dirname(path))), paths[0]))

    def _beside(self, name: str) -> str:
        if scheme_of(self._given) in WEB:
            return urllib.parse.urljoin(self._given, name)
        folder = self._folder
        while name.startswith(("./", "../")):
            step, _, rest = name.partition("/")
            if step == ".." and folder == bucket_of(folder):
                break  # there is nothing above a bucket
            folder, name = folder.rpartition("/")[0] if step == ".." else folder, rest
        return f"{folder}/{name}"
