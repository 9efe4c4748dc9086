"""The images that an export leaves out: counts them, shows the first, and lists all of them in a file."""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from typing import IO

from beam_job.records import Failure
from beam_job.text import counted, printable

_SHOWN = 5


class LeftOut:
    """Counts the images that an export leaves out, and lists them in a file of JSON lines.

    The file, `DIR.left_out.jsonl`, is made for the first image; where one of that name exists, whoever made it, the new
    one is `DIR.left_out.2.jsonl`, and so on.

    Args:
      to: the folder that is exported to, `DIR`.
    """

    def __init__(self, to: str) -> None:
        self._to = os.path.abspath(to)
        self.path: str | None = None
        self.reasons: Counter[str] = Counter()
        self._first: list[str] = []
        self._file: IO[str] | None = None

    def add(self, failure: Failure) -> None:
        """Adds an image. Raises OSError where the file cannot be written."""
        if self._file is None:
            self._file = self._open()
        self.reasons[f"{failure.stage}: {failure.error_type}"] += 1
        row = {"uri": failure.uri, "error_type": failure.error_type, "error_message": failure.error_message}
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        if len(self._first) < _SHOWN:
            self._first.append(printable(failure.error_message))

    @property
    def lines(self) -> list[str]:
        """For people: the number of images and where they are listed, each reason, and the first messages."""
        if not self.reasons:
            return []
        reasons = [f"  {count:,} x {printable(reason)}" for reason, count in self.reasons.most_common()]
        total = sum(self.reasons.values())
        head = f"{counted(total, 'image')} left out; each with its reason in {self.path}"
        shown = [f"the first {_SHOWN}:"] if total > _SHOWN else []
        return [head, *reasons, *(f"  {line}" for line in shown), *(f"    {line}" for line in self._first)]

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> IO[str]:
        for number in itertools.count(1):
            self.path = f"{self._to}.left_out.{'' if number == 1 else f'{number}.'}jsonl"
            try:
                return open(self.path, "x", encoding="utf-8")  # closed by `close`
            except FileExistsError:
                continue
        raise AssertionError("unreachable")
