"""The records that the stages of the job pass on."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from beam_job.storage import CONTENT, LATER, RETRY_WHEN, without_secrets
from model import Caption

METRIC_NAMESPACE = "caption_images"
# Error type of images that a captioner has left for the next run (`model.EndRun`); they do not count as failed.
RUN_ENDED = "EndRun"
STAGES = ("list", "fetch", "decode", "caption")
RUN_ID = r"\d{8}T\d{6,9}Z-[0-9a-f]{4,8}"  # a pattern; `planning.run.Run.new` makes such names


def now() -> datetime.datetime:
    """The time in UTC, to the millisecond, which is the resolution of the output's timestamps."""
    time = datetime.datetime.now(datetime.timezone.utc)
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


@dataclass(frozen=True)
class ImageInput:
    """An image to caption: a row of the plan.

    Attributes:
      uri: as given by the user, or found by the listing.
      object_version: `storage.StoredObject.version` as listed; None if the URI comes from a list.
      size: bytes as listed, or None.
      crc32c: checksum in base64 as listed, or None.
      tar_offset: offset of its bytes in the tar that contains it; None if it is not in a tar.
      list_error: the reason found during listing why it cannot be captioned (`inputs.rows.ListedFailure`), or None.
      parquet_place: position of its bytes in a Parquet file (`inputs.packed.Place`); None if it is not in one.
      is_trusted: whether it comes from an input on the disk of the user who started the run, and may name any place.
    """

    uri: str
    object_version: str | None = None
    size: int | None = None
    crc32c: str | None = None
    tar_offset: int | None = None
    list_error: str | None = None
    parquet_place: str | None = None
    is_trusted: bool | None = None


@dataclass(frozen=True)
class DecodedImage:
    """An image ready for the model.

    Attributes:
      input: the planned image.
      pixels: uint8[S, S, 3], RGB; uint8[H, W, 3] for a captioner that takes images with their aspect ratio.
      width: pixels of the original as a viewer shows it.
      height: pixels of the original as a viewer shows it.
      object_version: of the file that was read.
      columns: carried columns, if the captioner takes them.
      image_columns: what `--image_columns` asks for.
    """

    input: ImageInput
    pixels: npt.NDArray[np.uint8]
    width: int
    height: int
    object_version: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    image_columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CaptionedImage:
    """A row of `captions/`.

    Attributes:
      uri: of the input.
      captions: the best first.
      width: pixels of the original as a viewer shows it.
      height: pixels of the original as a viewer shows it.
      object_version: of the file that was captioned.
      captioned_at: UTC.
      by_prompt: the first caption of each prompt, in the order of the job's prompts; empty without prompts.
      image_columns: what `--image_columns` asks for.
    """

    uri: str
    captions: tuple[Caption, ...]
    width: int
    height: int
    object_version: str
    captioned_at: datetime.datetime
    by_prompt: tuple[Caption, ...] = ()
    image_columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """A row of `failures/`: the reason why an input has no caption.

    Attributes:
      uri: of the input.
      stage: where it failed, one of `STAGES`.
      error_type: name of the exception.
      error_message: one line; secrets of signed URLs are removed, and invalid UTF-8 is escaped.
      transient: whether another run may succeed with the same file and options: `retry_when` is "later".
      object_version: of the file that failed, or None if it is unknown.
      failed_at: UTC.
      retry_when: when another run should try again, one of `storage.RETRY_WHEN`: "later", with other "options" or
        permissions, or only when the "content" has changed. By default it follows from `transient`.
    """

    uri: str
    stage: str
    error_type: str
    error_message: str
    transient: bool
    object_version: str | None = None
    failed_at: datetime.datetime = field(default_factory=now)
    retry_when: str = ""

    def __post_init__(self) -> None:
        if not self.retry_when:
            object.__setattr__(self, "retry_when", LATER if self.transient else CONTENT)
        if self.retry_when not in RETRY_WHEN:
            raise ValueError(f"retry_when must be one of {', '.join(RETRY_WHEN)}, not {self.retry_when!r}")
        object.__setattr__(self, "transient", self.retry_when == LATER)
        if self.stage not in STAGES:
            raise ValueError(f"stage must be one of {', '.join(STAGES)}, not {self.stage!r}")
        message = without_secrets(self.error_message, self.uri).encode("utf-8", "backslashreplace").decode("utf-8")
        object.__setattr__(self, "error_message", message)

    @classmethod
    def of(
        cls,
        uri: str,
        stage: str,
        error: BaseException,
        object_version: str | None = None,
        retry_when: str = CONTENT,
    ) -> Failure:
        """The failure of `uri` by `error`."""
        message = str(error) or repr(error)
        return cls(uri, stage, type(error).__name__, message, False, object_version, retry_when=retry_when)
