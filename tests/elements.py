"""CaptionImages over elements in memory, in a pipeline of this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from beam_job import CaptionImages
from tests.planned import grey


def write_photos(folder: Path) -> Path:
    """Grey pictures named by their brightness, 10 to 49, and one that is none."""
    folder.mkdir()
    for brightness in range(10, 50):
        (folder / f"{brightness}.png").write_bytes(grey(brightness))
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


def caption(photos: Path, **options: Any) -> CaptionImages:
    return CaptionImages(**{"allow_root": [str(photos)], "batch_size": 8} | options)


def in_process(*options: str) -> beam.Pipeline:
    return beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner", *options]))
