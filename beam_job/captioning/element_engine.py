"""Fetches, decodes and captions the elements of a pipeline: an `ImageEngine` that writes no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from beam_job.captioning.image_engine import ImageEngine
from beam_job.loading.loader import LoadEvent
from beam_job.records import CaptionedImage, DecodedImage, Failure, ImageInput


class OpenElement:
    """An element under way, a group of one image.

    Attributes:
      fields: of the element, beside its URI.
      context: what the submitter needs with the outcome.
      done: resolved with the element itself, when it has its `outcome`.
      outcome: its row; None before.
      batch_fill: unused.
    """

    def __init__(self, uri: str, fields: Mapping[str, Any], context: Any = None) -> None:
        self.fields = fields
        self.context = context
        self.done: Future[OpenElement] = Future()
        self.outcome: CaptionedImage | Failure | None = None
        self.batch_fill: list[int] = []
        self._image = ImageInput(uri)

    @property
    def images(self) -> Sequence[ImageInput]:
        """The image."""
        return (self._image,)

    def columns_of(self, uri: str) -> Mapping[str, Any]:
        """The element's fields, for prompts and captioners."""
        return self.fields

    def count_seconds(self, stage: str, seconds: float) -> None:
        """Counts nothing."""

    def count_load(self, event: LoadEvent) -> None:
        """Counts nothing."""

    def offer(self, image: DecodedImage, row: CaptionedImage) -> None:
        """Keeps no thumbnail."""

    def count_copy(self) -> None:
        """Counts nothing."""

    def add(self, outcome: CaptionedImage | Failure) -> bool:
        """Takes the outcome; it is the last one."""
        self.outcome = outcome
        return True


class ElementEngine(ImageEngine[OpenElement]):
    """Captions elements."""

    def _complete(self, group: OpenElement) -> None:
        if self._remove(group):
            group.done.set_result(group)
