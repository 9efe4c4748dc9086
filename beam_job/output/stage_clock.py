"""Measures how the model's thread spends its time: working, or waiting for one of the other stages."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

WAITED_FOR = ("fetch", "decode", "write")


class StageClock:
    """Assigns each moment to one stage while anything is in progress.

    That is "model" while a batch runs. Otherwise the model waits, for
      - "decode" if each decoding thread has an image, or if decoding has all the images that are still to come,
      - else "fetch" if fetching has images,
      - else "write" if nothing is to come before a shard's files are written.

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

    def transition(self, from_: str | None = None, to: str | None = None, count: int = 1) -> None:
        """Moves `count` images, batches or shards from one stage to another; None is outside of all stages."""
        with self._lock:
            self._add_elapsed()
            if from_:
                self._held[from_] -= count
            if to:
                self._held[to] += count

    def seconds(self) -> Mapping[str, float]:
        """Seconds by stage until now."""
        with self._lock:
            self._add_elapsed()
            return dict(self._seconds)

    def take(self) -> Mapping[str, float]:
        """Seconds by stage since the last call."""
        with self._lock:
            self._add_elapsed()
            since = {stage: spent - self._taken[stage] for stage, spent in self._seconds.items()}
            self._taken = dict(self._seconds)
            return since

    def _add_elapsed(self) -> None:
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


def format_model_time(seconds: Mapping[str, float]) -> str:
    """Formats `model busy 57 %, waiting for fetch 40 %`, with the stage waited for most if it is 5 % or more.

    Args:
      seconds: as `StageClock.seconds` returns them, summed over any number of workers.

    Returns:
      the text; "" before the first image.
    """
    total = sum(seconds.values())
    if not total:
        return ""
    share = {stage: round(100 * spent / total) for stage, spent in seconds.items()}
    most = max(WAITED_FOR, key=lambda stage: share[stage])
    waiting = f", waiting for {most} {share[most]} %" if share[most] >= 5 else ""
    return f"model busy {share['model']} %{waiting}"
