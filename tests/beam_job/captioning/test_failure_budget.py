"""A run that fails stops early, says why, and records nothing that is not so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from PIL import Image

from beam_job.captioning import budgets as budget
from beam_job.captioning.budgets import FailureBudget, FailureBudgetError
from beam_job.captioning.engine import Engine
from beam_job.captioning.progress_file import ProgressFile
from beam_job.cli.command import main
from beam_job.config import JobConfig
from beam_job.loading.images import fetch
from beam_job.planning.plan import Shard
from beam_job.planning.run import Run
from beam_job.records import Failure, ImageInput
from beam_job.storage import HOSTS
from tests.fakes import FakeCaptioner
from tests.fault_server import FaultServer, Step, ok, serve, status
from tests.images import encode, halves
from tests.leases import is_released

GOOD = ok(encode(halves("red", "blue"), "PNG"))
FINE = None
GONE = Failure("x.jpg", "fetch", "NotFound", "x.jpg: 404 Not Found", transient=False)
MISSING = Failure("x.jpg", "fetch", "FileNotFoundError", "x.jpg: No such file", True)
BROKEN = Failure("x.jpg", "decode", "ImageError", "this JPEG cannot be decoded", transient=False)
DOWN = Failure("x.jpg", "fetch", "ServiceUnavailable", "x.jpg: 503 Service Unavailable", transient=True)


@pytest.mark.parametrize(
    ("outcomes", "max_ratio", "message"),
    [
        pytest.param([GONE] * 199, 0.5, None, id="too little evidence"),
        pytest.param([GONE] * 200, 0.5, "all of the first 200 images failed", id="nothing succeeds"),
        pytest.param([GONE, DOWN] * 100, 0.5, "all of the first 200 images failed", id="for whatever reasons"),
        pytest.param([FINE] + [GONE] * 400, 0.5, None, id="many have gone"),
        pytest.param([BROKEN] * 500, 0.5, None, id="a folder of bad images"),
        pytest.param([BROKEN] * 501, 0.5, "501 of 1,000 images failed, more than", id="too many bad images"),
        pytest.param([FINE] + [DOWN] * 200, 0.5, "200 images in a row failed", id="a server goes down"),
        pytest.param([FINE] + [*[DOWN] * 199, FINE] * 2, 0.5, None, id="a server comes back"),
        pytest.param([FINE] + [*[DOWN] * 199, GONE] * 2, 0.5, None, id="a server that says no is up"),
        pytest.param([FINE] + [MISSING] * 400, 0.5, None, id="many are missing"),
        pytest.param([FINE] + [GONE] * 501, 0.5, "501 of 1,000 images failed, more than", id="beyond mending"),
        pytest.param([FINE] + [GONE] * 200, 0.0, "200 of 1,000 images failed, more than", id="none allowed"),
        pytest.param([DOWN] * 1000, 1.0, None, id="turned off"),
    ],
)
def test_when_to_stop(outcomes: list[Failure | None], max_ratio: float, message: str | None) -> None:
    counted = FailureBudget(max_ratio, inputs=1000)
    for outcome in outcomes[:-1]:
        counted.add(outcome)
    if message is None:
        counted.add(outcomes[-1])
        return
    with pytest.raises(FailureBudgetError, match=message) as caught:
        counted.add(outcomes[-1])
    assert outcomes[-1] is not None
    assert outcomes[-1].error_message in str(caught.value)
    assert "--max_failure_ratio=1" in str(caught.value)


def test_an_image_that_waits_to_be_decoded_counts_as_fetched() -> None:
    counted = FailureBudget(0.5, inputs=1000)
    counted.count_fetched()
    for _ in range(400):
        counted.add(GONE)


def test_a_model_that_captions_nothing() -> None:
    """Images that wait for their captions count as fine until the model fails on them."""
    counted = FailureBudget(0.5, inputs=1000)
    for _ in range(200):
        counted.add(FINE)
    for _ in range(199):
        counted.revoke(GONE)
    with pytest.raises(FailureBudgetError, match="all of the first 200 images failed"):
        counted.revoke(GONE)


@pytest.fixture(autouse=True)
def _fake_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beam_job.captioning.caption_shards.load_captioner", lambda *_: FakeCaptioner())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve() as faults:
        yield faults


def rows(output: Path, table: str) -> list[str]:
    if not (output / table).exists():
        return []
    return sorted(ds.dataset(output / table).to_table(["uri"])["uri"].to_pylist())


def test_a_list_of_a_bucket_that_has_gone(bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    """Nothing is written, so that nothing counts as failed for good when the bucket is back."""
    monkeypatch.setattr(budget, "EVIDENCE", 10)
    uris = [f"gs://gone-{bucket.name}/{number}.jpg" for number in range(15)]
    (tmp_path / "uris.txt").write_text("\n".join(uris))
    arguments = [f"--input={tmp_path}/uris.txt", f"--output={tmp_path}/out"]
    arguments += [f"--allow_buckets=gs://gone-{bucket.name}"]
    assert main(arguments) == 1
    *_, last = capfd.readouterr().err.splitlines()
    assert "all of the first 10 images failed, the last one at fetch: gs://gone-" in last
    assert "repeat the command to resume" in last
    assert rows(tmp_path / "out", "failures") == rows(tmp_path / "out", "captions") == []
    assert is_released(tmp_path / "out")
    assert main([*arguments, "--max_failure_ratio=1"]) == 0
    assert rows(tmp_path / "out", "failures") == sorted(uris)


def urls_of_photographs(server: FaultServer, folder: Path, broken: Step) -> tuple[list[str], list[str]]:
    """URIs of 40 photographs, the last 20 of which get `broken`, and the arguments that caption them."""
    uris = [f"{server.address}/{number:02d}.png" for number in range(40)]
    for number in range(40):
        server.script(f"{number:02d}.png", GOOD if number < 20 else broken)
    (folder / "uris.txt").write_text("\n".join(uris))
    arguments = [f"--input={folder}/uris.txt", f"--output={folder}/out", "--shard_size=20", "--batch_size=2"]
    return uris, [*arguments, "--fetch_threads=1", "--allow_schemes=http", "--allow_private_addresses"]


def test_a_server_that_goes_down_and_comes_back(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    monkeypatch.setattr(budget, "EVIDENCE", 10)
    uris, arguments = urls_of_photographs(server, tmp_path, status(500))
    assert main([*arguments, "--fetch_timeout=0.1"]) == 1
    printed = capfd.readouterr().err
    assert "Traceback" not in printed
    assert "10 images in a row failed, the last one at fetch: http://127.0.0.1" in printed.splitlines()[-1]
    assert rows(tmp_path / "out", "captions") in ([], uris[:20])  # the stop may come before the first shard is decoded
    assert rows(tmp_path / "out", "failures") == []
    for number in range(20, 40):
        server.script(f"{number}.png", GOOD)
    assert main(arguments) == 0
    assert "resuming run" in capfd.readouterr().err
    assert rows(tmp_path / "out", "captions") == uris
    assert rows(tmp_path / "out", "failures") == []


def test_a_server_that_asks_for_a_long_pause_is_asked_again_the_next_night(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = status(503, {"Retry-After": "86400"})
    uris, arguments = urls_of_photographs(server, tmp_path, busy)
    assert main(arguments) == 0
    assert rows(tmp_path / "out", "captions") == uris[:20]
    assert rows(tmp_path / "out", "failures") == uris[20:]
    assert len(server.asked) == 21  # it is left alone after its first refusal
    monkeypatch.setattr(HOSTS, "_hosts", {})  # as in a process of its own
    for number in range(20, 40):
        server.script(f"{number}.png", GOOD)
    assert main(arguments) == 0
    assert rows(tmp_path / "out", "captions") == uris


def grey(folder: Path, count: int) -> Shard:
    images = []
    for brightness in range(count):
        path = folder / f"{brightness}.png"
        Image.new("RGB", (30, 20), (brightness,) * 3).save(path)
        images.append(ImageInput(str(path), size=path.stat().st_size))
    return Shard(images, pa.table({"place": range(count)}))


def test_who_waits_hears_of_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The images hang in the loader, all its room is taken, and a runner's thread waits for the shard."""
    hanging, going_on = threading.Event(), threading.Event()

    def hang(image: ImageInput, *limits: object) -> object:
        hanging.set()
        assert going_on.wait(60)
        return fetch(image, *limits)  # type: ignore[arg-type]

    monkeypatch.setattr("beam_job.loading.thread_loader.fetch", hang)
    config = JobConfig((str(tmp_path),), str(tmp_path / "out"), in_flight_bytes=1000)
    failures = FailureBudget(config.max_failure_ratio, 100)
    engine = Engine(config, Run(config.output, "r1"), FakeCaptioner(), 8, 2, ProgressFile(None), failures)
    shard = grey(tmp_path, 30)
    future = engine.submit(0, shard)
    heard: list[BaseException | None] = []
    waiting = threading.Thread(target=lambda: heard.append(future.exception(timeout=60)))
    waiting.start()
    assert hanging.wait(60)
    assert not future.done()
    engine.fail(RuntimeError("no more"))
    waiting.join(60)
    assert [str(error) for error in heard] == ["no more"]
    with pytest.raises(RuntimeError, match="no more"):
        engine.submit(1, shard).result(timeout=60)
    going_on.set()
    engine.close()
    assert not (tmp_path / "out").exists()
