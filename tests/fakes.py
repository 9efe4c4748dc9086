"""Stand-ins that behave, instead of mocks that record."""

from __future__ import annotations

import os
import threading
from collections import deque
from pathlib import Path

import numpy as np

from model import Caption


class FakeCaptioner:
    """Says each image's mean brightness; fails on batches that hold a black-listed brightness.

    Args:
      poison: an image of this brightness makes its batch fail.
      error: what such a batch raises.
      gate: when given, each batch waits for it.
      num_captions: captions of an image, all the same.
      fits: images that the device's memory takes at once; larger batches raise `out_of_memory`.
      out_of_memory: likewise.
      unscored: images of these brightnesses have this score.
      engine: what it says it runs on; "xla" gets two batches at the same time.
    """

    version = "fake-1"
    precision = "float32"
    input_size = 8

    def __init__(
        self,
        poison: int | None = None,
        gate: threading.Semaphore | None = None,
        num_captions: int = 1,
        error: BaseException | None = None,
        fits: int | None = None,
        out_of_memory: BaseException | None = None,
        unscored: dict[int, float] | None = None,
        engine: str = "fake",
    ) -> None:
        self.engine = engine
        self.batches_at_once = 2 if engine == "xla" else 1
        self.num_captions = num_captions
        self.poison = poison
        self.gate = gate
        self.error = error or RuntimeError("cannot digest this image")
        self.fits = fits
        self.out_of_memory = out_of_memory or MemoryError()
        self.unscored = unscored or {}
        self.batches: list[list[int]] | deque[list[int]] = []

    def caption(self, images: np.ndarray) -> list[tuple[Caption, ...]]:
        if self.gate:
            assert self.gate.acquire(timeout=60)
        brightness = [round(float(image.mean())) for image in images]
        self.batches.append(brightness)
        if self.fits is not None and len(images) > self.fits:
            raise self.out_of_memory
        if self.poison in brightness:
            raise self.error
        return [self._captions(value) for value in brightness]

    def _captions(self, brightness: int) -> tuple[Caption, ...]:
        score = self.unscored.get(brightness, -brightness / 100)
        return tuple(Caption(f"brightness {brightness}", score) for _ in range(self.num_captions))


def with_fake_model(**variables: str) -> dict[str, str]:
    """An environment in which the job and its worker processes caption with a `FakeCaptioner`; see `tests/fake_model`.

    `variables` come on top.
    """
    tests = Path(__file__).parent
    path = os.pathsep.join([str(tests / "fake_model"), str(tests.parent), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path} | variables
