"""Stand-ins that behave, instead of mocks that record."""

from __future__ import annotations

import threading

import numpy as np

from model import Caption


class FakeCaptioner:
    """Says each image's mean brightness; fails on batches that hold a black-listed brightness.

    Args:
      poison: an image of this brightness makes its batch fail.
      gate: when given, each batch waits for it.
    """

    version = "fake-1"

    def __init__(self, poison: int | None = None, gate: threading.Semaphore | None = None) -> None:
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
        return [(Caption(f"brightness {value}", -value / 100),) for value in brightness]
