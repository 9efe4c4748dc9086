"""Progress of a run whose workers share no folder with this process: it counts the shards that are written."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from beam_job.output.sink import committed_shards, read_counts
from beam_job.planning.run import Run
from beam_job.storage import StorageError

_LOOK_EVERY_S = 3.0


@contextlib.contextmanager
def count_shards(run: Run, folder: str) -> Iterator[None]:
    """Keeps a progress file in `folder` while the block runs, with the rows of all shards written so far."""
    stop = threading.Event()
    thread = threading.Thread(target=_count, args=(run, Path(folder, "shards"), stop), name="shards", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _count(run: Run, file: Path, stop: threading.Event) -> None:
    counted: set[int] = set()
    done = failed = 0
    stopping = False
    while not stopping:
        stopping = stop.wait(_LOOK_EVERY_S)
        with contextlib.suppress(StorageError, OSError):  # no progress line is worth a failed run
            new = [shard for shard in committed_shards(run) if shard not in counted]
            found = list(read_counts(run, new))
            counted.update(new)
            failures = sum(counts.failures.total() for counts in found)
            done, failed = done + sum(counts.captions for counts in found) + failures, failed + failures
            partial = file.with_suffix(".partial")
            partial.write_text(f"{done} {failed} {{}}")
            partial.replace(file)
