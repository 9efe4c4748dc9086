"""Which process holds a lease, recorded so that the same machine can tell later whether that process still runs."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class ProcessIdentity:
    """A process, as its machine names it.

    Attributes:
      host: name of the machine.
      pid: process id.
      boot_id: changes at each boot of the machine; "" where the system has none (only Linux does).
      pid_namespace: the namespace of the process id, since containers have their own; "" if the system has none.
      started: start time of the process in clock ticks since boot, which reveals a reused process id; 0 if unknown.
    """

    host: str
    pid: int
    boot_id: str = ""
    pid_namespace: str = ""
    started: int = 0

    @classmethod
    def current(cls) -> ProcessIdentity:
        """This process."""
        pid = os.getpid()
        try:
            boot_id, namespace = _BOOT_ID.read_text().strip(), os.readlink("/proc/self/ns/pid")
        except OSError:
            return cls(socket.gethostname(), pid)
        return cls(socket.gethostname(), pid, boot_id, namespace, _start_time(pid) or 0)

    def is_alive(self) -> bool | None:
        """Whether the process still runs; None where this process cannot see it."""
        here = ProcessIdentity.current()
        if self.boot_id and here.boot_id:
            if (self.boot_id, self.pid_namespace) != (here.boot_id, here.pid_namespace):
                return None
            return _start_time(self.pid) == self.started
        return _exists(self.pid) if self.host == here.host else None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def _start_time(pid: int) -> int | None:
    """In clock ticks since boot; None where no such process runs. A zombie does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
