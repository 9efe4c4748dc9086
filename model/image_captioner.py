"""What the job asks of a captioner: its own is `model.captioner.Captioner`, and any other may take its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from model.caption import Caption


class ImageCaptioner(Protocol):
    """Turns batches of images into captions.

    An object that has these three members will do; nothing is to be inherited. If it has a method `load()` as well,
    that is called once in each process that captions, before the first batch: the place for weights and a first, slow
    batch, for the command itself makes a captioner too, to ask for its version.
    """

    @property
    def version(self) -> str:
        """Names the model for the column `model_version`.

        Images that have a caption of the same version and decoding count as done, so captioners that would say
        different things need different versions.
        """

    @property
    def input_size(self) -> int:
        """S: side of the images in pixels; aspect ratios are not kept."""

    def caption(self, images: npt.NDArray[np.uint8]) -> Sequence[Sequence[Caption]]:
        """Captions for each image of a batch, the best first; one caption at least.

        Never called twice at the same time, but not always by the same thread; always with as many images as
        --batch_size says: a batch with too few is filled up with black ones. An error costs the images that are to
        blame their captions: the halves of the batch are tried again. Where it says that memory ran out (see
        `model.devices.is_out_of_memory`), batches are smaller from then on.

        Args:
          images: uint8[B, S, S, 3], RGB; filled with other images once the method has returned.

        Returns:
          B sequences of captions; scores are finite, and greater ones are better.
        """
