"""Batches through the model: what fails in one costs no more than the images that are to blame."""

from __future__ import annotations

import datetime
import math
import threading
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from beam_job.records import CaptionedImage, DecodedImage, Failure, now
from beam_job.storage import CONTENT, LATER
from model import Caption, ImageCaptioner, pad_batch
from model.devices import is_device_error, is_out_of_memory


class NonFiniteScoreError(ArithmeticError):
    """The network came to no number for this image, so its words mean nothing."""


class WrongAnswerError(TypeError):
    """A captioner's answer is not what `model.ImageCaptioner` promises."""


class BatchCaptioner:
    """Captions images in batches of one size; any thread may call it.

    Args:
      captioner: called with `size` images always, for its graph is fastest where all batches have one shape.
      batch_size: images at once, to begin with.
      tell: takes a line for people.

    Attributes:
      size: images at once; halved for good where the device's memory does not suffice.
    """

    def __init__(self, captioner: ImageCaptioner, batch_size: int, tell: Callable[[str], None]) -> None:
        self.size = batch_size
        self._lock = threading.Lock()  # of the size
        self._captioner = captioner
        self._tell = tell
        self._free: list[npt.NDArray[np.uint8]] = []  # batches whose captions are there, to be filled anew

    def caption(self, images: list[DecodedImage]) -> list[CaptionedImage | Failure]:
        """A row for each image, in their order.

        Where a batch fails, its halves are tried, down to the image that is to blame; where the memory does not
        suffice, smaller batches, now and from now on.
        """
        size = self.size  # which may be smaller after the next call
        if len(images) > size:
            return self.caption(images[:size]) + self.caption(images[size:])
        try:
            return _rows(images, self._captions(images, size))
        except Exception as error:
            too_large = size > 1 and is_out_of_memory(error)
            failure = _failure(images[0], error)
        # Tried again down here, where the exception is gone, and with its traceback the tensors of the batch.
        if too_large:
            self._shrink(size)
            return self.caption(images)
        if len(images) == 1:
            return [failure]
        half = len(images) // 2
        return self.caption(images[:half]) + self.caption(images[half:])

    def _captions(self, images: list[DecodedImage], size: int) -> Sequence[Sequence[Caption]]:
        try:
            free = self._free.pop()
        except IndexError:
            free = None
        batch = pad_batch([image.pixels for image in images], size, free)
        captions = self._captioner.caption(batch)
        if len(captions) != size:
            raise WrongAnswerError(f"the captioner answered {len(captions)} times to {size} images")
        self._free.append(batch)
        return captions

    def _shrink(self, size: int) -> None:
        """Halves `size`, unless another thread has done that."""
        smaller = size // 2
        with self._lock:
            if self.size < size:
                return
            self.size = smaller
        self._tell(
            f"the device ran out of memory with {size} images at once; going on with {smaller} "
            f"(--batch_size={smaller} begins there)"
        )


def _rows(images: list[DecodedImage], captions: Sequence[Sequence[Caption]]) -> list[CaptionedImage | Failure]:
    time_of_batch = now()
    return [_row(image, found, time_of_batch) for image, found in zip(images, captions, strict=False)]  # may be padded


def _row(image: DecodedImage, found: Sequence[Caption], captioned_at: datetime.datetime) -> CaptionedImage | Failure:
    try:
        captions = _checked(found)
    except (NonFiniteScoreError, WrongAnswerError) as error:
        return _failure(image, error)
    return CaptionedImage(image.input.uri, captions, image.width, image.height, image.object_version, captioned_at)


def _checked(found: Sequence[Caption]) -> tuple[Caption, ...]:
    """Captions that can be stored, from whatever a captioner has answered for an image."""
    if not isinstance(found, Sequence) or not found or not all(isinstance(caption, Caption) for caption in found):
        raise WrongAnswerError(f"the captioner answered {found!r:.80}, not one model.Caption or several")
    try:
        captions = tuple(Caption(caption.text, float(caption.score)) for caption in found)
        for caption in captions:
            str.encode(caption.text)  # raises for what is no text, or has no UTF-8
    except (TypeError, ValueError) as error:
        raise WrongAnswerError(f"the captioner answered {found!r:.80}, which is no text with a score") from error
    for caption in captions:
        if not math.isfinite(caption.score):
            raise NonFiniteScoreError(f"the score of its caption is {caption.score}, so the caption means nothing")
    return captions


def _failure(image: DecodedImage, error: Exception) -> Failure:
    """The failure of this image alone; for good, unless the device is to blame: that may be a better one tomorrow.

    So it is too where one image alone is too much for the memory: all images are of one size here, so it is not the
    image that is too large, but the rest of what the device holds.
    """
    retry_when = LATER if is_device_error(error) else CONTENT
    return Failure.of(image.input.uri, "caption", error, image.object_version, retry_when)
