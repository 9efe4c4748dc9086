"""A job that is run over a folder again and again, as every night."""

from __future__ import annotations

from pathlib import Path

import pyarrow.dataset as ds
from PIL import Image

from beam_job.cli.command import main
from model import Decoding
from tests.fakes import FakeCaptioner


class Nights:
    """A folder of images, and a job that is run over it again and again."""

    def __init__(self, root: Path) -> None:
        self.photos = root / "photos"
        self.photos.mkdir()
        self.output = root / "out"

    def add(self, *names: str, shade: int = 90) -> None:
        for name in names:
            Image.new("RGB", (20, 10), (shade, 60, 30)).save(self.photos / name)

    def run(self, *options: str, inputs: object = None) -> list[str]:
        """Runs the job; the names of the images that this run captioned or failed."""
        before = set(self.rows())
        arguments = [f"--input={inputs or self.photos}", f"--output={self.output}"]
        assert main([*arguments, "--shard_size=3", "--max_failure_ratio=1", *options]) == 0
        return sorted(Path(uri).name for uri, _ in set(self.rows()) - before)

    def rows(self) -> list[tuple[str, str]]:
        """(uri, run) of all rows."""
        return [
            (row["uri"], row["run"])
            for table in ("captions", "failures")
            if (self.output / table).exists()
            for row in ds.dataset(self.output / table, partitioning="hive").to_table(["uri", "run"]).to_pylist()
        ]


def fake_captioner(bundle: Path, decoding: Decoding, *_: object) -> FakeCaptioner:
    return FakeCaptioner(num_captions=decoding.num_captions)
