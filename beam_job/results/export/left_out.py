"""What could not be exported, told and kept."""

from __future__ import annotations

import json
from collections import Counter
from typing import IO

from beam_job.records import Failure
from beam_job.text import printable

_TOLD = 5


class LeftOut:
    """Counts the images that an export goes without, tells the first, and writes all to a file of JSON lines.

    Args:
      path: of that file; it is made when the first image is left out.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.reasons: Counter[str] = Counter()
        self._first: list[str] = []
        self._file: IO[str] | None = None

    def add(self, failure: Failure) -> None:
        """An image is left out."""
        if self._file is None:
            self._file = open(self.path, "w", encoding="utf-8")  # noqa: SIM115  # closed by `close`
        self.reasons[f"{failure.stage}: {failure.error_type}"] += 1
        row = {"uri": failure.uri, "error_type": failure.error_type, "error_message": failure.error_message}
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        if len(self._first) < _TOLD:
            self._first.append(printable(failure.error_message))

    @property
    def lines(self) -> list[str]:
        """For people: reasons with their counts, the first messages, and where all of them are."""
        if not self.reasons:
            return []
        reasons = [f"  {count:,} x {printable(reason)}" for reason, count in self.reasons.most_common()]
        total = sum(self.reasons.values())
        first = [f"    {line}" for line in self._first]
        head = f"{total:,} image{'s' if total > 1 else ''} left out; each with its reason in {self.path}"
        return [head, *reasons, "  the first:" if total > _TOLD else "  namely:", *first]

    def close(self) -> None:
        """Ends the file."""
        if self._file is not None:
            self._file.close()
