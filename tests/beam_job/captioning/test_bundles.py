"""Bundles in a bucket: fetched once, checked, shared by processes, and known again when they have changed."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from beam_job.captioning.bundles import local_bundle
from beam_job.captioning.captioners import bundle_of_run
from beam_job.cli.command import main
from beam_job.config import JobConfig
from model import DEFAULT_BUNDLE, BundleError, check_bundle
from model.bundle import CHECKED, CHECKSUMS
from tests.bundles import reseal
from tests.outputs import table


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where fetched bundles lie."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "caption-images" / "bundles"


@pytest.fixture
def remote(bucket, tiny_bundle: Path) -> str:
    upload(bucket, tiny_bundle)
    return f"gs://{bucket.name}/models/tiny"


def upload(bucket, folder: Path) -> None:
    for path in folder.iterdir():
        bucket.blob(f"models/tiny/{path.name}").upload_from_filename(str(path))


def another(bundle: Path, folder: Path) -> Path:
    """The same bundle with other words."""
    shutil.copytree(bundle, folder)
    words = (folder / "vocabulary.txt").read_text()
    (folder / "vocabulary.txt").write_text(words.replace("dog", "wolf"))
    reseal(folder)
    return folder


def test_local_ones_stay_where_they_are(tmp_path: Path) -> None:
    assert local_bundle(None) == DEFAULT_BUNDLE
    assert local_bundle("some/folder") == Path("some/folder")
    assert local_bundle(f"file://{tmp_path}") == tmp_path


def test_it_is_fetched_once_and_known_again_when_it_has_changed(
    remote: str, bucket, tiny_bundle: Path, tmp_path: Path, cache: Path
) -> None:
    folder = local_bundle(remote)
    assert folder.parent == cache
    assert check_bundle(folder) == check_bundle(tiny_bundle)
    bucket.blob("models/tiny/weights.safetensors").delete()  # nobody asks for it again
    assert local_bundle(remote + "/") == folder
    upload(bucket, another(tiny_bundle, tmp_path / "other"))
    assert check_bundle(local_bundle(remote)) == check_bundle(tmp_path / "other") != check_bundle(folder)
    assert len(list(cache.iterdir())) == 2


def test_many_at_once_get_whole_ones_and_leave_nothing_behind(remote: str, tiny_bundle: Path, cache: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        folders = list(threads.map(lambda _: local_bundle(remote), range(8)))
    assert list(cache.iterdir()) == [folders[0]]
    assert {check_bundle(folder) for folder in folders} == {check_bundle(tiny_bundle)}


def test_a_damaged_copy_is_fetched_again(remote: str, tiny_bundle: Path, cache: Path) -> None:
    folder = local_bundle(remote)
    (folder / "vocabulary.txt").write_text("damaged")
    assert local_bundle(remote) == folder
    assert check_bundle(folder) == check_bundle(tiny_bundle)
    assert list(cache.iterdir()) == [folder]


def test_what_nobody_uses_for_a_month_is_removed(remote: str, bucket, tiny_bundle: Path, tmp_path: Path) -> None:
    old = local_bundle(remote)
    os.utime(old, (0, 0))
    upload(bucket, another(tiny_bundle, tmp_path / "other"))
    new = local_bundle(remote)
    assert list(old.parent.iterdir()) == [new]


def test_a_worker_that_finds_another_bundle_refuses(
    remote: str, bucket, tiny_bundle: Path, tmp_path: Path, cache: Path
) -> None:
    config = JobConfig(("photos",), "out", model=remote)
    version = check_bundle(tiny_bundle)
    assert check_bundle(bundle_of_run(config, version)) == version
    upload(bucket, another(tiny_bundle, tmp_path / "other"))
    with pytest.raises(BundleError, match=f"the model at {remote} has changed since the run began: it was {version}"):
        bundle_of_run(config, version)


@pytest.mark.parametrize(
    ("break_it", "model", "message"),
    [
        pytest.param(None, "gs://no-such-bucket/tiny", "no model at gs://no-such-bucket/tiny: gs://", id="bucket"),
        pytest.param(CHECKSUMS, "{remote}", "/tiny/SHA256SUMS: 404", id="checksums"),
        pytest.param(CHECKED[0], "{remote}", "/tiny/config.json: 404", id="file"),
        pytest.param("harm", "{remote}", "/tiny is damaged: vocabulary.txt differs from its checksum", id="harmed"),
        pytest.param(None, "ftp://host/tiny", "unknown scheme ftp://", id="scheme"),
        pytest.param("no cache", "{remote}", "cannot be kept on this machine: ", id="cache"),
    ],
)
def test_what_is_no_bundle_is_refused(
    break_it: str | None,
    model: str,
    message: str,
    remote: str,
    bucket,
    tmp_path: Path,
    cache: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if break_it == "harm":
        bucket.blob("models/tiny/vocabulary.txt").upload_from_string("<pad>\n")
    elif break_it == "no cache":
        (tmp_path / "cache").write_text("a file")
    elif break_it:
        bucket.blob(f"models/tiny/{break_it}").delete()
    arguments = [f"--input={tmp_path}", f"--output={tmp_path}/out", f"--model={model.format(remote=remote)}"]
    assert main(arguments) == 2
    error = capfd.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert not cache.exists() or list(cache.iterdir()) == []


def test_the_job_captions_with_it(remote: str, tiny_bundle: Path, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "photos").mkdir()
    for brightness in (10, 20):
        Image.new("L", (8, 8), brightness).save(tmp_path / "photos" / f"{brightness}.png")
    options = [f"--model={remote}", "--engine=tensorflow"]
    assert main([f"--input={tmp_path}/photos", f"--output={tmp_path}/out", *options]) == 0
    rows = table(tmp_path / "out", "captions")
    assert [row["model_version"] for row in rows] == 2 * [check_bundle(tiny_bundle)]
    assert len(list(cache.iterdir())) == 1
