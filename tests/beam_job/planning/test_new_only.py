"""Only what is new: nights over changing inputs, killed runs, two runs at once."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from beam_job.cli.command import main
from beam_job.planning.lease import lease
from tests.fakes import with_fake_model
from tests.nights import Nights, fake_captioner


def test_a_second_night_does_what_is_new_or_changed(nights: Nights, capfd: pytest.CaptureFixture[str]) -> None:
    nights.add("a.png", "b.png", "c.png", "d.png")
    assert nights.run() == ["a.png", "b.png", "c.png", "d.png"]
    nights.add("e.png")
    nights.add("b.png", shade=10)
    (nights.photos / "c.png").unlink()
    assert nights.run() == ["b.png", "e.png"]
    runs = len(list((nights.output / "runs").glob("*/run.json")))
    capfd.readouterr()
    assert nights.run() == []
    assert "nothing to do: 4 images already done" in capfd.readouterr().err
    assert len(list((nights.output / "runs").glob("*/run.json"))) == runs


def test_a_night_without_news_does_not_load_tensorflow(nights: Nights) -> None:
    nights.add("a.png")
    nights.run()
    program = (
        "import sys; from beam_job.cli.command import main; code = main(sys.argv[1:]); "
        "print(code, 'keras' in sys.modules)"
    )
    arguments = [f"--input={nights.photos}", f"--output={nights.output}"]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0 False"


def test_neither_order_nor_form_of_the_input_matters(nights: Nights, tmp_path: Path) -> None:
    nights.add("a.png", "b.png", "c.png")
    nights.run()
    (tmp_path / "uris.txt").write_text("".join(f"{nights.photos}/{name}.png\n" for name in "cab"))
    assert nights.run(inputs=tmp_path / "uris.txt") == []
    nights.add("b.png", shade=1)
    assert nights.run(inputs=tmp_path / "uris.txt") == ["b.png"]


def test_another_model_or_decoding_captions_again(nights: Nights, tmp_path: Path) -> None:
    nights.add("a.png")
    nights.run()
    assert nights.run("--decoding=greedy") == ["a.png"]
    assert nights.run("--decoding=greedy") == []
    assert nights.run() == []
    assert nights.run("--recaption") == ["a.png"]


def test_permanent_failures_wait_for_another_file(nights: Nights) -> None:
    (nights.photos / "bad.jpg").write_text("no image")
    nights.add("a.png")
    nights.run()
    assert nights.run("--retry=transient") == nights.run("--retry=none") == []
    assert nights.run("--retry=all") == ["bad.jpg"]
    for retry in ("transient", "none"):
        (nights.photos / "bad.jpg").write_text(f"no image either, {retry}")
        assert nights.run(f"--retry={retry}") == ["bad.jpg"]


def test_transient_failures_are_tried_again(nights: Nights, tmp_path: Path) -> None:
    """A server that does not answer and a missing file may both come back, so each run tries them again."""
    (tmp_path / "uris.txt").write_text(f"http://127.0.0.1:9/x.jpg\n{nights.photos}/late.png\n")
    options = ["--fetch_timeout=0.3", "--allow_schemes=http,https", "--allow_private_addresses"]
    assert nights.run(*options, inputs=tmp_path / "uris.txt") == ["late.png", "x.jpg"]
    assert nights.run(*options, inputs=tmp_path / "uris.txt") == ["late.png", "x.jpg"]
    assert nights.run(*options, "--retry=none", inputs=tmp_path / "uris.txt") == []
    nights.add("late.png")
    assert nights.run(*options, "--retry=none", inputs=tmp_path / "uris.txt") == ["late.png"]


KILL_AFTER_TWO_SHARDS = """
import os, sys
from beam_job.captioning import open_shard
commits = []
commit_shard = open_shard.commit_shard

def commit_and_die(*arguments):
    report = commit_shard(*arguments)
    commits.append(report)
    if len(commits) == 2:
        os.kill(os.getpid(), 9)
    return report

open_shard.commit_shard = commit_and_die
from beam_job.cli.command import main
main(sys.argv[1:])
"""


def test_a_killed_run_is_continued_by_the_same_command(nights: Nights, capfd: pytest.CaptureFixture[str]) -> None:
    nights.add(*(f"{n}.png" for n in range(12)))
    arguments = [f"--input={nights.photos}", f"--output={nights.output}", "--shard_size=3"]
    killed = subprocess.run(
        [sys.executable, "-c", KILL_AFTER_TWO_SHARDS, *arguments, "--max_failure_ratio=1"],
        env=with_fake_model(),
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -9
    assert len(nights.rows()) == 6
    parts = {path: path.stat().st_mtime_ns for path in nights.output.rglob("part-*.parquet")}
    nights.add("added.png")
    assert len(nights.run()) == 6 + 1
    assert "resuming run" in capfd.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in parts} == parts  # not done again
    uris = [uri for uri, _ in nights.rows()]
    assert len(uris) == len(set(uris)) == 12 + 1
    assert len({run for _, run in nights.rows()}) == 2  # one for the images that the first had not planned
    assert nights.run() == []


def test_filters_decide_what_is_captioned(nights: Nights) -> None:
    nights.add("a.png", "b.png", "c.png")
    assert nights.run("--exclude=b.*", "--limit=1") == ["a.png"]
    assert nights.run("--include=?.png") == ["b.png", "c.png"]


def test_filters_that_leave_nothing_are_a_night_without_work(nights: Nights, capfd: pytest.CaptureFixture[str]) -> None:
    nights.add("a.png")
    assert main([f"--input={nights.photos}", f"--output={nights.output}", "--include=*.gif"]) == 0
    error = capfd.readouterr().err
    assert "none of the 1 images listed passes the filters (--include=*.gif)" in error
    assert "nothing to do, model" in error
    assert not nights.output.exists()


def test_a_second_run_at_the_same_time_is_refused(nights: Nights, capfd: pytest.CaptureFixture[str]) -> None:
    nights.add("a.png")
    with lease(str(nights.output)):
        assert main([f"--input={nights.photos}", f"--output={nights.output}"]) == 3
    error = capfd.readouterr().err
    assert f"another run is writing to this output: process {os.getpid()}" in error
    assert nights.run() == ["a.png"]


def test_three_nights_over_a_bucket(bucket, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    """The listing's generations tell what is new: 40 objects; 6 added, 4 overwritten, 3 deleted; nothing."""
    monkeypatch.setattr("beam_job.captioning.caption_shards.load_captioner", fake_captioner)

    def upload(number: int, shade: int) -> None:
        content = io.BytesIO()
        Image.new("RGB", (20, 10), (shade, 60, 30)).save(content, "PNG")
        bucket.blob(f"photos/{number:03d}.png").upload_from_string(content.getvalue())

    def night() -> str:
        root = f"gs://{bucket.name}"
        assert main([f"--input={root}/photos/", f"--output={root}/out", "--shard_size=16"]) == 0
        return capfd.readouterr().err

    for number in range(40):
        upload(number, 90)
    assert "40 captions and 0 failures of 40 images" in night()
    for number in range(40, 46):
        upload(number, 90)
    for number in range(10, 14):
        upload(number, 10)
    for number in range(3):
        bucket.blob(f"photos/{number:03d}.png").delete()
    assert "10 captions and 0 failures of 10 images" in night()
    assert "nothing to do: 43 images already done" in night()
    assert main(["status", f"--output=gs://{bucket.name}/out"]) == 0
    status = capfd.readouterr().out
    assert "current: 46 captions, 0 failures" in status
    assert "would caption 0 images and skip 43 images already done" in status
