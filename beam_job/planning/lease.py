"""One run at a time in an output: a lease file with a heartbeat, taken over when its holder is dead."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from beam_job.storage import StorageError, join, storage_for

HEARTBEAT_S = 10.0
STALE_AFTER_S = 60.0


class LeaseError(RuntimeError):
    """Another run writes into this output; the message names it."""


@dataclass(frozen=True)
class Holder:
    """What the lease file says.

    Attributes:
      token: of this holder alone.
      host: its machine.
      pid: its process there.
      since: seconds since the epoch when it took the lease.
      heartbeat: seconds since the epoch when it last said that it lives.
    """

    token: str
    host: str
    pid: int
    since: float
    heartbeat: float

    @classmethod
    def me(cls, now: float) -> Holder:
        """This process."""
        return cls(uuid.uuid4().hex, socket.gethostname(), os.getpid(), now, now)

    def to_json(self) -> bytes:
        """The file's content."""
        return json.dumps(dataclasses.asdict(self)).encode()

    def is_dead(self, now: float) -> bool:
        """Whether its process is gone, or has not been heard of for `STALE_AFTER_S` where that cannot be seen."""
        if self.host == socket.gethostname() and not _lives(self.pid):
            return True
        return now - self.heartbeat > STALE_AFTER_S

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.since))
        return f"process {self.pid} on {self.host}, since {since}"


@contextlib.contextmanager
def lease(output: str, clock: Callable[[], float] = time.time) -> Iterator[None]:
    """Holds the output's lease in this block.

    Args:
      output: of the job.
      clock: seconds since the epoch.

    Raises:
      LeaseError: another run holds it and lives.
      StorageError: the output cannot be written.
    """
    uri = join(output, "runs", "_LEASE.json")
    holder = Holder.me(clock())
    _take(uri, holder, clock)
    stop = threading.Event()
    heart = threading.Thread(target=_beat, args=(uri, holder, clock, stop), name="lease", daemon=True)
    heart.start()
    try:
        yield
    finally:
        stop.set()
        heart.join()
        if _is_held_by(uri, holder):
            storage_for(uri).delete(uri)


def _take(uri: str, holder: Holder, clock: Callable[[], float]) -> None:
    storage = storage_for(uri)
    if storage.create(uri, holder.to_json()):
        return
    other = _holder(uri)
    if other and not other.is_dead(clock()):
        raise LeaseError(
            f"another run writes into this output: {other}; wait for it, or give another --output "
            f"(if it is dead, its lease {uri} ends {STALE_AFTER_S:.0f} s after its last heartbeat)"
        )
    # Of several that find a dead holder one creates the file anew; the others meet its living holder next time.
    with contextlib.suppress(StorageError):
        storage.delete(uri)
    if not storage.create(uri, holder.to_json()):
        raise LeaseError(f"another run has just begun in this output (lease {uri}); try again")


def _beat(uri: str, holder: Holder, clock: Callable[[], float], stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        # A missed heartbeat is no reason to end a night; the next one may succeed.
        with contextlib.suppress(StorageError):
            if _is_held_by(uri, holder):  # not where somebody took this process for dead
                storage_for(uri).write(uri, dataclasses.replace(holder, heartbeat=clock()).to_json())


def _is_held_by(uri: str, holder: Holder) -> bool:
    present = _holder(uri)
    return present is not None and present.token == holder.token


def _holder(uri: str) -> Holder | None:
    """Who holds the lease; None where the file has gone or is damaged."""
    try:
        content, _ = storage_for(uri).read(uri)
        return Holder(**json.loads(content))
    except (StorageError, ValueError, TypeError):
        return None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
