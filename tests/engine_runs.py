"""Shards of grey images through an engine with a fake captioner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from beam_job.captioning.budgets import FailureBudget
from beam_job.captioning.engine import Engine
from beam_job.captioning.progress_file import ProgressFile
from beam_job.config import JobConfig
from beam_job.output.metrics import ShardResult
from beam_job.planning.plan import Shard
from beam_job.planning.run import Run
from beam_job.records import ImageInput
from tests.fakes import FakeCaptioner

SIZE = 7
BATCH = 5


def grey(folder: Path, brightness: int) -> ImageInput:
    """An image file of one brightness."""
    path = folder / f"{brightness}.png"
    Image.new("RGB", (30, 20), (brightness,) * 3).save(path)
    return ImageInput(str(path))


def shard_of(*images: ImageInput) -> Shard:
    """A shard with a carried column: each image's place."""
    return Shard(images, pa.table({"place": pa.array(range(len(images)), pa.int16())}))


def engine_for(run: Run, captioner: FakeCaptioner, progress_folder: Path | None = None, **options: Any) -> Engine:
    config = JobConfig(
        inputs=(str(Path(run.output).parent),),
        output=run.output,
        fetch_threads=3,
        decode_threads=2,
        **options,
    )
    progress = ProgressFile(str(progress_folder) if progress_folder else None)
    failures = FailureBudget(config.max_failure_ratio, 1000)
    return Engine(config, run, captioner, SIZE, BATCH, progress, failures, gpu=captioner.engine == "xla")


def run_shards(run: Run, captioner: FakeCaptioner, *shards: list[ImageInput]) -> list[ShardResult]:
    engine = engine_for(run, captioner)
    futures = [engine.submit(number, shard_of(*shard)) for number, shard in enumerate(shards)]
    engine.close()
    return [future.result(timeout=60) for future in futures]


def rows(run: Run, shard: int) -> list[dict]:
    return pq.read_table(run.captions(shard), partitioning=None).to_pylist()
