"""What a folder, a glob or a bucket turns out to hold: images, tars, lists, and leftovers of operating systems."""

from __future__ import annotations

import logging
import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping

from beam_job.inputs.list_formats import plain_name
from beam_job.inputs.lists import is_list, is_table
from beam_job.inputs.names import has_leftover, is_image_name, unread_kind
from beam_job.inputs.tars import is_tar
from beam_job.storage import StoredObject, is_glob, literal_part, local_path, local_uri, public_name, scheme_of
from beam_job.text import counted

_LOGGER = logging.getLogger(__name__)
_MARK = re.compile(r"/[_.](?![^/]*=)")  # but `_date=2024-05-06` is a partition
_NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"


class Contents:
    """What was found at an input.

    Args:
      given: the input.

    Attributes:
      own_name: the name of the input, if it is a single file, as a listing spells it.
      found: files, except for leftovers.
      leftovers: files that are leftovers of operating systems.
      unread_lists: lists that lie beside images.
      unread: archives and other files that hold images and are not read.
      others: files of a folder whose names are those of nothing that is read.
      marked_lists: lists that are not read since they, or their folders, begin with `_` or a dot.
    """

    def __init__(self, given: str) -> None:
        self.given = given
        self.found = 0
        self.leftovers = 0
        self.unread_lists = 0
        self.unread = 0
        self.others = 0
        self.marked_lists = 0
        self._examples: dict[str, str] = {}
        is_local = scheme_of(given) == "file"
        self.own_name = local_uri(os.path.abspath(local_path(given))) if is_local else given
        self._root = literal_part(self.own_name).rpartition("/")[0] if is_glob(given) else self.own_name
        self._wants_leftovers = has_leftover(given.split("/"))

    def is_leftover(self, uri: str) -> bool:
        """Whether a file is a leftover, which is counted; not if the input asks for leftovers by name."""
        if self._wants_leftovers or not has_leftover(uri.removeprefix(self._root).split("/")):
            return False
        self.leftovers += 1
        self._examples.setdefault("leftover", uri)
        return True

    def is_mark(self, uri: str, by_name: bool = True) -> bool:
        """Whether a file is not meant to be read, as Spark and Delta Lake name theirs: `_SUCCESS`, `_delta_log/0.json`.

        Args:
          uri: of the file.
          by_name: whether its own name counts, or only those of its folders. A pattern with such a name asks for it.
        """
        pattern = self.own_name.removeprefix(self._root)
        if "/_" in pattern or "/." in pattern:
            return False
        folders, _, name = uri.removeprefix(self._root).rpartition("/")
        is_marked = (by_name and name.startswith(("_", "."))) or _MARK.search(f"/{folders}/") is not None
        if is_marked and is_table(uri):
            self.marked_lists += 1
            self._examples.setdefault("marked", uri)
        return is_marked

    def add_unread_list(self, uri: str) -> None:
        """Counts a list that is not read, since there are images."""
        self.unread_lists += 1
        self._examples.setdefault("list", uri)

    def add_unread(self, uri: str) -> None:
        """Counts a file that holds images and is not read."""
        self.unread += 1
        self._examples.setdefault("unread", uri)

    def add_other(self, uri: str) -> None:
        """Counts a file of a folder whose name is that of nothing that is read."""
        self.others += 1
        self._examples.setdefault("other", uri)

    @property
    def description(self) -> str:
        """What else was found there."""
        leftovers = f"{self.leftovers:,} leftovers of operating systems" if self.leftovers else ""
        unread = counted(self.unread, "unread file") if self.unread else ""
        return f" (only {' and '.join(filter(None, [leftovers, unread]))})" if leftovers or unread else ""

    @property
    def other_files(self) -> str:
        """How many files have names of no known kind, and the first of them; "" if there are none."""
        return f"{counted(self.others, 'other file')}, such as {self._examples['other']}" if self.others else ""

    def log(self) -> None:
        """Logs what was skipped."""
        name = public_name(self.given)
        if self.leftovers:
            _LOGGER.info(
                f"{name}: {self.leftovers:,} leftovers of operating systems skipped, such as "
                f"{self._examples['leftover']}"
            )
        if self.unread:
            example = self._examples["unread"]
            count = counted(self.unread, "unread file")
            _LOGGER.warning(f"{name}: {count}, such as {example}, which is {unread_kind(example)}")
        if self.others and self.found:
            _LOGGER.info(f"{name}: {self.other_files}, not read; for other file types give a glob")
        if self.marked_lists:
            _LOGGER.info(
                f"{name}: {counted(self.marked_lists, 'list')} not read, whose name or folder begins with _ or a dot, "
                f"such as {self._examples['marked']}"
            )
        if self.unread_lists:
            _LOGGER.info(
                f"{name}: its images are captioned; {self.unread_lists:,} lists beside them are not read, such as "
                f"{self._examples['list']} (give them as --input)"
            )


def is_glob_of_lists(given: str) -> bool:
    """Whether a glob asks for lists: `exp/**/*.parquet`, `l/*.csv.gz`."""
    return is_glob(given) and is_list(given)


def examined(listed: Iterator[StoredObject], contents: Contents) -> Iterator[tuple[StoredObject, bool]]:
    """The images and tars among what was listed; or, if there is neither, the lists. True marks a list.

    A glob may name any file, but what Spark writes beside lists makes no images of them. Lists that lie beside images
    are counted, and not read.
    """
    given = contents.given
    marks: list[StoredObject] = []
    tables: list[StoredObject] = []
    texts: list[StoredObject] = []
    has_images = False
    for stored in listed:
        if contents.is_leftover(stored.uri):
            continue
        if stored.error is not None:
            yield stored, False
        elif is_glob_of_lists(given):
            if not contents.is_mark(stored.uri, by_name=False):
                contents.found += 1
                yield stored, True
        elif is_image_name(stored.uri) or is_tar(stored.uri) or stored.uri == contents.own_name:
            has_images = True
            contents.found += 1
            yield stored, False
        elif unread_kind(stored.uri):
            contents.add_unread(stored.uri)
        elif is_table(stored.uri):
            if not contents.is_mark(stored.uri):
                tables.append(stored)
        elif plain_name(stored.uri).endswith(".txt"):
            if not has_images:  # else captions beside images, more of them than memory need hold
                texts.append(stored)
        elif is_glob(given) and contents.is_mark(stored.uri):
            marks.append(stored)
        elif is_glob(given):
            has_images = True
            contents.found += 1
            yield stored, False
        else:
            contents.add_other(stored.uri)
    if not has_images and not tables:
        has_images = bool(marks)
    if has_images:
        contents.found += len(marks)
        yield from ((stored, False) for stored in marks)
    if not has_images:
        lists = tables or texts
        contents.found += len(lists)
        yield from ((stored, True) for stored in lists)
        return
    for stored in tables:
        contents.add_unread_list(stored.uri)


def partitions_of(uri: str) -> Mapping[str, str | None]:
    """The columns that the folders of a list name, as Hive writes them: `exp/date=2024-05-06/part-0.parquet`."""
    segments = (segment.partition("=") for segment in uri.split("/")[:-1])
    values = {key: urllib.parse.unquote(value) for key, equals, value in segments if equals and key}
    return {key: None if value == _NO_PARTITION else value for key, value in values.items()}
