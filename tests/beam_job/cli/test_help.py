"""The examples of `--help`, run as printed: each does what the text beside it says."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from google.cloud import storage as gcs

from beam_job import storage
from beam_job.cli.command import main
from tests.fakes import FakeCaptioner

_EXAMPLE = re.compile(r"^  (caption-images .*?)(?:   *(\S.*))?$", re.MULTILINE)


@pytest.fixture
def desk(photographs: dict[str, Path], tmp_path: Path, gcs_emulator: str, monkeypatch) -> Iterator[Path]:
    """A working directory with three photographs, a list of them, and a bucket named `bucket`."""
    (tmp_path / "photos").mkdir()
    for name in ("chelsea.png", "flower.jpg", "china.jpg"):
        shutil.copy(photographs[name], tmp_path / "photos")
    (tmp_path / "uris.txt").write_text("photos/chelsea.png\nphotos/flower.jpg\nphotos/china.jpg\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "beam_job.captioning.caption_shards.load_captioner",
        lambda _, decoding, *__: FakeCaptioner(num_captions=decoding.num_captions),
    )
    storage._storage.cache_clear()
    client = gcs.Client()
    client.create_bucket("bucket")
    yield tmp_path
    client.bucket("bucket").delete(force=True)
    client.close()
    storage._storage("gs")._client.close()
    storage._storage.cache_clear()


def examples(capfd: pytest.CaptureFixture[str], *command: str) -> list[str]:
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--help"])
    assert stopped.value.code == 0
    return [example for example, _ in _EXAMPLE.findall(capfd.readouterr().out)]


def rows(folder: str) -> dict[str, dict]:
    """The newest row of each image, by file name; runs differ in their columns."""
    tables = [pq.read_table(path, partitioning=None) for path in sorted(Path(folder).rglob("*.parquet"))]
    return {Path(row["uri"]).name: row for table in tables for row in table.to_pylist()}


def test_each_example_does_what_it_says(desk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In their order, as by a user who tries them all."""
    first, globbed, listed, *commands = examples(capfd)
    assert main(shlex.split(first)[1:]) == 0
    assert rows("captions/captions").keys() == {"chelsea.png", "flower.jpg", "china.jpg"}
    assert main(shlex.split(globbed)[1:]) == 0
    several = [row for row in rows("captions/captions").values() if len(row.get("captions") or ()) == 3]
    assert {Path(row["uri"]).suffix for row in several} == {".jpg"}
    assert main(shlex.split(listed)[1:]) == 0
    assert any(blob.name.endswith(".parquet") for blob in gcs.Client().list_blobs("bucket", prefix="captions/captions"))

    row = rows("captions/captions")["china.jpg"]
    said = {"uri": row["uri"], "object_version": row["object_version"], "caption": "a hall under a blue sky"}
    Path("corrections.jsonl").write_text(json.dumps(said))
    names = [shlex.split(command)[1] for command in commands]
    assert names == ["status", "snapshot", "export", "review", "correct", "demo"]
    capfd.readouterr()
    told = {}
    for name, command in zip(names, commands, strict=True):
        assert main(shlex.split(command)[1:]) == 0
        told[name] = capfd.readouterr().out
    assert "3 captions" in told["status"]
    assert rows("newest/data").keys() == {"chelsea.png", "flower.jpg", "china.jpg"}
    assert len(list(Path("set").rglob("*.png"))) == 1
    assert len(list(Path("set").rglob("*.jpg"))) == 2
    assert "1 correction added" in told["correct"]
    assert "chelsea.png" in told["demo"]

    exports = examples(capfd, "export")
    for export in exports:
        assert main(shlex.split(export)[1:]) == 0
    assert list(Path("shards").glob("*.tar"))
    assert Path("texts/china.txt").read_text() == "a hall under a blue sky\n"
    assert Path("texts/flower.txt").read_text() != Path("texts/china.txt").read_text()
    assert [row["text"] for row in rows("edited").values()] == ["a hall under a blue sky"]
