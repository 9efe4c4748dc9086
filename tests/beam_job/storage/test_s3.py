"""S3 as the output: files that are created once, whoever asks, and a run from its lease to its summary."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beam_job.cli.command import main
from beam_job.planning.damage import is_missing
from beam_job.planning.lease import LeaseLostError, lease
from beam_job.storage import StorageError, storage_for
from beam_job.storage.s3 import S3Storage

WRITER = """
import sys
from beam_job.storage import storage_for
folder, name = sys.argv[1:]
storage = storage_for(folder)
sys.stdin.readline()  # both begin at the same time
print(*(int(storage.create(f"{folder}/{number}", name.encode())) for number in range(20)))
"""
CAPTIONER = """
from model import Caption

class Gray:
    version, input_size = "gray-1", 8

    def caption(self, images):
        return [[Caption(f"gray {round(float(image.mean()))}", -1.0)] for image in images]

def make(model, decoding):
    return Gray()
"""


@pytest.fixture
def bucket(s3_server: str) -> str:
    """A new bucket."""
    name = f"output-{uuid.uuid4().hex[:8]}"
    S3Storage()._fs.mkdir(name)
    return f"s3://{name}"


def test_a_file_is_created_once(bucket: str) -> None:
    storage = storage_for(bucket)
    assert storage.create(f"{bucket}/a/b", b"first")
    assert storage.create(f"{bucket}/a/b", b"first")  # the answer may have been lost
    assert not storage.create(f"{bucket}/a/b", b"second")
    assert storage.read(f"{bucket}/a/b")[0] == b"first"
    storage.write(f"{bucket}/a/b", b"third")
    assert storage.read(f"{bucket}/a/b")[0] == b"third"
    assert [stored.uri for stored in storage.list(bucket)] == [f"{bucket}/a/b"]


def test_a_deleted_file_is_gone(bucket: str) -> None:
    storage = storage_for(bucket)
    storage.write(f"{bucket}/a", b"")
    storage.delete(f"{bucket}/a")
    assert not storage.exists(f"{bucket}/a")
    with pytest.raises(StorageError) as missing:
        storage.delete(f"{bucket}/a")
    assert is_missing(missing.value)


def test_of_two_writers_one_creates_each_file(bucket: str) -> None:
    command = [sys.executable, "-c", WRITER, f"{bucket}/race"]
    writers = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    for writer in writers:
        assert writer.stdin
        writer.stdin.write("go\n")
        writer.stdin.flush()
    won = {name: writer.communicate()[0].split() for name, writer in zip(("one", "two"), writers, strict=True)}
    for number in range(20):
        [winner] = [name for name in won if won[name][number] == "1"]
        assert storage_for(bucket).read(f"{bucket}/race/{number}")[0] == winner.encode()


def test_a_server_that_overwrites_in_spite_of_the_condition_is_refused(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = S3Storage()
    call = storage._fs.call_s3

    def ignoring(method: str, IfNoneMatch: str = "", **arguments: Any) -> Any:
        return call(method, **arguments)

    storage.write(f"{bucket}/theirs", b"theirs")
    monkeypatch.setattr(storage._fs, "call_s3", ignoring)
    with pytest.raises(StorageError, match="ignores the condition `If-None-Match"):
        storage.create(f"{bucket}/theirs", b"ours")
    assert storage.read(f"{bucket}/theirs")[0] == b"theirs"
    assert [stored.uri for stored in storage.list(bucket)] == [f"{bucket}/theirs"]


def test_a_run_into_a_bucket_and_a_second_one_at_the_same_time(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gray_captioner.py").write_text(CAPTIONER)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "photos").mkdir()
    for number in range(6):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(tmp_path / "photos" / f"{number}.png")
    job = [f"--input={tmp_path}/photos", f"--output={bucket}/out", "--captioner=gray_captioner:make", "--shard_size=2"]
    with lease(f"{bucket}/out"):
        assert main(job) == 3
    assert main(job) == 0
    parts = [stored.uri for stored in storage_for(bucket).list(f"{bucket}/out/captions")]
    rows = pa.concat_tables(pq.read_table(pa.BufferReader(storage_for(uri).read(uri)[0])) for uri in parts).to_pylist()
    assert {Path(row["uri"]).stem: row["caption"] for row in rows} == {str(n): f"gray {n}" for n in range(6)}
    assert len(rows) == 6
    capfd.readouterr()
    assert main(job) == 0
    assert "nothing to do: 6 images already done" in capfd.readouterr().err


def test_a_holder_that_was_cut_off_loses_the_lease(bucket: str) -> None:
    with lease(f"{bucket}/out") as held:
        later = held._uri(held._number + 1)
        assert storage_for(bucket).create(later, storage_for(bucket).read(held._uri(held._number))[0])
        with pytest.raises(LeaseLostError):
            held.verify()
