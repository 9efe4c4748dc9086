"""The interface that the job expects of a captioner; `model.captioner.Captioner` implements it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from model.caption import Caption


class ImageCaptioner(Protocol):
    """Captions batches of square images; `model.PictureCaptioner` takes pictures with their aspect ratio.

    Any object with these three members is a captioner; it need not inherit from this class. The command also creates a
    captioner to read its version, so slow initialization belongs in an optional method `load()`, which is called once
    in each process that captions, before the first batch.
    """

    @property
    def version(self) -> str:
        """Identifies the model in the column `model_version`.

        Images with a caption of the same version and decoding are not captioned again, so captioners whose captions
        differ, for example because of their weights, need different versions.
        """

    @property
    def input_size(self) -> int:
        """S: the side of the images, in pixels; images are scaled to squares."""

    def caption(self, images: npt.NDArray[np.uint8]) -> Sequence[Sequence[Caption]]:
        """Captions each image of a batch.

        Calls never overlap, but may come from different threads. B is always --batch_size: a smaller batch is padded
        with black images. After an error, both halves of the batch are retried, so that only the images that cause
        it fail. After an out-of-memory error (`model.devices.is_out_of_memory`), all later batches are smaller.

        Args:
          images: uint8[B, S, S, 3], RGB. The memory is reused after the method returns.

        Returns:
          for each of the B images as many captions as `decoding.num_captions` says, best first, with scores that are
          None or finite as float32; greater scores are better. With fewer captions the image fails; surplus captions
          are dropped.
        """
