"""An outage of the place that images come from leaves no failures behind: the run stops, and the next one resumes."""

from __future__ import annotations

from pathlib import Path

import pyarrow.dataset as ds
import pytest
from PIL import Image

from beam_job.captioning.budgets import FailureBudget
from beam_job.captioning.engine import Engine
from beam_job.captioning.input_check import InputGoneError, check_roots
from beam_job.captioning.progress_file import ProgressFile
from beam_job.cli.command import main
from beam_job.config import JobConfig
from beam_job.planning.run import Run
from beam_job.storage import Allowed
from tests.engine_runs import grey, shard_of
from tests.fakes import FakeCaptioner


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A disk with 60 photographs; `away` is where it is when it is not mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    for brightness in range(60):
        Image.new("L", (8, 8), brightness).save(folder / f"{brightness:02d}.png")
    return folder


class Unmounting(FakeCaptioner):
    """The disk goes with the third batch."""

    def __init__(self, disk: Path, leave_folder: bool) -> None:
        super().__init__()
        self.disk, self.leave_folder = disk, leave_folder
        self.calls = 0

    def caption(self, images):  # type: ignore[no-untyped-def]
        self.calls += 1
        if self.calls == 3:
            self.disk.rename(self.disk.with_name("away"))
            if self.leave_folder:
                self.disk.mkdir()
        return super().caption(images)


def uris(output: Path, table: str) -> list[str]:
    return sorted(ds.dataset(output / table).to_table()["uri"].to_pylist()) if (output / table).exists() else []


@pytest.mark.parametrize("leave_folder", [pytest.param(True, id="empty mount point"), pytest.param(False, id="gone")])
def test_a_disk_that_goes_in_the_middle_of_a_run(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    leave_folder: bool,
) -> None:
    captioner = Unmounting(photos, leave_folder)
    monkeypatch.setattr("beam_job.captioning.caption_shards.load_captioner", lambda *_: captioner)
    arguments = [f"--input={photos}", f"--output={tmp_path}/out", "--shard_size=5"]
    arguments += ["--batch_size=5", "--fetch_threads=1", "--decode_threads=1"]
    assert main(arguments) == 1
    last = capfd.readouterr().err.splitlines()[-1]
    assert f"the folder {photos}" in last
    assert "no image of a shard could be read" in last
    assert all(len(uris(tmp_path / "out", name)) < 60 for name in ("captions", "failures"))

    if leave_folder:
        photos.rmdir()
    photos.with_name("away").rename(photos)
    captioner.calls = 10
    assert main(arguments) == 0
    assert main(arguments) == 0  # what failed when the disk went is tried again, too
    assert sorted(set(uris(tmp_path / "out", "captions"))) == sorted(str(path) for path in photos.iterdir())


def test_a_disk_that_comes_back_at_once_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All images of a shard are missing, and there again when the shard is looked at a second time."""
    images = [grey(tmp_path, brightness) for brightness in range(10, 15)]
    for image in images:
        Path(image.uri).rename(image.uri + ".away")
    asked: list[str] = []

    def come_back(uris, allowed) -> None:  # type: ignore[no-untyped-def]
        asked.extend(uris)
        for image in images:
            Path(image.uri + ".away").rename(image.uri)

    monkeypatch.setattr("beam_job.captioning.engine.check_roots", come_back)
    config = JobConfig((str(tmp_path),), str(tmp_path / "out"))
    failures = FailureBudget(config.max_failure_ratio, len(images))
    engine = Engine(config, Run(config.output, "r1"), FakeCaptioner(), 8, 2, ProgressFile(None), failures)
    future = engine.submit(0, shard_of(*images))
    engine.close()
    report = future.result(timeout=60).report
    assert (report.captions, report.failures) == (5, ())
    assert asked == [image.uri for image in images]


def test_files_that_were_deleted_are_failures_where_the_folder_is_there(tmp_path: Path) -> None:
    from beam_job.records import ImageInput

    (tmp_path / "other.txt").write_text("here")
    config = JobConfig((str(tmp_path),), str(tmp_path / "out"))
    engine = Engine(
        config, Run(config.output, "r1"), FakeCaptioner(), 8, 2, ProgressFile(None), FailureBudget(0.5, 1000)
    )
    future = engine.submit(0, shard_of(*(ImageInput(str(tmp_path / f"{number}.jpg")) for number in range(3))))
    engine.close()
    report = future.result(timeout=60).report
    assert report.captions == 0
    assert {(failure.error_type, failure.retry_when) for failure in report.failures} == {("FileNotFoundError", "later")}


def test_a_deleted_bucket(gcs_server) -> None:  # type: ignore[no-untyped-def]
    gcs_server.put("photos/1.jpg", b"x")
    allowed = Allowed(("gs",), (), ("gs://bucket", "gs://gone"))
    check_roots(["gs://bucket/photos/2.jpg"], allowed)
    with pytest.raises(InputGoneError, match="gs://gone"):
        check_roots(["gs://bucket/photos/2.jpg", "gs://gone/x.jpg"], allowed)


def test_a_single_image_that_is_gone_asks_for_its_folder(tmp_path: Path) -> None:
    (tmp_path / "b.jpg").write_bytes(b"x")
    check_roots([str(tmp_path / "a.jpg")], Allowed(("file",), (str(tmp_path / "a.jpg"),)))
    with pytest.raises(InputGoneError, match="no-such-folder"):
        check_roots(
            [str(tmp_path / "no-such-folder" / "a.jpg")], Allowed(("file",), (str(tmp_path / "no-such-folder"),))
        )
