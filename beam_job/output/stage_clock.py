"""Where the time of the model's thread goes: to its work, or to waiting, and for which stage."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

WAITED_FOR = ("fetch", "decode", "write")


class ModelTime:
    """Books each moment in which something is under way on one stage.

    That is "model" while a batch runs. Otherwise the model waits, for
      - "decode", where each of its threads has an image, or where it has all the images that are still to come,
      - or else "fetch", where it has images,
      - or else "write", where nothing is to come before a shard's files are written.

    Any thread may call it.

    Args:
      decode_threads: images that are decoded at the same time.
      clock: seconds.
    """

    def __init__(self, decode_threads: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._decode_threads = decode_threads
        self._clock = clock
        self._held: Counter[str] = Counter()  # images of fetch and decode, batches of the model, shards of write
        self._seconds = dict.fromkeys(("model", *WAITED_FOR), 0.0)
        self._taken = dict(self._seconds)
        self._since = clock()
        self._lock = threading.Lock()

    def move(self, leaves: str | None = None, enters: str | None = None, count: int = 1) -> None:
        """Images, batches or shards go from one stage to another."""
        with self._lock:
            self._book()
            if leaves:
                self._held[leaves] -= count
            if enters:
                self._held[enters] += count

    def seconds(self) -> Mapping[str, float]:
        """By stage, until now."""
        with self._lock:
            self._book()
            return dict(self._seconds)

    def take(self) -> Mapping[str, float]:
        """By stage, since the last call."""
        with self._lock:
            self._book()
            since = {stage: spent - self._taken[stage] for stage, spent in self._seconds.items()}
            self._taken = dict(self._seconds)
            return since

    def _book(self) -> None:
        now = self._clock()
        stage = self._stage()
        if stage:
            self._seconds[stage] += now - self._since
        self._since = now

    def _stage(self) -> str | None:
        held = self._held
        if held["model"]:
            return "model"
        if held["decode"] >= self._decode_threads or (held["decode"] and not held["fetch"]):
            return "decode"
        if held["fetch"]:
            return "fetch"
        return "write" if held["write"] else None


def told_model_time(seconds: Mapping[str, float]) -> str:
    """`model busy 57 %, waiting for fetch 40 %`: the stage waited for most, if it is worth a word; "" before the first.

    Args:
      seconds: as `ModelTime.seconds` gives them, over any number of workers.
    """
    total = sum(seconds.values())
    if not total:
        return ""
    share = {stage: round(100 * spent / total) for stage, spent in seconds.items()}
    most = max(WAITED_FOR, key=lambda stage: share[stage])
    waiting = f", waiting for {most} {share[most]} %" if share[most] >= 5 else ""
    return f"model busy {share['model']} %{waiting}"
