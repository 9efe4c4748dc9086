"""Stand-ins that behave, instead of mocks that record."""

from __future__ import annotations

import threading

import numpy as np

from model import Caption, CaptionerConfig


class FakeCaptioner:
    """Says each image's mean brightness; fails on batches that hold a black-listed brightness.

    Args:
      poison: an image of this brightness makes its batch fail.
      gate: when given, each batch waits for it.
      num_captions: captions of an image, all the same.
    """

    version = "fake-1"
    config = CaptionerConfig(input_size=8)

    def __init__(
        self, poison: int | None = None, gate: threading.Semaphore | None = None, num_captions: int = 1
    ) -> None:
        self.num_captions = num_captions
        self.poison = poison
        self.gate = gate
        self.batches: list[list[int]] = []

    def caption(self, images: np.ndarray) -> list[tuple[Caption, ...]]:
        if self.gate:
            assert self.gate.acquire(timeout=60)
        brightness = [round(float(image.mean())) for image in images]
        self.batches.append(brightness)
        if self.poison in brightness:
            raise RuntimeError("cannot digest this image")
        return [self._captions(value) for value in brightness]

    def _captions(self, brightness: int) -> tuple[Caption, ...]:
        return tuple(Caption(f"brightness {brightness}", -brightness / 100) for _ in range(self.num_captions))
