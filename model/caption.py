"""A caption of an image and its score."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Caption:
    """A caption and its score.

    Attributes:
      text: words in lower case, separated by blanks.
      score: mean natural log-probability of the words, `<end>` included; at most 0, which means certain. None where the
        captioner knows none; this project's own model always does.
    """

    text: str
    score: float | None
