"""The job's configuration: one frozen record, checked when made, that travels to every worker."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from model import DEFAULT_BUNDLE, Decoding


@dataclass(frozen=True)
class JobConfig:
    """What the user asked for.

    Attributes:
      inputs: folders, globs, lists of URIs or single images.
      output: folder of the results.
      model: folder of the bundle; None for the one that ships, wherever the worker has it.
      decoding: how words are chosen.
      shard_size: images a shard, the unit of work and of output files.
      batch_size: images that the model captions at once.
      fetch_threads: images fetched at the same time.
      decode_threads: images decoded at the same time.
      workers: processes on this machine.
      max_failure_ratio: of the inputs, from 0 to 1; beyond it the job counts as broken.
      verbose: show what Beam and TensorFlow say of themselves.
    """

    inputs: tuple[str, ...]
    output: str
    model: str | None = None
    decoding: Decoding = field(default_factory=Decoding)
    shard_size: int = 512
    batch_size: int = 32
    fetch_threads: int = 16
    decode_threads: int = field(default_factory=lambda: min(8, os.cpu_count() or 1))
    workers: int = 1
    max_failure_ratio: float = 0.5
    verbose: bool = False

    def __post_init__(self) -> None:
        for name in ("shard_size", "batch_size", "fetch_threads", "decode_threads", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be a whole number from 1, not {getattr(self, name)}")
        if not 0 <= self.max_failure_ratio <= 1:
            raise ValueError(f"--max_failure_ratio must be from 0 to 1, not {self.max_failure_ratio}")

    @property
    def bundle(self) -> Path:
        """The model's folder, on the machine that asks."""
        return Path(self.model) if self.model else DEFAULT_BUNDLE

    @property
    def look_ahead(self) -> int:
        """Images fetched and decoded ahead of the model at most, so that memory stays bounded."""
        return 4 * self.batch_size + self.fetch_threads
