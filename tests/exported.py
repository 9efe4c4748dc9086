"""A run whose images and captions have hostile names and texts, to be exported."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
from PIL import Image

from beam_job.cli.command import main
from model import Caption
from tests.fakes import FakeCaptioner
from tests.hostile_names import NAMES
from tests.images import encode

HOSTILE = '=HYPERLINK("http://evil","<script>alert(1)</script>")\r\nsecond line'


class HostileCaptioner(FakeCaptioner):
    """One caption is what an attacker would like to see in a page or a spreadsheet."""

    def _captions(self, brightness: int) -> tuple[Caption, ...]:
        return (Caption(HOSTILE if brightness == 10 else f"brightness {brightness}", -0.5),)


class Job:
    """A run over all `NAMES`, which carries columns whose names formats have a use for."""

    def __init__(self, root: Path) -> None:
        self.root, self.output = root, root / "out"
        self.photos = root / "photos"

    def make(self) -> None:
        (self.photos / "b").mkdir(parents=True)
        members = {}
        for number, name in enumerate(NAMES):
            content = encode(Image.new("RGB", (20, 10), (10 * (number + 1),) * 3), "PNG")
            container, _, member = name.partition("#")
            if member:
                members[member] = content
                continue
            path = Path(os.path.normpath(self.photos / container))
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        with tarfile.open(self.photos / "set.tar", "w") as tar:
            for member, content in members.items():
                entry = tarfile.TarInfo(member)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        rows = [
            {"uri": f"{self.photos}/{name}", "text": f"t{number}", "file_name": "/etc/passwd", "a.b": {"n": [number]}}
            for number, name in enumerate(NAMES)
        ]
        (self.photos / "list.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        self.run("--carry_columns=text,file_name,a.b")

    def run(self, *options: str) -> None:
        arguments = [f"--input={self.photos}/list.jsonl", f"--output={self.output}"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("beam_job.captioning.caption_shards.load_captioner", lambda *_: HostileCaptioner())
            assert main([*arguments, "--shard_size=4", *options]) == 0

    def export(self, kind: str, to: Path, *options: str) -> int:
        return main(["export", f"--output={self.output}", f"--format={kind}", f"--to={to}", *options])

    def captions(self) -> dict[str, str]:
        rows = ds.dataset(self.output / "captions", partitioning=None).to_table(["uri", "caption"]).to_pylist()
        return {row["uri"]: row["caption"] for row in rows}

    def uri(self, name: str) -> str:
        return f"{self.photos}/{name}"


def shade(image: Image.Image) -> int:
    return round(float(np.asarray(image.convert("RGB")).mean()))


def expected(job: Job) -> dict[str, tuple[int, str]]:
    """(grey of the pixels, caption) by URI."""
    captions = job.captions()
    return {uri: (10 * (n + 1), captions[uri]) for n, uri in enumerate(map(job.uri, NAMES))}
