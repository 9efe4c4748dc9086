"""Runs batches through the captioner; after an error, only the images that cause it fail."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from beam_job.captioning.captioners import AnyCaptioner, takes_pictures
from beam_job.captioning.user_code import no_exit
from beam_job.inputs.prompts import Prompt
from beam_job.records import RUN_ENDED, CaptionedImage, DecodedImage, Failure, now
from beam_job.storage import CONTENT, LATER
from model import Caption, CaptionerError, CaptionFailure, EndRun, ImageCaptioner, Picture, PictureCaptioner, pad_batch
from model.devices import is_device_error, is_out_of_memory

Answer = Sequence[Caption] | CaptionFailure


class NonFiniteScoreError(ArithmeticError):
    """The score of an image's caption is not a number as it would be stored, so its words mean nothing."""


class WrongAnswerError(Exception):
    """A captioner's answer is not what `model.ImageCaptioner` promises."""


class BatchCaptioner:
    """Captions images in batches of one size; any thread may call it.

    Args:
      captioner: one that takes arrays is called with `size` images always, for its graph is fastest where all batches
        have one shape; one that takes pictures with as many as there are.
      batch_size: images in a batch, to begin with.
      log: logs a line.
      num_captions: captions of an image.
      prompts: the captioner is called for each of them; once if there are none.

    Attributes:
      size: images in a batch; halved for good when the device's memory does not suffice.
    """

    def __init__(
        self,
        captioner: AnyCaptioner,
        batch_size: int,
        log: Callable[[str], None],
        num_captions: int = 1,
        prompts: Sequence[Prompt] = (),
    ) -> None:
        self.size = batch_size
        self._lock = threading.Lock()  # guards size
        self._calls: _Arrays | _Pictures = _Pictures(captioner) if takes_pictures(captioner) else _Arrays(captioner)
        self._log = log
        self._num_captions = num_captions
        self._prompts = prompts

    def caption(self, images: list[DecodedImage]) -> list[CaptionedImage | Failure]:
        """A row for each image, in their order.

        If a batch fails, its halves are tried, down to the image that causes it; if the device runs out of memory, this
        batch and all later ones are made smaller. With several prompts, an image that fails for one fails.

        Raises:
          CaptionerError: the captioner cannot continue.
        """
        failed: dict[int, Failure] = {}
        found: list[list[tuple[Caption, ...]]] = [[] for _ in images]
        for prompt in self._prompts or (None,):
            places = [place for place in range(len(images)) if place not in failed]
            for place, outcome in zip(places, self._ask([images[place] for place in places], prompt), strict=True):
                if isinstance(outcome, Failure):
                    failed[place] = outcome
                else:
                    found[place].append(outcome)
        return [failed.get(place) or self._row(image, found[place]) for place, image in enumerate(images)]

    def _ask(self, images: list[DecodedImage], prompt: Prompt | None) -> list[tuple[Caption, ...] | Failure]:
        """The captions of each image for one prompt, or why there are none."""
        if not images:
            return []
        size = self.size  # which may be smaller after the next call
        if len(images) > size:
            return self._ask(images[:size], prompt) + self._ask(images[size:], prompt)
        try:
            with no_exit():
                answers = self._calls(images, size, prompt)
            return [self._checked(image, answer) for image, answer in zip(images, answers, strict=True)]
        except CaptionerError:
            raise
        except EndRun as error:
            return [_failure(image, error) for image in images]
        except Exception as error:
            too_large = size > 1 and is_out_of_memory(error)
            failure = _failure(images[0], error)
        # Tried again down here, where the exception is gone, and with its traceback the tensors of the batch.
        if too_large:
            self._shrink(size)
            return self._ask(images, prompt)
        if len(images) == 1:
            return [failure]
        half = len(images) // 2
        return self._ask(images[:half], prompt) + self._ask(images[half:], prompt)

    def _shrink(self, size: int) -> None:
        """Halves `size`, unless another thread has done that."""
        smaller = size // 2
        with self._lock:
            if self.size < size:
                return
            self.size = smaller
        self._log(
            f"the device ran out of memory with {size} images in a batch; continuing with {smaller} "
            f"(--batch_size={smaller} avoids this)"
        )

    def _checked(self, image: DecodedImage, answer: Answer) -> tuple[Caption, ...] | Failure:
        try:
            if isinstance(answer, CaptionFailure):
                raise answer
            return checked_captions(answer, self._num_captions)
        except (CaptionFailure, NonFiniteScoreError, WrongAnswerError) as error:
            return _failure(image, error)

    def _row(self, image: DecodedImage, found: list[tuple[Caption, ...]]) -> CaptionedImage:
        by_prompt = tuple(captions[0] for captions in found) if self._prompts else ()
        size = image.width, image.height
        return CaptionedImage(
            image.input.uri, found[0], *size, image.object_version, now(), by_prompt, image.image_columns
        )


class _Arrays:
    """Calls a captioner with arrays of squares."""

    def __init__(self, captioner: Any) -> None:
        self._captioner: ImageCaptioner = captioner
        self._free: list[npt.NDArray[np.uint8]] = []  # batches that are captioned, to be filled again

    def __call__(self, images: list[DecodedImage], size: int, prompt: Prompt | None) -> Sequence[Answer]:
        try:
            free = self._free.pop()
        except IndexError:
            free = None
        batch = pad_batch([image.pixels for image in images], size, free)
        captions = self._captioner.caption(batch)
        _check_number(captions, size)
        self._free.append(batch)
        return captions[: len(images)]


class _Pictures:
    """Calls a captioner with pictures."""

    def __init__(self, captioner: PictureCaptioner) -> None:
        self._captioner = captioner

    def __call__(self, images: list[DecodedImage], size: int, prompt: Prompt | None) -> Sequence[Answer]:
        pictures = [
            Picture(image.pixels, image.input.uri, image.columns, prompt.filled(image.columns) if prompt else None)
            for image in images
        ]
        captions = self._captioner.caption_pictures(pictures)
        _check_number(captions, len(images))
        return captions


def _check_number(answers: Sequence[Answer], images: int) -> None:
    if len(answers) != images:
        raise WrongAnswerError(f"the captioner returned {len(answers)} results for {images} images")


def checked_captions(found: Sequence[Caption], num_captions: int) -> tuple[Caption, ...]:
    """The captions of an image as they are stored, from whatever a captioner has answered.

    A text keeps its line breaks, but a NUL, which many databases refuse, becomes a blank. Of more captions than were
    asked for the first ones, which are the best, are kept.

    Raises:
      WrongAnswerError: there are fewer captions than asked for, or one is no text or empty, or its score is no number.
      NonFiniteScoreError: a score is given and not finite, as the float32 that it is stored as.
    """
    if not isinstance(found, Sequence) or not found or not all(isinstance(caption, Caption) for caption in found):
        raise WrongAnswerError(f"the captioner returned {found!r:.80} instead of one or more model.Caption")
    if len(found) < num_captions:
        raise WrongAnswerError(f"the captioner returned {len(found)} captions, not --num_captions={num_captions}")
    captions = []
    for caption in found[:num_captions]:
        try:
            score = None if caption.score is None else float(caption.score)
            captions.append(Caption(_checked_text(caption.text), score))
        except (TypeError, ValueError, OverflowError) as error:
            raise WrongAnswerError(f"the captioner returned {found!r:.80}, which is not a text with a score") from error
    for caption in captions:
        _check_score(caption.score)
    return tuple(captions)


def _checked_text(text: str) -> str:
    """The text as it is stored. Raises TypeError or ValueError for anything that is no text."""
    stored = str.replace(text, "\0", " ")
    stored.encode()  # raises for lone surrogates
    if not stored.strip():
        raise WrongAnswerError(f"the captioner returned {text!r:.80}, a caption without words")
    return stored


def _check_score(score: float | None) -> None:
    if score is None:
        return
    with np.errstate(over="ignore"):
        is_finite = bool(np.isfinite(np.float32(score)))
    if not is_finite:
        raise NonFiniteScoreError(f"the score of its caption is {score}, which is not a finite number")


def _failure(image: DecodedImage, error: Exception) -> Failure:
    """The failure of one image: as a `CaptionFailure` says, or to be tried again if the device is to blame.

    Another device may be better then, and one image being too much for the memory is due to whatever else it holds.
    """
    if isinstance(error, EndRun):
        return Failure(image.input.uri, "caption", RUN_ENDED, str(error), True, image.object_version)
    if isinstance(error, CaptionFailure):
        return Failure.of(image.input.uri, "caption", error, image.object_version, error.retry_when)
    retry_when = LATER if is_device_error(error) else CONTENT
    return Failure.of(image.input.uri, "caption", error, image.object_version, retry_when)
