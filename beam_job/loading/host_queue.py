"""A queue of images from which a slow web server cannot take all fetching threads."""

from __future__ import annotations

import collections
import threading
from typing import Generic, TypeVar

from beam_job.storage import HOSTS, Hosts, host_of

T = TypeVar("T")


class HostQueue(Generic[T]):
    """Queues items by web server; items of other storages are never delayed.

    `get` returns the oldest item of a server that may be asked now, taking turns between servers. A server has as many
    items under way as requests at a time (`Hosts.limit`), and at most half of the threads, so that images of other
    places go on. A server that asks for a pause is left alone, unless the pause is longer than an image has time: then
    its items are returned at once, and fail (`HostBusyError`). Any thread may call any method.

    Args:
      threads: that `get` items.
      fetch_timeout: seconds that an image has to be fetched.
      hosts: what is known about servers.
    """

    def __init__(self, threads: int, fetch_timeout: float, hosts: Hosts = HOSTS) -> None:
        self._most = max(1, threads // 2)
        self._fetch_timeout = fetch_timeout
        self._hosts = hosts
        self._waiting: dict[str | None, collections.deque[T]] = {}
        self._under_way: collections.Counter[str | None] = collections.Counter()
        self._is_closed = False
        self._changed = threading.Condition()  # guards the above, and is notified when `get` may have something new

    def put(self, uri: str, item: T) -> None:
        """Adds an item whose file is `uri`."""
        with self._changed:
            self._waiting.setdefault(host_of(uri), collections.deque()).append(item)
            self._changed.notify()

    def get(self) -> tuple[str | None, T] | None:
        """The next item and its server, for which `done` must be called; None once the queue is closed and empty."""
        with self._changed:
            while self._waiting or not self._is_closed:
                pause = None
                for host in self._waiting:
                    wait = self._wait(host)
                    if wait == 0.0:
                        return host, self._take(host)
                    if wait is not None:
                        pause = wait if pause is None else min(wait, pause)
                self._changed.wait(pause)
            return None

    def done(self, host: str | None) -> None:
        """Notes that an item of this server is no longer under way."""
        with self._changed:
            self._under_way[host] -= 1
            if not self._under_way[host]:
                del self._under_way[host]
            if host in self._waiting:
                self._changed.notify()

    def close(self) -> None:
        """Lets `get` return None when no items are left."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _wait(self, host: str | None) -> float | None:
        """Seconds until an item of this server may be taken; None until `done`."""
        if host is None:
            return 0.0
        if self._under_way[host] >= min(self._most, self._hosts.limit(host)):
            return None
        pause = self._hosts.pause(host)
        return pause if pause <= self._fetch_timeout else 0.0

    def _take(self, host: str | None) -> T:
        """The next item of a server, which is the last to get its turn again."""
        items = self._waiting.pop(host)
        item = items.popleft()
        if items:
            self._waiting[host] = items
        self._under_way[host] += 1
        return item
