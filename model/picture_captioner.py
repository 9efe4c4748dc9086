"""The interface of captioners that take pictures in their own aspect ratio, with URI, columns and prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from model.caption import Caption

RETRY_WHEN = ("later", "options", "content")


@dataclass(frozen=True)
class Picture:
    """A picture to caption.

    Attributes:
      pixels: uint8[H, W, 3], RGB, as a viewer shows it; the longer side has at most `max_side` pixels.
      uri: of the input.
      columns: the row's --carry_columns, as Python values.
      prompt: what --prompt says for this picture, its `{column}`s filled in; None without --prompt.
    """

    pixels: npt.NDArray[np.uint8]
    uri: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    prompt: str | None = None


class CaptionFailure(Exception):
    """One picture has no caption: it becomes a row of `failures/` with the stage `caption`.

    The name of the (sub)class is the row's `error_type`, the message its `error_message`.

    Args:
      message: why, in one line.
      retry_when: when another run should try again: "later" (the next run), with other "options", or only when the
        picture's "content" has changed.
    """

    def __init__(self, message: str, retry_when: str = "content") -> None:
        if retry_when not in RETRY_WHEN:
            raise ValueError(f"retry_when must be one of {', '.join(RETRY_WHEN)}, not {retry_when!r:.80}")
        super().__init__(message)
        self.retry_when = retry_when

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.retry_when)


class EndRun(CaptionFailure):
    """This picture and all that follow are left for the next run, for example because a budget is spent.

    The run ends in good order: pictures that have captions keep them, the others become failures that the next run
    tries again, nothing more is fetched, and the exit code does not count them as failed.

    Args:
      message: why, in one line.
    """

    def __init__(self, message: str, retry_when: str = "later") -> None:
        super().__init__(message, "later")


class CaptionerError(ValueError):
    """The captioner cannot be made, or cannot go on; the run ends with this message, which says what to do."""


class PictureCaptioner(Protocol):
    """Captions pictures of any shape.

    Any object with these three members is a captioner; it need not inherit from this class. Optional members:

      batch_size (int): pictures in a call where --batch_size is not given; by default what suits TensorFlow's device.
      batches_at_once (int): calls of `caption_pictures` that may overlap, each in a thread of its own; by default 1. A
        client of a service takes batches of one, as many at once as it wants to have requests under way.
      on_gpu (bool): whether a GPU waits for pictures; then they are loaded in processes. Read after `load()`.
      engine, precision (str): for the summary, one word each. Read after `load()`.
      load(): called once in each process that captions, before the first batch. The command also creates a captioner
        to read its version, so slow initialization belongs here.
      check(): called once before a run on this machine, before anything is written. It raises `CaptionerError` if there
        would be no captions, for example because a service cannot be reached.
      take_counts(): whole numbers by name since the last call, such as {"requests": 3, "tokens_in": 2100}; their sums
        over all processes stand in the summary. Called when a shard is done, from any thread.

    For what hits every picture alike, such as a key that is refused, any of its methods, and the function that makes
    it, raise `CaptionerError`: the run ends with that line, and no picture is recorded as failed.
    """

    @property
    def version(self) -> str:
        """See `model.ImageCaptioner.version`. Prompts and decoding options are recorded beside it, by the job."""

    @property
    def max_side(self) -> int:
        """The longest side of a picture, in pixels; larger ones are scaled down, smaller ones are left as they are."""

    def caption_pictures(self, pictures: Sequence[Picture]) -> Sequence[Sequence[Caption] | CaptionFailure]:
        """Captions pictures, from one to `batch_size` of them, fewer where they are large.

        With several prompts it is called for each of them, with the same pictures. After an error other than
        `CaptionFailure`, `EndRun` and `CaptionerError`, both halves of the batch are tried again, so that only the
        pictures that cause it fail. After an out-of-memory error, all later batches are smaller.

        Returns:
          for each picture either as many captions as `decoding.num_captions` says, best first, or a `CaptionFailure`
          (returned, not raised; in a batch of one it may be raised). A score is None or finite as float32; greater
          scores are better.
        """
