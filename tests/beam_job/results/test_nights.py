"""What an operator sees in a week of nights: failures, deletions, another run, a resumed one."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pytest
from PIL import Image

from beam_job.cli.command import main
from beam_job.planning.lease import lease
from beam_job.results.missing import find_obsolete
from tests.images import encode
from tests.outputs import add_run
from tests.reviewed import Captioner


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three photographs, a file that is none, and a link that leads nowhere yet."""
    monkeypatch.setattr("beam_job.captioning.caption_shards.load_captioner", lambda *_: Captioner())
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        write(folder / f"{number}.png", 50 + number)
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "later.png").symlink_to(folder / "later.data")
    return folder


def write(path: Path, brightness: int) -> None:
    path.write_bytes(encode(Image.new("RGB", (9, 9), (brightness,) * 3), "PNG"))


def caption(photos: Path, *options: str) -> int:
    return main(
        [f"--input={photos}", f"--output={photos.parent / 'out'}", "--no_report", "--max_failure_ratio=1", *options]
    )


def status(tmp_path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    capsys.readouterr()
    assert main(["status", f"--output={tmp_path}/out", *options]) == 0
    return capsys.readouterr().out


def test_done_failed_and_tried_again_are_told_apart(photos: Path, tmp_path: Path, capsys) -> None:
    assert caption(photos) == 0
    write(photos / "later.data", 90)
    text = status(tmp_path, capsys)
    assert "1 x decode: ImageError (retried when its content changes), such as " in text
    assert "1 x fetch: FileNotFoundError (retried by the next run), such as " in text
    assert (
        "would caption 1 image (1 of them retried after a failure) and skip 3 images already done, 1 failed for good"
        in text
    )
    assert caption(photos) == 0
    error = capsys.readouterr().err
    assert (
        "1 image in 1 shard, 1 of them retried after a failure, 3 images already done, 1 failed for good (--retry=all"
        in error
    )
    assert caption(photos) == 0
    assert "nothing to do: 4 images already done, 1 failed for good" in capsys.readouterr().err


def test_json_logs_have_the_counts_of_a_night_without_work(photos: Path, capsys) -> None:
    caption(photos, "--retry=none")
    capsys.readouterr()
    assert caption(photos, "--retry=none", "--log_format=json") == 0
    [entry] = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert entry["severity"] == "INFO"
    assert (entry["inputs"], entry["skipped"], entry["failed_before"]) == (0, 5, 2)


def test_status_as_json(photos: Path, tmp_path: Path, capsys) -> None:
    caption(photos, "--beam_width=2")
    (photos / "0.png").unlink()
    report: dict[str, Any] = json.loads(status(tmp_path, capsys, "--json"))
    assert (report["captions"], report["failures"]) == (3, 2)
    assert report["missing"] == [f"{photos}/0.png"]
    [run] = report["runs"]
    assert (run["state"], run["decoding"]["beam_width"]) == ("done", 2)
    assert {kind["error_type"] for kind in report["kinds"]} == {"ImageError", "FileNotFoundError"}
    assert (report["new"]["images"], report["new"]["skipped"]) == (1, 3)


def test_status_while_it_runs(tmp_path: Path, capsys) -> None:
    run = add_run(f"{tmp_path}/out", 1, {"a.jpg": "a dog"})
    with lease(f"{tmp_path}/out"):
        assert f"{run.run_id}  running, " in status(tmp_path, capsys, "--no_listing")
    assert f"{run.run_id}  not finished, " in status(tmp_path, capsys, "--no_listing")


def test_an_output_in_use_is_3(photos: Path, tmp_path: Path, capsys) -> None:
    with lease(f"{tmp_path}/out"):
        assert caption(photos) == 3
    assert "another run is writing to this output" in capsys.readouterr().err


def test_a_failure_is_over_when_its_file_is_gone(photos: Path, tmp_path: Path, capsys) -> None:
    assert caption(photos) == 0
    assert f"such as {photos}/broken.png: not an image" in capsys.readouterr().err
    assert f"such as {photos}/broken.png: not an image" in status(tmp_path, capsys)
    (photos / "broken.png").unlink()
    text = status(tmp_path, capsys)
    assert "ImageError" not in text
    assert "1 x files that no longer exist, or folders that can be read again" in text
    assert "1 x fetch: FileNotFoundError" in text  # the link is there
    assert json.loads(status(tmp_path, capsys, "--json"))["obsolete"] == 1


def test_a_folder_that_can_be_read_again_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "readable").mkdir()
    (tmp_path / "a.jpg").touch()
    folders = [(f"{tmp_path}/{name}", "UnreadableFolder") for name in ("readable", "gone")]
    files = [(f"{tmp_path}/{name}", "ImageError") for name in ("a.jpg", "b.jpg")]
    never = [(f"{tmp_path}/c.jpg", "FileNotFoundError")]  # a list may name it again
    over = find_obsolete(str(tmp_path / "out"), [*folders, *files, *never])
    assert over == {f"{tmp_path}/{name}" for name in ("readable", "gone", "b.jpg")}


def test_status_says_what_captioned_where_it_changes(photos: Path, tmp_path: Path, capsys) -> None:
    assert caption(photos) == 0
    write(photos / "4.png", 4)
    assert caption(photos) == 0
    first, second = [line for line in status(tmp_path, capsys).splitlines() if "  done, " in line]
    assert "model " in first
    assert "model " not in second
    assert "1 caption, 1 failure, 3 already done, 1 failed for good before" in second


class TestDeletedPhotographs:
    @pytest.fixture(autouse=True)
    def nights(self, photos: Path, tmp_path: Path, capsys) -> None:
        assert caption(photos) == 0
        (photos / "0.png").unlink()
        assert caption(photos) == 0
        capsys.readouterr()

    def test_status_names_them(self, tmp_path: Path, capsys) -> None:
        text = status(tmp_path, capsys)
        assert "current: 3 captions, 2 failures" in text
        assert f"no longer exist: 1 captioned image\n  {tmp_path}/photos/0.png" in text

    def test_export_leaves_them_out(self, tmp_path: Path, capsys) -> None:
        assert main(["export", f"--output={tmp_path}/out", "--format=hf", f"--to={tmp_path}/set"]) == 0
        assert "1 caption of images that no longer exist left out" in capsys.readouterr().out
        assert sorted(path.name[:2] for path in (tmp_path / "set").rglob("*.png")) == ["1-", "2-"]
        assert not list(tmp_path.glob("set.left_out*"))

    @pytest.mark.parametrize(("missing", "rows"), [("skip", 2), ("keep", 3)])
    def test_snapshot(self, missing: str, rows: int, photos: Path, tmp_path: Path) -> None:
        (photos / "broken.png").unlink()
        assert main(["snapshot", f"--output={tmp_path}/out", f"--to={tmp_path}/new", f"--missing={missing}"]) == 0
        assert duckdb.sql(f"select count(*) from '{tmp_path}/new/data/*.parquet'").fetchall() == [(rows,)]
        failures = duckdb.sql(f"select uri from '{tmp_path}/new/failures/*.parquet' order by uri").fetchall()
        assert [Path(uri).name for (uri,) in failures] == ["broken.png", "later.png"][missing == "skip" :]

    @pytest.mark.parametrize("command", [["snapshot"], ["export", "--format=csv"]], ids=lambda command: command[0])
    def test_fail(self, command: list[str], tmp_path: Path, capsys) -> None:
        assert main([*command, f"--output={tmp_path}/out", f"--to={tmp_path}/new", "--missing=fail"]) == 1
        assert "nothing was written: 1 caption of images that no longer exist, such as " in capsys.readouterr().err
        assert not (tmp_path / "new").exists()

    def test_a_disk_that_is_not_there_is_no_deletion(self, photos: Path, tmp_path: Path, capsys) -> None:
        shutil.rmtree(photos)
        assert main(["export", f"--output={tmp_path}/out", "--format=hf", f"--to={tmp_path}/set"]) == 1
        assert "is their disk mounted?" in capsys.readouterr().err


def test_corrections_that_no_longer_apply(photos: Path, tmp_path: Path, capsys) -> None:
    caption(photos)
    [(uri, version)] = duckdb.sql(
        f"select uri, object_version from '{tmp_path}/out/captions/*/*.parquet' where uri like '%/1.png'"
    ).fetchall()
    (tmp_path / "c.jsonl").write_text(json.dumps({"uri": uri, "object_version": version, "bad": True}))
    main(["correct", f"--output={tmp_path}/out", f"{tmp_path}/c.jsonl"])
    text = status(tmp_path, capsys)
    assert "current: 3 captions (0 edited, 1 marked bad), 2 failures" in text
    assert "no longer apply" not in text
    write(photos / "1.png", 99)
    assert caption(photos) == 0
    assert "corrections of 1 image no longer apply" in capsys.readouterr().err
    assert f"corrections that no longer apply, since the image has changed: 1\n  {uri}" in status(tmp_path, capsys)
    write(photos / "4.png", 4)
    assert caption(photos) == 0
    assert "no longer apply" not in capsys.readouterr().err  # this run made none useless


def test_another_shard_size_is_ignored_when_a_run_is_resumed(
    photos: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("beam_job.captioning.open_shard.OpenShard.commit", lambda *_: 1 / 0)
        assert caption(photos, "--shard_size=2") == 1
    capsys.readouterr()
    with caplog.at_level(logging.INFO):
        assert caption(photos, "--shard_size=5") == 0
    assert "--shard_size=5 is ignored: the resumed run was planned with 3 shards" in capsys.readouterr().err


def test_a_night_whose_only_new_image_is_broken_succeeds(photos: Path, tmp_path: Path) -> None:
    assert caption(photos) == 0
    (photos / "half.png").write_bytes(b"no image either")
    assert caption(photos, "--max_failure_ratio=0.5", "--retry=none") == 0
    (photos / "lost.png").symlink_to(photos / "nowhere")
    assert caption(photos, "--max_failure_ratio=0.5", "--retry=none") == 1  # something can be done about it
    assert caption(photos, "--max_failure_ratio=0.5") == 0  # and it has been reported once


def test_an_output_within_the_input_is_no_input(photos: Path, tmp_path: Path, capsys) -> None:
    out = photos / "out"
    arguments = [f"--output={out}", "--max_failure_ratio=1"]
    for given in (photos, f"{photos}/**"):
        assert main([f"--input={given}", *arguments, "--retry=none"]) == 0
        planned = {run: json.loads(run.read_text())["inputs"] for run in sorted(out.glob("runs/*/run.json"))}
        assert list(planned.values()) == [5]
    assert "lists" not in capsys.readouterr().err
    for path in photos.glob("*.*"):
        path.unlink()
    assert main([f"--input={photos}", *arguments]) == 0  # its own captions are no lists of images
    assert f"{photos} holds no images (only " in capsys.readouterr().err
