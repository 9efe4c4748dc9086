"""Groups of an engine's images: a shard, or an element of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from beam_job.loading.loader import LoadEvent
from beam_job.records import CaptionedImage, DecodedImage, Failure, ImageInput


class ImageGroup(Protocol):
    """Images that are submitted together; the model's thread fills it with their rows.

    Attributes:
      done: what the submitter waits for.
      batch_fill: of each batch that begins with one of its images, in percent.
    """

    done: Future[Any]
    batch_fill: list[int]

    @property
    def images(self) -> Sequence[ImageInput]:
        """The inputs."""

    def columns_of(self, uri: str) -> Mapping[str, Any]:
        """The carried columns of an image."""

    def count_seconds(self, stage: str, seconds: float) -> None:
        """Adds to the time of a stage."""

    def count_load(self, event: LoadEvent) -> None:
        """Adds what loading an image took."""

    def offer(self, image: DecodedImage, row: CaptionedImage) -> None:
        """Shows an image that has a caption, whose pixels are dropped afterwards."""

    def count_copy(self) -> None:
        """Counts an image that has the captions of another one with the same content."""

    def add(self, outcome: CaptionedImage | Failure) -> bool:
        """Adds an image's row; returns whether it was the last one."""


G = TypeVar("G", bound=ImageGroup)
