"""A bucket's objects in the order of their names, asked for by several threads, in memory that does not grow.

The names are cut into ranges, each listed page by page with `startOffset` and `endOffset`. A range that turns out to
be longer than its first page is cut again: where the folders below it begin, which one more request with a delimiter
tells, or, in a folder without folders, where the characters of its names let guess. Ranges need not be of one size, nor
even hold anything, because whatever the cuts, the ranges in their order make the same listing: that of one thread. So
the threads' speed decides where is cut, and never what is found, nor in which order.

Threads take a page at a time, always of the first range that no other thread is at, and pages wait for the consumer up
to a number in all. A flat listing of a few pages costs no more requests than it did; a bucket of many small folders is
not listed folder by folder, since a range spans as many of them as made one page.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from beam_job.storage.base import StorageError, StoredObject

THREADS = 16
# Listed and not yet consumed: 128,000 objects, some 60 MB.
PAGES_HELD = 128
# A range of so many pages is cut again however many ranges there are: with less than this much of each of the ranges
# at hand, the pages held are full before the first range is through.
_LONG = PAGES_HELD // THREADS
_FIELDS = "items(name,generation,size,crc32c),nextPageToken"
_FOLDER_FIELDS = "prefixes,nextPageToken"


class Pages(Protocol):
    """`objects.list` of one bucket."""

    def __call__(self, **select: str | None) -> Iterator[Mapping[str, Any]]:
        """Its answers, one after the other; takes the options of the client's `list_blobs`. Raises StorageError."""


@dataclass(eq=False)
class _Range:
    """The names from `start` to before `end`; where `end` is None, to the last.

    Attributes:
      start: a prefix of the first name, or an offset before it.
      end: as above; moves down where the range is cut.
      folder: a prefix of all names of the range; its folders are where to cut.
      answers: of the server, from `start` on; may run beyond an `end` that has moved.
      ready: pages that wait for the consumer.
      pages: how many have come.
      first: the first name that has come.
      last: the last one.
      busy: a thread waits for a page of it.
      done: nothing more is to come.
      error: what ended it; the consumer gets it after what is ready.
    """

    start: str
    end: str | None
    folder: str
    answers: Iterator[Mapping[str, Any]]
    ready: deque[list[StoredObject]] = field(default_factory=deque)
    pages: int = 0
    first: str = ""
    last: str = ""
    busy: bool = False
    done: bool = False
    error: BaseException | None = None

    def holds(self, name: str) -> bool:
        """Whether the name is in the range; a server that ignores offsets sends others."""
        return self.start <= name and (self.end is None or name < self.end)


class NameOrderListing:
    """One listing, to be iterated once; its threads end with it, or after their present request where it is dropped.

    Args:
      pages: asks the server.
      bucket: whose objects they are.
      prefix: of the names wanted.
      match_glob: a pattern of whole names, for the server to match; `prefix` must be a prefix of whatever matches.
    """

    def __init__(self, pages: Pages, bucket: str, prefix: str, match_glob: str | None = None) -> None:
        self._pages = pages
        self._uri = f"gs://{bucket}/"
        self._prefix = prefix
        self._match_glob = match_glob
        self._changed = threading.Condition()
        self._ranges = [self._range(prefix, None, prefix)]
        self._held = 1  # the first page is about to be fetched
        self._stopped = False

    def __iter__(self) -> Iterator[StoredObject]:
        """The objects by name, as Google orders them: by code point. Placeholders of folders are left out.

        Raises:
          StorageError: in the place of what could not be listed.
        """
        self._fetch(self._ranges[0])  # most listings end here, without a thread
        if any(not found.done for found in self._ranges):
            for _ in range(THREADS):
                threading.Thread(target=self._work, name="gcs-listing", daemon=True).start()
        try:
            while (page := self._next_page()) is not None:
                yield from page
        finally:
            with self._changed:
                self._stopped = True
                self._changed.notify_all()

    def _next_page(self) -> list[StoredObject] | None:
        """The next one in the order of names; None after the last."""
        with self._changed:
            while self._ranges:
                head = self._ranges[0]
                if head.ready:
                    self._held -= 1
                    self._changed.notify_all()
                    return head.ready.popleft()
                if head.error is not None:
                    raise head.error
                if head.done:
                    del self._ranges[0]
                    self._changed.notify_all()
                else:
                    self._changed.wait()
        return None

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            self._fetch(taken)

    def _take(self) -> _Range | None:
        """The first range of which no other thread fetches a page, once a page may be held; None when all is done."""
        with self._changed:
            while not self._stopped:
                place, idle = next(
                    ((at, found) for at, found in enumerate(self._ranges) if not (found.busy or found.done)), (0, None)
                )
                if idle is None and not any(found.busy for found in self._ranges):
                    return None
                # What lies far ahead may fill a part of the room only: the rest is for what is cut off nearer by. And
                # what the consumer waits for may come in any case, or nobody could go on.
                room = PAGES_HELD // (1 + place // THREADS)
                if idle is not None and (self._held < room or (place == 0 and not idle.ready)):
                    idle.busy = True
                    self._held += 1
                    return idle
                self._changed.wait()
        return None

    def _fetch(self, taken: _Range) -> None:
        """One page more of a range, and the cutting of what remains.

        It is the consumer's at once when it is `done`, so that is told together with the page, and last.
        """
        page: list[StoredObject] = []
        cuts: list[_Range] = []
        error: BaseException | None = None
        done = True
        try:
            page, names, done = self._page(taken)
            if not done:
                cuts = self._cut(taken, names)
        except BaseException as caught:  # a thread has nobody else to tell
            error, done = caught, True
        with self._changed:
            place = self._ranges.index(taken) + 1
            self._ranges[place:place] = cuts
            if page:
                taken.ready.append(page)
            else:
                self._held -= 1
            taken.busy, taken.done, taken.error = False, done, error
            if done and not taken.ready and error is None:
                self._ranges.remove(taken)
            self._changed.notify_all()

    def _page(self, taken: _Range) -> tuple[list[StoredObject], list[str], bool]:
        """The next objects of a range; all their names, those of folders' placeholders among them; whether it ends."""
        answer = next(taken.answers, {})
        items = answer.get("items", ())
        names = [item["name"] for item in items]
        if names != sorted(names) or (names and names[0] < taken.last):
            raise StorageError(f"{self._uri}{names[0]}: the names that follow were not listed in their order")
        taken.pages += 1
        taken.first = taken.first or "".join(names[:1])
        taken.last = "".join(names[-1:]) or taken.last
        inside = [item for item in items if taken.holds(item["name"])]
        page = [self._stored(item) for item in inside if not item["name"].endswith("/")]
        return page, names, "nextPageToken" not in answer or (taken.end is not None and taken.last >= taken.end)

    def _stored(self, item: Mapping[str, Any]) -> StoredObject:
        return StoredObject(self._uri + item["name"], str(item["generation"]), int(item["size"]), item.get("crc32c"))

    def _range(self, start: str, end: str | None, folder: str) -> _Range:
        offset = start if start != self._prefix else None
        answers = self._pages(
            prefix=self._prefix,
            match_glob=self._match_glob,
            start_offset=offset,
            end_offset=end,
            fields=_FIELDS,
        )
        return _Range(start, end, folder, answers)

    def _cut(self, taken: _Range, names: Sequence[str]) -> list[_Range]:
        """What becomes ranges of their own behind `taken`, which ends where the first of them starts."""
        if not self._worth_cutting(taken):
            return []
        points, folder = self._folders_after(taken, names)
        if not points and taken.pages >= _LONG:
            points = guessed_points(taken.first, taken.last, names, len(folder))
        points = [point for point in points if taken.last < point and taken.holds(point)]
        if not points:
            return []
        ends = [*points[1:], taken.end]
        # What comes after the last point may lie outside of `folder`.
        folders = [folder] * (len(points) - 1) + [taken.folder]
        taken.end, taken.folder = points[0], folder
        return [self._range(*cut) for cut in zip(points, ends, folders, strict=True)]

    def _worth_cutting(self, taken: _Range) -> bool:
        """After 1, 2, 4, ... pages: of a long range, or of any where there is little for the other threads to do."""
        if not taken.last or taken.pages & (taken.pages - 1):
            return False
        with self._changed:
            unfinished = sum(not found.done for found in self._ranges)
        return taken.pages >= _LONG or unfinished < 2 * THREADS

    def _folders_after(self, taken: _Range, names: Sequence[str]) -> tuple[list[str], str]:
        """Where the folders after the last name begin, on the highest level that has some; and what they lie in.

        Where many folders made the last page, it is every so many-th of them.
        """
        folder = taken.folder
        while True:
            answers = self._pages(
                prefix=folder,
                delimiter="/",
                start_offset=taken.last,
                end_offset=taken.end,
                fields=_FOLDER_FIELDS,
            )
            prefixes = next(answers, {}).get("prefixes", ())
            if points := sorted(prefix for prefix in prefixes if taken.last < prefix and taken.holds(prefix)):
                parts = (name[len(folder) :].partition("/") for name in names)
                a_page = len({part for part, slash, _ in parts if slash})
                return points[:: max(1, a_page)], folder
            slash = taken.last.find("/", len(folder))
            if slash < 0:
                return [], folder
            folder = taken.last[: slash + 1]


def guessed_points(first: str, last: str, names: Sequence[str], folder_length: int) -> list[str]:
    """Names that there may be after `last`, far apart, in ascending order: `img_02`, `img_03`, ..., `img_1`, `img_2`.

    They differ from it at a character that the pages have shown to vary, or at one before it of the same kind, that is,
    of those that vary on the last page: digits, hexadecimal digits, letters.

    Args:
      first: the first name that was listed, some pages before.
      last: the last one.
      names: the last page.
      folder_length: characters that all names of the folder share.
    """
    at = len(os.path.commonprefix([first, last]))  # noqa: RUF071  # characters are what is meant
    # Three characters, since of the first that varies a page may have two values only, when it runs from 01ff to 0200.
    varies = len(os.path.commonprefix([names[0], names[-1]])) if names else 0  # noqa: RUF071
    alphabet = sorted({character for name in names for character in name[varies : varies + 3]})
    places = itertools.takewhile(lambda place: last[place : place + 1] in alphabet, range(at, folder_length - 1, -1))
    return [last[:place] + character for place in places for character in alphabet if character > last[place]]
