"""The interface of captioners that take pictures with their original aspect ratio, with URI, columns and prompt."""

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
      prompt: the --prompt for this picture, with its `{column}`s filled in; None without --prompt.
    """

    pixels: npt.NDArray[np.uint8]
    uri: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    prompt: str | None = None


class CaptionFailure(Exception):
    """Says that one picture has no caption; it becomes a row of `failures/` with the stage `caption`.

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

    The run ends cleanly: pictures that have captions keep them, the others become failures that the next run retries,
    no more images are fetched, and the exit code does not count the remaining ones as failed.

    Args:
      message: why, in one line.
    """

    def __init__(self, message: str, retry_when: str = "later") -> None:
        super().__init__(message, "later")


class CaptionerError(ValueError):
    """The captioner cannot be created, or cannot continue; the run ends with this message, which says what to do."""


class PictureCaptioner(Protocol):
    """Captions pictures of any shape.

    Any object with these three members is a captioner; it need not inherit from this class. Optional members:

      batch_size (int): pictures per call if --batch_size is not given; the default depends on TensorFlow's device.
      batches_at_once (int): calls of `caption_pictures` that may run at the same time, each in its own thread; 1 by
        default. A client of a web service sets `batch_size` to 1 and this to the number of concurrent requests.
      on_gpu (bool): whether the captioner runs on a GPU; if so, pictures are loaded in processes. Read after `load()`.
      engine, precision (str): for the summary, one word each. Read after `load()`.
      load(): called once in each process that captions, before the first batch. The command also creates a captioner
        to read its version, so slow initialization belongs here.
      check(): called once before a run on this machine, before anything is written. It raises `CaptionerError` if there
        would be no captions, for example because a service cannot be reached.
      take_counts(): returns counts by name since the last call, such as {"requests": 3, "tokens_in": 2100}; the summary
        contains their sums over all processes. Called when a shard is done, from any thread.

    For errors that affect every picture, such as a refused key, any method, or the function that creates the captioner,
    raises `CaptionerError`: the run ends with its message, and no picture is recorded as failed.
    """

    @property
    def version(self) -> str:
        """See `model.ImageCaptioner.version`. The job records prompts and decoding options separately."""

    @property
    def max_side(self) -> int:
        """The longest side of a picture, in pixels; larger ones are scaled down, smaller ones are unchanged."""

    def caption_pictures(self, pictures: Sequence[Picture]) -> Sequence[Sequence[Caption] | CaptionFailure]:
        """Captions pictures, from one to `batch_size` of them, fewer where they are large.

        With several prompts it is called once per prompt, with the same pictures. After an error other than
        `CaptionFailure`, `EndRun` and `CaptionerError`, both halves of the batch are retried, so that only the
        pictures that cause it fail. After an out-of-memory error, all later batches are smaller.

        Returns:
          for each picture either as many captions as `decoding.num_captions` says, best first, or a `CaptionFailure`
          (returned, not raised; in a batch of one it may be raised). A score is None or finite as float32; greater
          scores are better.
        """
