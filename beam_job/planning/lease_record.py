"""The content of a lease file: who holds an output."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass

from beam_job.planning.process_identity import ProcessIdentity

_LATEST = 253_402_300_800.0  # the end of the year 9999, in seconds since the epoch


@dataclass(frozen=True)
class LeaseRecord:
    """The content of a lease file.

    Attributes:
      token: unique to this holder.
      process: the holder.
      since: seconds since the epoch when it took the lease, by its own clock; for people only.
      beats: heartbeats so far.
      released: whether the holder has given the lease back.
    """

    token: str
    process: ProcessIdentity
    since: float
    beats: int = 0
    released: bool = False

    @classmethod
    def from_json(cls, content: bytes) -> LeaseRecord:
        """What `to_json` wrote; fields that this version does not know are ignored.

        Raises:
          ValueError, TypeError, KeyError: it is damaged.
        """
        fields = json.loads(content)
        known = [field.name for field in dataclasses.fields(ProcessIdentity)]
        process = ProcessIdentity(**{name: fields[name] for name in known if name in fields})
        if not (isinstance(process.host, str) and isinstance(process.pid, int) and isinstance(fields["token"], str)):
            raise ValueError("host, pid or token is missing")
        since, released = float(fields["since"]), fields.get("released", False)
        if not (0 <= since < _LATEST and isinstance(released, bool)):  # false for NaN, too
            raise ValueError(f"since is {since} and released is {released!r}")
        beats = fields.get("beats", fields.get("heartbeat", 0))  # earlier versions wrote the time of the last one
        return cls(fields["token"], process, since, beats, released)

    def to_json(self) -> bytes:
        """The file's content."""
        fields = dataclasses.asdict(self)
        return json.dumps(fields.pop("process") | fields).encode()

    def __str__(self) -> str:
        return f"{self.process}, since {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime(self.since))}"
