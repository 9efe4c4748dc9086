"""A captioner of pictures, with prompts, failures, a budget and counts, as an engineer outside would write it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from model import Caption, CaptionerError, CaptionFailure, Decoding, EndRun, Picture


class RefusedError(CaptionFailure):
    """The picture is refused."""


class PictureTeller:
    """Says the shape, brightness and prompt of each picture.

    Args:
      model: `max_side=N,budget=N,refuse=NAME,broken=yes`; a part each.
    """

    batch_size = 2
    batches_at_once = 3
    engine = "teller"
    precision = "exact"

    def __init__(self, model: str | None) -> None:
        options = dict(part.split("=") for part in (model or "").split(",") if part)
        self.version = f"teller-{model}"
        self.max_side = int(options.get("max_side", 64))
        self._budget = int(options.get("budget", 1_000_000))
        self._refuse = options.get("refuse", "nothing")
        self._is_broken = "broken" in options
        self._lock = threading.Lock()
        self._told = self._counted = 0

    def caption_pictures(self, pictures: Sequence[Picture]) -> list[Sequence[Caption] | CaptionFailure]:
        if self._is_broken:
            raise CaptionerError("the key is refused; give another")
        return [self._tell(picture) for picture in pictures]

    def take_counts(self) -> Mapping[str, int]:
        with self._lock:
            counted, self._counted = self._counted, 0
        return {"requests": counted}

    def _tell(self, picture: Picture) -> Sequence[Caption] | CaptionFailure:
        with self._lock:
            if self._told >= self._budget:
                return EndRun(f"the budget of {self._budget} is spent")
            self._told += 1
            self._counted += 1
        if self._refuse in picture.uri:
            return RefusedError("not this one", "options")
        height, width, _ = picture.pixels.shape
        said = f"{width}x{height} {picture.pixels.mean():.0f} {picture.prompt} {dict(picture.columns)}"
        return [Caption(said, None)]


def make(model: str | None, decoding: Decoding) -> PictureTeller:
    return PictureTeller(model)
