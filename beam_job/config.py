"""The job's configuration: one frozen record, checked when made, that travels to every worker."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from beam_job.filters import Filters
from model import DEFAULT_BUNDLE, Decoding

# Which failures of earlier runs are tried again; one of another version of the file never stands in the way.
RETRY = ("transient", "all", "none")
_BYTES_A_ROW = 600  # of the planning process at its peak, by tests/benchmarks/plan_million.py


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
      uri_column: of lists that have columns.
      carry_columns: columns of the lists that the output rows repeat.
      filters: which of the listed images to caption.
      retry: which failures of earlier runs to try again, one of `RETRY`.
      recaption: caption everything, whatever earlier runs have done.
      fetch_threads: images fetched at the same time.
      fetch_timeout: seconds for one image, retries included.
      rows_in_memory: images, listed and done before, that are planned in the launching machine's memory; more are
        planned inside the pipeline.
      in_flight_bytes: of images between submission and the model, a process.
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
    uri_column: str = "uri"
    carry_columns: tuple[str, ...] = ()
    filters: Filters = field(default_factory=Filters)
    retry: str = "transient"
    recaption: bool = False
    fetch_threads: int = 32
    fetch_timeout: float = 60.0
    rows_in_memory: int = field(default_factory=lambda: _memory_bytes() // 2 // _BYTES_A_ROW)
    in_flight_bytes: int = 256 * 2**20
    decode_threads: int = field(default_factory=lambda: min(8, os.cpu_count() or 1))
    workers: int = 1
    max_failure_ratio: float = 0.5
    verbose: bool = False

    def __post_init__(self) -> None:
        for name in ("shard_size", "batch_size", "fetch_threads", "decode_threads", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be a whole number from 1, not {getattr(self, name)}")
        if self.retry not in RETRY:
            raise ValueError(f"--retry must be one of {', '.join(RETRY)}, not {self.retry!r}")
        if self.fetch_timeout <= 0:
            raise ValueError(f"--fetch_timeout must be above 0 seconds, not {self.fetch_timeout}")
        if not 0 <= self.max_failure_ratio <= 1:
            raise ValueError(f"--max_failure_ratio must be from 0 to 1, not {self.max_failure_ratio}")

    @property
    def bundle(self) -> Path:
        """The model's folder, on the machine that asks."""
        return Path(self.model) if self.model else DEFAULT_BUNDLE

    @property
    def request(self) -> dict[str, Any]:
        """What decides which images are to be captioned, in JSON's types; a killed run is continued by the same."""
        return {
            "inputs": list(self.inputs),
            "uri_column": self.uri_column,
            "carry_columns": list(self.carry_columns),
            "filters": json.loads(json.dumps(dataclasses.asdict(self.filters))),
            "recaption": self.recaption,
        }


def _memory_bytes() -> int:
    """Of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
