"""Finds the files below a folder that match a pattern; linked folders are followed, and each real folder once."""

from __future__ import annotations

import collections
import fnmatch
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Found:
    """A file, or, with `error`, a folder that could not be read."""

    path: str
    error: OSError | None = None


@dataclass(frozen=True)
class _Folder:
    """A folder still to be searched.

    Attributes:
      path: as it was reached.
      real: without symbolic links.
      states: places in the pattern whose next segment its entries may match.
    """

    path: str
    real: str
    states: frozenset[int]


def walk(root: str, pattern: Sequence[str] = ("**", "*")) -> Iterator[Found]:
    """The files below `root` that match the segments of `pattern`, each folder's in the order of names.

    `**` stands for any number of folders. Names that begin with a dot are names like others. A segment that is the
    exact name of an entry matches only that. A linked folder is searched after the real ones, unless it leads to a
    folder above, or to one that was searched before; so each real file is found once.

    Raises:
      OSError: `root` cannot be read.
    """
    return _Walk(root, pattern).found()


class _Walk:
    def __init__(self, root: str, pattern: Sequence[str]) -> None:
        self._root = root
        self._pattern = [*pattern, "*"] if pattern[-1] == "**" else list(pattern)
        self._searched: set[tuple[str, frozenset[int]]] = set()
        self._links: collections.deque[tuple[_Folder, str]] = collections.deque()

    def found(self) -> Iterator[Found]:
        real = os.path.realpath(self._root)
        yield from self._below(_Folder(self._root, real, self._closed({0})))
        while self._links:
            link, parent = self._links.popleft()
            target = os.path.realpath(link.path)
            if not (_is_within(parent, target) or _is_within(real, target)):
                yield from self._below(_Folder(link.path, target, link.states))

    def _below(self, first: _Folder) -> Iterator[Found]:
        waiting = [first]
        while waiting:
            folder = waiting.pop()
            key = (folder.real, folder.states)
            if key in self._searched:
                continue
            self._searched.add(key)
            try:
                entries = self._entries(folder)
            except OSError as error:
                if folder.path == self._root or not os.path.isdir(self._root):
                    raise
                if not isinstance(error, FileNotFoundError):  # else it was deleted meanwhile
                    yield Found(folder.path, error)
                continue
            deeper = []
            names = {entry.name for entry in entries}
            for entry in entries:
                name, path = entry.name, entry.path
                is_match, states = self._step(folder.states, name, names)
                if not _is_folder(entry):
                    if is_match:
                        yield Found(path)
                elif states and entry.is_symlink():
                    self._links.append((_Folder(path, "", states), folder.real))
                elif states:
                    deeper.append(_Folder(path, os.path.join(folder.real, name), states))
            waiting += reversed(deeper)

    def _entries(self, folder: _Folder) -> Sequence[_Entry]:
        """The entries that may match; a folder whose entries are all named outright need not be readable."""
        wanted = {self._pattern[state] for state in folder.states}
        if not any(_WILDCARD.search(segment) for segment in wanted):
            named = (Path(folder.path, name) for name in sorted(wanted))
            return [_Named(path) for path in named if os.path.lexists(path)]
        with os.scandir(folder.path) as entries:
            return sorted(entries, key=lambda entry: entry.name)

    def _step(self, states: frozenset[int], name: str, names: Collection[str]) -> tuple[bool, frozenset[int]]:
        """Whether a file `name` matches the whole pattern, and the states within a folder `name`."""
        is_match, following = False, set()
        for state in states:
            segment = self._pattern[state]
            if segment == "**":
                following.add(state)
            elif segment == name or (fnmatch.fnmatchcase(name, segment) and not _is_name(segment, names)):
                is_match = is_match or state == len(self._pattern) - 1
                following.add(state + 1)
        return is_match, self._closed(state for state in following if state < len(self._pattern))

    def _closed(self, states: Iterator[int] | set[int]) -> frozenset[int]:
        """The states, and those after each `**`, which may stand for no folder at all."""
        closed = set()
        for state in states:
            closed.add(state)
            while self._pattern[state] == "**":
                state += 1
                closed.add(state)
        return frozenset(closed)


class _Named:
    """An entry that is named outright, like an `os.DirEntry`."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.path = str(path)

    def is_dir(self) -> bool:
        return os.path.isdir(self.path)

    def is_symlink(self) -> bool:
        return os.path.islink(self.path)


_Entry: TypeAlias = "os.DirEntry[str] | _Named"


def _is_folder(entry: _Entry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads where nobody may look: it fails when it is read
        return False


def _is_name(segment: str, names: Collection[str]) -> bool:
    """Whether an entry has exactly the name that a segment with brackets spells."""
    return "[" in segment and segment in names


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
