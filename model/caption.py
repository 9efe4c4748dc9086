"""What a captioner says of an image."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Caption:
    """A caption and its score.

    Attributes:
      text: words in lower case, joined by blanks.
      score: mean natural log-probability of its words, `<end>` counted as one; 0 is certain.
    """

    text: str
    score: float
