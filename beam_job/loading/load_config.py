"""What loading depends on, completed for the machine that loads."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

from beam_job.config import JobConfig
from beam_job.inputs.filters import Filters
from beam_job.storage import Access, Allowed


@dataclass(frozen=True)
class LoadConfig:
    """What loading depends on.

    Attributes:
      input_size: side of the captioner's images, in pixels; with `in_proportion`, the longest side.
      fetch_threads: images fetched at the same time.
      decode_threads: images decoded at the same time.
      max_pixels: see `model.load_image`.
      in_flight_bytes: of files and pixels that a loader holds.
      fetch_timeout: seconds for an image, retries included.
      allowed: what may be read.
      filters: their sizes are checked when an image of a list is fetched.
      in_proportion: whether images keep their aspect ratio.
      access: how storages are asked.
      image_columns: see `JobConfig`, and the checksum that `Copies` needs.
    """

    input_size: int
    fetch_threads: int
    decode_threads: int
    max_pixels: int
    in_flight_bytes: int
    fetch_timeout: float
    allowed: Allowed
    filters: Filters
    in_proportion: bool = False
    access: Access = dataclasses.field(default_factory=Access)
    image_columns: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: JobConfig, input_size: int, on_gpu: bool, in_proportion: bool = False) -> LoadConfig:
        """The job's settings, completed for this machine, which may have other cores than the one that launched it."""
        fetch, decode = default_threads(os.cpu_count() or 1, on_gpu)
        return cls(
            input_size=input_size,
            fetch_threads=config.fetch_threads or fetch,
            decode_threads=config.decode_threads or decode,
            max_pixels=config.max_pixels,
            in_flight_bytes=config.in_flight_bytes,
            fetch_timeout=config.fetch_timeout,
            allowed=config.allowed,
            filters=config.filters,
            in_proportion=in_proportion,
            access=config.access,
            image_columns=_image_columns(config),
        )

    @property
    def pixel_bytes(self) -> int:
        """Bytes of an image's pixels; of one in proportion, the most that they can be."""
        return 3 * self.input_size**2


def default_threads(cores: int, on_gpu: bool) -> tuple[int, int]:
    """How many images are fetched, and decoded, at the same time unless the user says so.

    32 processes beside a GPU load 11,000 small images a second or 2,900 large ones, by `runners.estimate`; the model's
    process took 3,300 of them.
    """
    if not on_gpu:
        return 32, min(8, cores)
    processes = min(32, cores)
    return 8 * processes, processes


def _image_columns(config: JobConfig) -> tuple[str, ...]:
    needed = ("sha256",) if config.dedupe else ()
    return tuple(dict.fromkeys((*config.image_columns, *needed)))
