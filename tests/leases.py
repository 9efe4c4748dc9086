"""What an output says of its lease."""

from __future__ import annotations

from beam_job.planning.lease import LeaseRecord
from beam_job.storage import join, storage_for


def is_released(output: object) -> bool:
    """Whether the last run has given the lease back, so that the next one need not wait for a sign of life."""
    storage = storage_for(str(output))
    newest = max(stored.uri for stored in storage.list(join(str(output), "_LEASE")))
    return LeaseRecord.from_json(storage.read(newest)[0]).released
