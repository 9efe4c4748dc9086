"""Limits the load on web servers: a few concurrent requests to each, and fewer when a server says that it is busy."""

from __future__ import annotations

import contextlib
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from beam_job.storage.access import current_access
from beam_job.storage.base import SCHEME, StorageError
from beam_job.storage.responses import WEB
from beam_job.storage.retry import Deadline

# Statuses by which a server says that it is asked too much.
BUSY = (429, 503)
_FIRST_PAUSE_S = 0.5  # after a refusal without Retry-After; doubled with each further one
_LONGEST_PAUSE_S = 8.0
_GROWTH = 10  # answers after which one more request at a time is tried
_PATIENCE = 8  # failures in a row after which an image gets a single attempt


class HostBusyError(StorageError):
    """A web server asked for a longer wait than an image has time; it is not asked again before."""


@dataclass
class _Host:
    under_way: int = 0
    at_a_time: int | None = None  # requests; None for as many as `Access` says
    not_before: float = 0.0  # seconds of the clock
    refusals: int = 0  # since the last answer
    answers: int = 0  # since the last refusal
    failures: int = 0  # in a row


class Hosts:
    """The state of web servers as seen by this process; all methods are thread-safe.

    Args:
      clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._hosts: dict[str, _Host] = {}
        self._changed = threading.Condition()  # guards _hosts, and is notified when a request ends

    def limit(self, host: str) -> int:
        """Requests at a time to `host`, at present."""
        with self._changed:
            return self._limit(self._of(host))

    def pause(self, host: str) -> float:
        """Seconds until `host` may be asked again; 0 for now."""
        with self._changed:
            return max(0.0, self._of(host).not_before - self._clock())

    def has_patience(self, host: str) -> bool:
        """Whether a failed request to `host` is worth another attempt: not after many failures in a row."""
        with self._changed:
            return self._of(host).failures < _PATIENCE

    @contextlib.contextmanager
    def request(self, host: str, deadline: Deadline, name: str) -> Iterator[None]:
        """Waits for a turn to ask `host`, which ends with the block.

        Raises:
          StorageError: there is no turn before the deadline.
        """
        self._enter(host, deadline, name)
        try:
            yield
        finally:
            with self._changed:
                self._of(host).under_way -= 1
                self._changed.notify_all()

    def answered(self, host: str) -> None:
        """Notes that `host` has answered: a file, or that there is none."""
        with self._changed:
            found = self._of(host)
            found.failures = found.refusals = 0
            found.answers += 1
            if found.at_a_time is not None and found.answers % _GROWTH == 0:
                grown = found.at_a_time + 1
                found.at_a_time = grown if grown < current_access().requests_per_host else None

    def refused(self, host: str, retry_after: float | None) -> None:
        """Notes that `host` is busy: it gets half as many requests at a time, after a pause."""
        with self._changed:
            found = self._of(host)
            now = self._clock()
            if found.not_before <= now:  # else the requests of one moment would halve it down to one
                found.at_a_time = max(1, self._limit(found) // 2)
                found.refusals += 1
            found.answers = 0
            wait = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** (min(found.refusals - 1, 10)))
            found.not_before = max(found.not_before, now + (wait if retry_after is None else retry_after))

    def failed(self, host: str) -> None:
        """Notes that an image could not be fetched from `host`, for a temporary reason."""
        with self._changed:
            self._of(host).failures += 1

    def _enter(self, host: str, deadline: Deadline, name: str) -> None:
        with self._changed:
            found = self._of(host)
            while True:
                pause = found.not_before - self._clock()
                left = deadline.left()
                if pause > left:
                    raise HostBusyError(f"{name}: {host} asked to wait another {pause:.0f} s", "HostBusy")
                if pause <= 0.0 and found.under_way < self._limit(found):
                    found.under_way += 1
                    return
                if left <= 0.0:
                    raise StorageError(
                        f"{name}: no request to {host} could be sent within the time limit", "TimeoutError", True
                    )
                self._changed.wait(min(left, pause) if pause > 0.0 else left)

    def _of(self, host: str) -> _Host:
        return self._hosts.setdefault(host, _Host())

    @staticmethod
    def _limit(host: _Host) -> int:
        most = current_access().requests_per_host
        return most if host.at_a_time is None else min(most, host.at_a_time)


def host_of(uri: str) -> str | None:
    """Name and port of the web server of `uri`; None for other storages."""
    match = SCHEME.match(uri)
    if match is None or match[1].lower() not in WEB:
        return None
    with contextlib.suppress(ValueError):
        return urllib.parse.urlsplit(uri).netloc.rpartition("@")[2].lower()
    return ""


HOSTS = Hosts()
