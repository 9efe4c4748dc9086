"""Progress of a local run: each worker process writes its counts to a file, and the launching process shows the sum.

Beam's in-process runner reports nothing while it runs, and workers may be other processes; files work for both.
Messages that workers log are passed on in files too, since stderr is suppressed during the run (`beam_job.cli.quiet`).
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from beam_job.captioning.progress_file import MESSAGES_SUFFIX
from beam_job.cli.logs import LOGGER
from beam_job.output.stage_clock import format_model_time
from beam_job.text import counted

_WRITE_EVERY_S = 0.5
_BAR_EVERY_S = 0.5
_LINE_EVERY_S = 5.0
_LOADING = "loading the model"
_WIDTH = 100  # characters, of a bar on a terminal of unknown width


def read_progress(folder: str) -> tuple[int, int]:
    """Images done and images failed, summed over all workers."""
    done = failed = 0
    for path in Path(folder).iterdir():
        if not path.suffix:
            with contextlib.suppress(OSError, ValueError):
                counts = path.read_text().split()
                done, failed = done + int(counts[0]), failed + int(counts[1])
    return done, failed


def read_model_seconds(folder: str) -> Mapping[str, float]:
    """The models' seconds by stage, summed over all workers."""
    total: Counter[str] = Counter()
    for path in Path(folder).iterdir():
        if not path.suffix:
            with contextlib.suppress(OSError, ValueError):
                total.update(json.loads(path.read_text().split(maxsplit=2)[2]))
    return total


def read_messages(folder: str) -> list[tuple[int, str]]:
    """The lines that workers have logged, with their levels, without duplicates."""
    said: dict[str, None] = {}
    for path in sorted(Path(folder).glob(f"*{MESSAGES_SUFFIX}")):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        said |= {line.rstrip("\n"): None for line in lines if line.endswith("\n")}
    return [(int(level), line) for level, _, line in (each.partition(" ") for each in said)]


def progress_line(done: int, failed: int, total: int, rate: float | None, model: str = "") -> str:
    """`1,024 of 3,000 images (34 %), 2 failed, 61.2 images/s, 0:00:32 left, model busy 97 %`.

    Without `rate`, only the counts; `model` is appended to the rate.
    """
    line = f"{done:,} of {counted(total, 'image')} ({100 * done // max(total, 1)} %), {failed:,} failed"
    if rate:
        left = round((total - done) / rate)
        line += f", {rate:.1f} images/s, {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
        line += f", {model}" if model else ""
    return line


@dataclass(frozen=True)
class Counts:
    """Images done, captioned or failed, and how many of them failed."""

    done: int = 0
    failed: int = 0


NOTHING = Counts()


class ProgressPrinter:
    """Shows progress while a block runs: a bar on a terminal, a line every few seconds elsewhere.

    Until the first image is done, which takes as long as the model's start, it says that the model is loaded.
    Lines that workers have logged are logged in between, each once.

    Args:
      folder: holds the workers' progress files.
      total: images in the run.
      stream: the bar is shown there if it is a terminal; otherwise progress is logged.
      before: counts of the shards that an earlier attempt has written.
    """

    def __init__(self, folder: str, total: int, stream: TextIO, before: Counts = NOTHING) -> None:
        self._folder = folder
        self._before = before
        self._total = total
        self._bar = _bar(total, stream, before) if stream.isatty() else None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> ProgressPrinter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        first: tuple[float, int] | None = None  # time and count when the first images were seen done
        logged: set[tuple[int, str]] = set()
        stopping = is_told = False
        if self._bar:
            self._bar.set_description_str(_LOADING)
        while not stopping:
            stopping = self._stop.wait(_BAR_EVERY_S if self._bar else _LINE_EVERY_S)
            done, failed = read_progress(self._folder)
            seen = time.monotonic()
            if done and first is None:
                first = (seen, done)
            rate = (done - first[1]) / (seen - first[0]) if first and seen > first[0] else None
            for message in read_messages(self._folder):
                if message not in logged:
                    logged.add(message)
                    LOGGER.log(*message)
            if done or stopping:
                self._show(Counts(self._before.done + done, self._before.failed + failed), rate)
            elif not self._bar and not is_told:
                LOGGER.info(_LOADING)
                is_told = True
        if self._bar:
            self._bar.close()

    def _show(self, counts: Counts, rate: float | None) -> None:
        model = format_model_time(read_model_seconds(self._folder))
        if self._bar:
            self._bar.set_description_str("", refresh=False)
            self._bar.set_postfix_str(", ".join(filter(None, (f"{counts.failed:,} failed", model))), refresh=False)
            self._bar.update(counts.done - self._bar.n)
            self._bar.refresh()
            return
        line = progress_line(counts.done, counts.failed, self._total, rate, model)
        figures = {"done": counts.done, "failed": counts.failed, "total": self._total, "images_per_second": rate}
        LOGGER.info(line, extra={"fields": figures})


def _bar(total: int, stream: TextIO, before: Counts) -> tqdm:
    try:
        knows_its_width = os.get_terminal_size(stream.fileno()).columns > 0
    except OSError:
        knows_its_width = False
    return tqdm(
        total=total,
        initial=before.done,
        file=stream,
        unit=" images",
        dynamic_ncols=knows_its_width,
        ncols=None if knows_its_width else _WIDTH,
        bar_format="{desc}{percentage:3.0f}%|{bar}| {n_fmt} of {total_fmt}, {rate_fmt}, {remaining} left{postfix}",
    )
