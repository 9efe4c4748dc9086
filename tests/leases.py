"""Leases of outputs as tests see and make them: other holders, time, and a storage that fails."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from beam_job.planning.lease import Lease, LeaseRecord
from beam_job.planning.process_identity import ProcessIdentity
from beam_job.storage import join, storage_for

ELSEWHERE = ProcessIdentity("another-host", 4321, "another boot", "pid:[1]", 99)


def is_released(output: object) -> bool:
    """Whether the last run has given the lease back, so that the next one need not wait for a sign of life."""
    storage = storage_for(str(output))
    newest = max(stored.uri for stored in storage.list(join(str(output), "_LEASE")))
    return LeaseRecord.from_json(storage.read(newest)[0]).released


class Clock:
    """Time that passes only while somebody sleeps; `meanwhile` is called during each sleep."""

    def __init__(self, meanwhile: Callable[[float], None] = lambda now: None) -> None:
        self.now = 0.0
        self._meanwhile = meanwhile

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._meanwhile(self.now)

    def lease(self, output: object, storage: Any = None) -> Lease:
        return Lease(str(output), storage, lambda: self.now, self.sleep)


class Faulty:
    """A storage in which a test replaces single methods."""

    def __init__(self, output: object, **methods: Callable[..., Any]) -> None:
        self._storage = storage_for(str(output))
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        return self._methods.get(name) or getattr(self._storage, name)


def put(output: object, number: int, process: ProcessIdentity = ELSEWHERE, **fields: Any) -> str:
    """A lease file of another process."""
    uri = join(str(output), "_LEASE", f"{number:06d}.json")
    storage_for(uri).write(uri, LeaseRecord(f"token {number}", process, **{"since": 0.0, **fields}).to_json())
    return uri


def records(output: object) -> dict[int, LeaseRecord]:
    files = storage_for(str(output)).list(join(str(output), "_LEASE"))
    names = (stored.uri.rpartition("/")[2] for stored in files if stored.uri.endswith(".json"))
    uris = {int(name[:6]): join(str(output), "_LEASE", name) for name in names}
    return {number: LeaseRecord.from_json(storage_for(uri).read(uri)[0]) for number, uri in uris.items()}


def gone() -> ProcessIdentity:
    """A process of this machine that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return dataclasses.replace(ProcessIdentity.current(), pid=process.pid)
