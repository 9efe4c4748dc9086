"""A captioner that ends its process in one of its methods, with the exit code of success."""

from __future__ import annotations

import os
import sys

import numpy as np

from model import Caption, Decoding


class Leaving:
    """Calls exit where `method` says."""

    version = "leaving-1"
    input_size = 48

    def __init__(self, method: str | None) -> None:
        self.method = method

    def load(self) -> None:
        if self.method == "load":
            sys.exit(0)

    def caption(self, images: np.ndarray) -> list[list[Caption]]:
        if self.method == "os._exit":
            os._exit(0)
        if self.method == "fork":  # whose children may end as they like
            if (child := os.fork()) == 0:
                os._exit(0)
            os.waitpid(child, 0)
            return [[Caption("a dog", -1.0)] for _ in images]
        sys.exit(0)


def make(model: str | None, decoding: Decoding) -> Leaving:
    return Leaving(model)
