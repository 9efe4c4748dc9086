"""Lets one run at a time write to an output: a lease with a heartbeat, taken over only from a dead holder.

The lease is the file with the highest number in `OUTPUT/_LEASE/`. To take it over is to create the next number,
which storage grants to one process alone, and then to list again: the holder is whoever has the highest number. The
highest file is never deleted, not even on release, where it is marked instead; so numbers never fall, and a process
that acts on an old listing can only create a number below the holder's. Only its holder writes a file again.

No clock of another machine is trusted. On the holder's own machine the system says whether its process runs. Elsewhere
a contender watches the file: a holder whose heartbeat does not change for `STALE_AFTER_S` of the contender's own
clock is dead.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from beam_job.planning.damage import is_missing
from beam_job.planning.lease_record import LeaseRecord as LeaseRecord
from beam_job.planning.process_identity import ProcessIdentity
from beam_job.storage import Storage, StorageError, join, storage_for

_LOGGER = logging.getLogger(__name__)
HEARTBEAT_S = 10.0
STALE_AFTER_S = 60.0
_POLL_S = 2.0
_JOIN_S = 5.0  # for a heartbeat under way when the run ends
_NAME = re.compile(r"/_LEASE/(\d{6,})\.json$")


class LeaseError(RuntimeError):
    """Another run writes into this output; the message names it."""


class LeaseLostError(LeaseError):
    """Another run has taken over the output while this process was stopped or cut off; the message names it."""


class Lease:
    """The lease of an output, held by this process until `release`.

    Args:
      output: the job's output folder.
      storage: of the output.
      monotonic: seconds of this machine's clock that only runs forward.
      sleep: waits for some seconds.

    Attributes:
      lost: set when another run has taken over the output.
    """

    def __init__(
        self,
        output: str,
        storage: Storage | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.lost = threading.Event()
        self._output = output
        self._folder = join(output, "_LEASE")
        self._storage = storage or storage_for(output)
        self._monotonic = monotonic
        self._sleep = sleep
        self._record = LeaseRecord(uuid.uuid4().hex, ProcessIdentity.current(), time.time())
        self._number = 0
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="lease", daemon=True)

    def acquire(self) -> None:
        """Takes the lease, which may mean to wait for `STALE_AFTER_S` to see whether its holder lives.

        Raises:
          LeaseError: another run holds it and lives, or its file is damaged.
          StorageError: the output cannot be listed, read or written.
        """
        while True:
            highest = self._highest()
            if (not highest or self._is_free(highest)) and self._create(highest + 1):
                break
        try:
            self._end_lease_of_old_version()
        except BaseException:
            self.release()
            raise
        self._delete_older()
        self._heart.start()

    def release(self) -> None:
        """Gives the lease back. An error is logged and changes no outcome: a later run takes over from the dead."""
        self._stop.set()
        if self.lost.is_set():
            return
        if self._heart.is_alive():
            self._heart.join(_JOIN_S)
        try:
            if self._is_lost():
                _LOGGER.warning(f"another run has taken over {self._output} before this one ended")
            else:
                released = dataclasses.replace(self._record, released=True)
                self._storage.write(self._uri(self._number), released.to_json())
        except StorageError as error:
            _LOGGER.warning(f"the lease of {self._output} could not be released: {error}; the next run takes it over")

    def check(self) -> None:
        """Raises LeaseLostError where the lease is known to be lost."""
        if self.lost.is_set():
            raise LeaseLostError(
                f"another run has taken over {self._output} while this process was stopped or cut off from it; "
                "this run stops writing"
            )

    def verify(self) -> None:
        """Looks whether the lease is still held. Raises LeaseLostError, and StorageError where that cannot be seen."""
        self._is_lost()
        self.check()

    def _is_free(self, number: int) -> bool:
        """Whether file `number` may be superseded; False where another has been created since.

        Raises:
          LeaseError: its holder lives, or it is damaged.
        """
        record = self._read(number)
        if record is None:
            return False
        if record.released:
            return True
        alive = record.process.is_alive()
        if alive is None:
            return self._watch(lambda: self._read(number), record, self._uri(number))
        if alive:
            raise _refusal(record, self._uri(number))
        return True

    def _watch(self, read: Callable[[], LeaseRecord | None], record: LeaseRecord, uri: str) -> bool:
        """Waits for a sign of life: True after `STALE_AFTER_S` without one, or where the lease is released meanwhile.

        Raises:
          LeaseError: the holder lives.
        """
        _LOGGER.info(
            f"waiting up to {STALE_AFTER_S:.0f} s to see whether the run that holds {self._output} is alive: {record}"
        )
        started = self._monotonic()
        while True:
            self._sleep(_POLL_S)
            waited = self._monotonic() - started  # before the read: the file is read once more after the whole time
            present = read()
            if present is None:
                return False
            if present.released:
                return True
            if present != record:
                raise _refusal(present, uri)
            if waited >= STALE_AFTER_S:
                return True

    def _create(self, number: int) -> bool:
        """Creates file `number`; whether this process holds the lease now."""
        uri = self._uri(number)
        try:
            if not self._storage.create(uri, self._record.to_json()) and not self._is_own(number):
                return False
        except StorageError:
            # The file may have been created and only the answer lost.
            if not self._is_own(number):
                raise
        if self._highest() == number:
            self._number = number
            return True
        with contextlib.suppress(StorageError):  # whoever holds a higher number deletes it
            self._storage.delete(uri)
        return False

    def _is_own(self, number: int) -> bool:
        record = self._read(number)
        return record is not None and record.token == self._record.token

    def _delete_older(self) -> None:
        with contextlib.suppress(StorageError):  # they do no harm, and the next holder tries again
            for number in self._numbers():
                if number < self._number and self._is_lease(number):
                    self._storage.delete(self._uri(number))

    def _is_lease(self, number: int) -> bool:
        """Whether file `number` is a lease, and not somebody else's file of such a name."""
        try:
            return self._read(number) is not None
        except LeaseError:
            return False

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            # A missed heartbeat is no reason to end a run; the next one may succeed.
            with contextlib.suppress(StorageError):
                if self._is_lost():
                    return
                self._record = dataclasses.replace(self._record, beats=self._record.beats + 1)
                self._storage.write(self._uri(self._number), self._record.to_json())

    def _is_lost(self) -> bool:
        if self._highest() > self._number:
            self.lost.set()
        return self.lost.is_set()

    def _highest(self) -> int:
        return max(self._numbers(), default=0)

    def _numbers(self) -> list[int]:
        matches = (_NAME.search(stored.uri) for stored in self._storage.list(self._folder))
        return [int(match[1]) for match in matches if match and match[1] == f"{int(match[1]):06d}"]

    def _read(self, number: int) -> LeaseRecord | None:
        """The content of file `number`; None where it has been superseded and deleted."""
        try:
            return self._parse(self._uri(number))
        except StorageError as error:
            if is_missing(error):
                return None
            raise

    def _parse(self, uri: str) -> LeaseRecord:
        content, _ = self._storage.read(uri)
        try:
            return LeaseRecord.from_json(content)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise LeaseError(
                f"the lease {uri} is damaged ({error}); make sure that no other run is writing to {self._output}, "
                "then delete this file"
            ) from error

    def _end_lease_of_old_version(self) -> None:
        """Deletes `runs/_LEASE.json`, with which earlier versions held the output, if its holder is dead.

        Raises:
          LeaseError: it is alive.
        """
        uri = join(self._output, "runs", "_LEASE.json")

        def read() -> LeaseRecord | None:
            return self._parse(uri) if self._storage.exists(uri) else None

        record = read()
        if record is None:
            return
        alive = record.process.is_alive()
        if alive:
            raise _refusal(record, uri)
        if (alive is False or self._watch(read, record, uri)) and self._storage.exists(uri):
            self._storage.delete(uri)

    def _uri(self, number: int) -> str:
        return join(self._folder, f"{number:06d}.json")


def current_holder(output: str) -> LeaseRecord | None:
    """Who writes into the output now, as far as can be told without waiting; None for nobody.

    A holder on another machine counts until it releases the lease, or another takes it over.

    Raises:
      StorageError: the lease cannot be read.
      LeaseError: it is damaged.
    """
    held = Lease(output)
    record = held._read(held._highest()) if held._highest() else None
    return None if record is None or record.released or record.process.is_alive() is False else record


def _refusal(record: LeaseRecord, uri: str) -> LeaseError:
    remedy = "wait for it, or give another --output"
    if not record.process.boot_id:  # then it may be another process with the same id
        remedy += f"; if that process is not a run of this job, delete {uri}"
    return LeaseError(f"another run is writing to this output: {record}; {remedy}")


@contextlib.contextmanager
def lease(output: str) -> Iterator[Lease]:
    """Holds the output's lease in this block.

    Raises:
      LeaseError: another run holds it and lives.
      StorageError: the output cannot be read or written.
    """
    held = Lease(output)
    held.acquire()
    try:
        yield held
    finally:
        held.release()
