"""Batches through the captioner: an error costs no more captions than those of the images that are to blame."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from beam_job.captioning.user_code import no_exit
from beam_job.records import CaptionedImage, DecodedImage, Failure, now
from beam_job.storage import CONTENT, LATER
from model import Caption, ImageCaptioner, pad_batch
from model.devices import is_device_error, is_out_of_memory


class NonFiniteScoreError(ArithmeticError):
    """The score of an image's caption is not a number as it would be stored, so its words mean nothing."""


class WrongAnswerError(Exception):
    """A captioner's answer is not what `model.ImageCaptioner` promises."""


class BatchCaptioner:
    """Captions images in batches of one size; any thread may call it.

    Args:
      captioner: called with `size` images always, for its graph is fastest where all batches have one shape.
      batch_size: images in a batch, to begin with.
      log: logs a line.
      num_captions: captions of an image.

    Attributes:
      size: images in a batch; halved for good when the device's memory does not suffice.
    """

    def __init__(
        self, captioner: ImageCaptioner, batch_size: int, log: Callable[[str], None], num_captions: int = 1
    ) -> None:
        self.size = batch_size
        self._lock = threading.Lock()  # guards size
        self._captioner = captioner
        self._log = log
        self._num_captions = num_captions
        self._free: list[npt.NDArray[np.uint8]] = []  # batches that are captioned, to be filled again

    def caption(self, images: list[DecodedImage]) -> list[CaptionedImage | Failure]:
        """A row for each image, in their order.

        If a batch fails, its halves are tried, down to the image that is to blame; if the device runs out of memory,
        smaller batches are tried, now and from now on.
        """
        size = self.size  # which may be smaller after the next call
        if len(images) > size:
            return self.caption(images[:size]) + self.caption(images[size:])
        try:
            return self._rows(images, self._captions(images, size))
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
        with no_exit():
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
        self._log(
            f"the device ran out of memory with {size} images in a batch; going on with {smaller} "
            f"(--batch_size={smaller} starts there)"
        )

    def _rows(
        self, images: list[DecodedImage], captions: Sequence[Sequence[Caption]]
    ) -> list[CaptionedImage | Failure]:
        time = now()
        return [self._row(image, found, time) for image, found in zip(images, captions, strict=False)]  # may be padded

    def _row(
        self, image: DecodedImage, found: Sequence[Caption], captioned_at: datetime.datetime
    ) -> CaptionedImage | Failure:
        try:
            captions = checked_captions(found, self._num_captions)
        except (NonFiniteScoreError, WrongAnswerError) as error:
            return _failure(image, error)
        return CaptionedImage(image.input.uri, captions, image.width, image.height, image.object_version, captioned_at)


def checked_captions(found: Sequence[Caption], num_captions: int) -> tuple[Caption, ...]:
    """The captions of an image as they are stored, from whatever a captioner has answered.

    A text keeps its line breaks, but a NUL, which many databases refuse, becomes a blank. Of more captions than were
    asked for the first ones, which are the best, are kept.

    Raises:
      WrongAnswerError: there are fewer captions than asked for, or one is no text, empty, or without a score.
      NonFiniteScoreError: a score is not finite, as the float32 that it is stored as.
    """
    if not isinstance(found, Sequence) or not found or not all(isinstance(caption, Caption) for caption in found):
        raise WrongAnswerError(f"the captioner answered {found!r:.80}, not one model.Caption or several")
    if len(found) < num_captions:
        raise WrongAnswerError(f"the captioner answered {len(found)} captions, not --num_captions={num_captions}")
    captions = []
    for caption in found[:num_captions]:
        try:
            captions.append(Caption(_checked_text(caption.text), float(caption.score)))
        except (TypeError, ValueError, OverflowError) as error:
            raise WrongAnswerError(f"the captioner answered {found!r:.80}, which is no text with a score") from error
    for caption in captions:
        _check_score(caption.score)
    return tuple(captions)


def _checked_text(text: str) -> str:
    """The text as it is stored. Raises TypeError or ValueError for anything that is no text."""
    stored = str.replace(text, "\0", " ")
    stored.encode()  # raises for lone surrogates
    if not stored.strip():
        raise WrongAnswerError(f"the captioner answered {text!r:.80}, a caption without words")
    return stored


def _check_score(score: float) -> None:
    with np.errstate(over="ignore"):
        is_finite = bool(np.isfinite(np.float32(score)))
    if not is_finite:
        raise NonFiniteScoreError(f"the score of its caption is {score}, so the caption means nothing")


def _failure(image: DecodedImage, error: Exception) -> Failure:
    """The failure of one image; to be tried again later if the device is to blame, which may be a better one then.

    That includes one image being too much for the memory: all images have one size here, so the reason is whatever
    else the device holds.
    """
    retry_when = LATER if is_device_error(error) else CONTENT
    return Failure.of(image.input.uri, "caption", error, image.object_version, retry_when)
