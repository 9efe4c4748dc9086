"""Python runs this at its start where this folder is on PYTHONPATH: the job and its workers get a fake captioner.

With BATCHES set, the model hangs after so many batches, and creates the file that HUNG names.
"""

import collections
import os
import threading
from pathlib import Path

import model
from tests.fakes import FakeCaptioner


class Gate(threading.Semaphore):
    """Lets BATCHES batches pass."""

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        if super().acquire(blocking=False):
            return True
        Path(os.environ["HUNG"]).touch()
        return super().acquire(timeout=600)


def _load(*_: object) -> FakeCaptioner:
    captioner = FakeCaptioner(gate=Gate(int(os.environ["BATCHES"])) if "BATCHES" in os.environ else None)
    captioner.batches = collections.deque(maxlen=1)  # memory is measured with it
    return captioner


model.load_captioner = _load
