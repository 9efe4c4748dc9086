"""The speed of a captioner on this machine: measured on a few images, whose captions are discarded."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass

from beam_job.captioning.budgets import FailureBudget
from beam_job.captioning.caption_shards import open_engine
from beam_job.captioning.progress_file import ProgressFile
from beam_job.config import JobConfig
from beam_job.output.thumbnails import NO_THUMBNAILS
from beam_job.planning.plan import Shard
from beam_job.planning.run import Run
from beam_job.runners.estimate import format_hours
from beam_job.text import counted, printable

_IMAGES = 64  # two batches on a CPU
_IMAGES_OF_OTHERS = 16  # a captioner that is not the bundled one may be slow, or cost money


@dataclass(frozen=True)
class Measured:
    """The time that captioning some images took on this machine.

    Attributes:
      images: how many.
      seconds: from the first to the last, without the time to open the captioner.
      batch_size: images in a batch.
      counts: of the captioner, such as tokens.
      failures: of the images; the first one's reason is `reason`.
      reason: of the first failure, in a line.
    """

    images: int
    seconds: float
    batch_size: int
    counts: Mapping[str, int]
    failures: int
    reason: str


def images_to_measure(config: JobConfig) -> int:
    """How many images are captioned to measure the speed."""
    return _IMAGES_OF_OTHERS if config.captioner else _IMAGES


def measure(config: JobConfig, model_version: str, shard: Shard) -> Measured:
    """Captions the shard's images as a run would, into a temporary folder.

    Raises:
      CaptionerError: the captioner cannot be opened, or cannot go on.
    """
    with tempfile.TemporaryDirectory() as folder:
        failures = FailureBudget(1.0, len(shard.images))
        run = Run.new(folder)
        config = dataclasses.replace(config, dedupe=None)  # the speed of the captioner is wanted
        engine = open_engine(config, run, model_version, ProgressFile(None), failures, NO_THUMBNAILS)
        try:
            started = time.monotonic()
            result = engine.submit(0, shard).result()
            seconds = time.monotonic() - started
        finally:
            engine.close()
        _, _, batch_size = engine.ran_with
    found = result.report.failures
    reason = f"{found[0].stage}: {found[0].error_type}: {found[0].error_message}" if found else ""
    return Measured(len(shard.images), seconds, batch_size, result.counts, len(found), reason)


def describe_measured(measured: Measured, images: int, version: str, price: float | None = None) -> list[str]:
    """The measurement, and what `images` would take at this speed, in lines for people.

    Args:
      measured: as `measure` returns it.
      images: to caption.
      version: of the captioner.
      price: dollars an hour, if known.
    """
    a_second = measured.images / measured.seconds
    lines = [
        f"measured here: {counted(measured.images, 'image')} in {measured.seconds:.1f} s, batches of "
        f"{measured.batch_size}, model {printable(version)}: {3600 * a_second:,.0f} images per hour",
        f"estimate: {counted(images, 'image')} in {format_hours(images / a_second / 3600)} with one process like this; "
        "a larger run is usually faster, because a few images make small batches",
    ]
    if price is not None:
        lines.append(f"  cost: ${images / a_second / 3600 * price:,.2f} at ${price:,.2f} per hour")
    if measured.counts:
        each = (f"{count / measured.images:,.1f} {printable(name)}" for name, count in measured.counts.items())
        lines.append(f"  per image: {', '.join(each)}")
    if measured.failures:
        lines.append(f"  {measured.failures} of them failed, the first with {printable(measured.reason)}")
    return lines
