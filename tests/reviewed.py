"""Runs for the review page's tests: grey images with a fake captioner, some broken, one with a hostile caption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from beam_job.cli.job import run_job
from beam_job.config import JobConfig
from model import Caption
from tests.fakes import FakeCaptioner
from tests.images import encode

HOSTILE = "<img src=x onerror='window.harmed=1'></script><script>window.harmed=2</script> \u2028 & \"so\" on"
HOSTILE_NAME = "evil<img src=x onerror=alert(1)>\u202egpj.png"
IMAGES, BROKEN = 30, 3


class Captioner(FakeCaptioner):
    """Captions an image with its brightness, and the brightest one as an attacker would."""

    def _captions(self, brightness: int) -> tuple[Caption, ...]:
        [caption] = super()._captions(brightness)
        return (Caption(HOSTILE if brightness >= 200 else caption.text, caption.score),)


def write_images(folder: Path) -> None:
    folder.mkdir()
    for number in range(IMAGES):
        (folder / f"photo {number:02d}.png").write_bytes(encode(Image.new("RGB", (60, 30), (50 + number,) * 3), "PNG"))
    (folder / HOSTILE_NAME).write_bytes(encode(Image.new("RGB", (30, 60), (200,) * 3), "PNG"))
    for number in range(BROKEN):
        (folder / f"broken{number}.jpg").write_bytes(b"no image")


def run(folder: Path, output: Path, **options: Any) -> Path:
    """Captions these images; returns the run's review page."""
    summary = run_job(JobConfig(inputs=(str(folder),), output=str(output), max_failure_ratio=1, **options))
    assert summary is not None
    return output / "runs" / summary.run_id / "index.html"
