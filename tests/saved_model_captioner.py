"""A captioner that knows nothing of this project's models, like the README's example of `--captioner`."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from model import Caption, Decoding


class SavedModelCaptioner:
    """Any SavedModel with a function `caption`: uint8[B, 48, 48, 3] -> text string[B], score float32[B]."""

    input_size = 48

    def __init__(self, folder: str) -> None:
        self._folder = folder
        checksum = hashlib.sha256()
        for path in sorted(Path(folder).rglob("*")):  # the graph and the weights
            if path.is_file():
                checksum.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
        self.version = "saved-" + checksum.hexdigest()[:12]

    def load(self) -> None:
        import tensorflow as tf

        self._model = tf.saved_model.load(self._folder)

    def caption(self, images: np.ndarray) -> list[list[Caption]]:
        texts, scores = self._model.caption(images)
        return [[Caption(text.decode(), score)] for text, score in zip(texts.numpy(), scores.numpy(), strict=True)]


def make(model: str | None, decoding: Decoding) -> SavedModelCaptioner:
    return SavedModelCaptioner(model)
