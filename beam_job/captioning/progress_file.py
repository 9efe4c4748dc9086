"""The counts of one worker, in a small file that the launching process reads to show the progress of the run.

Beam's in-process runner reports nothing while it runs, and workers may be other processes; files work for both. A
worker's messages are passed on the same way, because stderr is suppressed while the pipeline runs.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

MESSAGES_SUFFIX = ".said"
_WRITE_EVERY_S = 0.5


class ProgressFile:
    """A worker's counts, rewritten twice a second.

    Args:
      folder: shared with the launching process; None if that reads no progress.
      clock: returns seconds that never go backwards.
    """

    def __init__(self, folder: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = Path(folder, f"{os.getpid()}-{id(self):x}") if folder else None
        self._clock = clock
        self._done = self._failed = 0
        self._model_seconds: Callable[[], Mapping[str, float]] = dict
        self._written = -_WRITE_EVERY_S

    def add(self, failed: bool, model_seconds: Callable[[], Mapping[str, float]] = dict) -> None:
        """Counts an image; `model_seconds` returns the model's seconds by stage so far."""
        self._done += 1
        self._failed += failed
        self._model_seconds = model_seconds
        if self._clock() - self._written >= _WRITE_EVERY_S:
            self._write()

    def take_back(self, failed: int) -> None:
        """Uncounts images that failed and are loaded again."""
        self._done -= failed
        self._failed -= failed

    def log(self, line: str, level: int = logging.WARNING) -> None:
        """Logs a line: through the launching process, or by `logging` where no process reads the folder."""
        if self._path is None:
            logging.getLogger(__name__).log(level, line)
            return
        with contextlib.suppress(OSError), self._path.with_suffix(MESSAGES_SUFFIX).open("a", encoding="utf-8") as said:
            said.write(f"{level} {line}\n")

    def log_info(self, line: str) -> None:
        """Logs a line that is not a warning."""
        self.log(line, logging.INFO)

    def close(self) -> None:
        """Writes the last counts."""
        self._write()

    def _write(self) -> None:
        self._written = self._clock()
        if self._path:
            with contextlib.suppress(OSError):  # no progress line is worth a failed run
                partial = self._path.with_suffix(".partial")
                partial.write_text(f"{self._done} {self._failed} {json.dumps(self._model_seconds())}")
                partial.replace(self._path)
