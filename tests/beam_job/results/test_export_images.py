"""Which images an export takes, and which it leaves out and names: changed, gone, forbidden, of one name."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from beam_job.cli.command import main
from tests.exported import Job, expected, shade
from tests.fakes import FakeCaptioner
from tests.hostile_names import NAMES
from tests.images import encode

pytestmark = pytest.mark.usefixtures("nothing_escapes")


def test_links_are_to_local_files_and_the_rest_is_copied(job: Job, tmp_path: Path) -> None:
    assert job.export("hf", tmp_path / "hf", "--images=link") == 0
    files = pq.read_table(tmp_path / "hf" / "train" / "metadata.parquet").to_pylist()
    linked = {row["uri"]: (tmp_path / "hf" / "train" / row["file_name"]) for row in files}
    for uri, path in linked.items():
        assert path.is_symlink() == ("#" not in uri)
        assert shade(Image.open(path)) == expected(job)[uri][0]


def test_sidecars_in_the_images_own_folders(job: Job, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ["--images=none", "--suffix=.caption", f"--root={job.photos}"]
    assert job.export("sidecar", tmp_path / "tree", *options) == 1
    files = {str(path.relative_to(tmp_path / "tree")) for path in (tmp_path / "tree").rglob("*") if path.is_file()}
    assert {"a/dog.caption", "b/dog.caption", "猫.caption", "no suffix.caption", "set.tar#in/dog.caption"} <= files
    left_out = [json.loads(line) for line in (tmp_path / "tree.left_out.jsonl").read_text().splitlines()]
    hostile = ("b/../c/dog.png", "=cmd|' /C calc'!A0.png", "two\nlines.png", "<img src=x onerror=alert(1)>.png")
    hostile += ("set.tar#../../../escaped.png", f"{'x' * 240}.png")
    assert {row["uri"] for row in left_out} == {job.uri(name) for name in hostile}
    assert len(files) == len(NAMES) - len(left_out)
    error = capfd.readouterr().err
    assert f"6 images left out; each with its reason in {tmp_path}/tree.left_out.jsonl" in error
    assert "without --root, names are generated" in error


def test_two_images_do_not_share_a_sidecar(own_job: Job, tmp_path: Path, job: Job) -> None:
    photos = tmp_path / "mine"
    photos.mkdir()
    for name in ("dog.png", "dog.gif"):
        Image.new("RGB", (9, 9)).save(photos / name)
    own_job.photos, own_job.output = photos, tmp_path / "mine-out"
    (photos / "list.jsonl").write_text("".join(f'{{"uri": "{photos}/dog.{kind}"}}\n' for kind in ("png", "gif")))
    own_job.run()
    assert own_job.export("sidecar", tmp_path / "tree", f"--root={photos}") == 1
    assert sorted(path.name for path in (tmp_path / "tree").iterdir()) == ["dog.png", "dog.txt"]
    assert "NameTaken" in (tmp_path / "tree.left_out.jsonl").read_text()
    assert own_job.export("sidecar", tmp_path / "flat") == 0
    assert len(list((tmp_path / "flat").iterdir())) == 4


def test_what_has_changed_or_gone_is_left_out_and_told(own_job: Job, tmp_path: Path, capfd) -> None:
    photos = tmp_path / "mine"
    photos.mkdir()
    for name in ("kept.png", "changed.png", "gone.png"):
        Image.new("RGB", (9, 9)).save(photos / name)
    names = ("kept", "changed", "gone")
    (photos / "list.jsonl").write_text("".join(f'{{"uri": "{photos}/{name}.png"}}\n' for name in names))
    own_job.photos, own_job.output = photos, tmp_path / "mine-out"
    own_job.run()
    Image.new("RGB", (10, 10), (200, 0, 0)).save(photos / "changed.png")
    (photos / "gone.png").unlink()
    for images in ("copy", "link", "embed"):
        capfd.readouterr()
        assert own_job.export("hf", tmp_path / images, f"--images={images}") == 1
        out, err = capfd.readouterr()
        assert f"1 caption in {tmp_path}/{images}" in out
        assert "1 x fetch: Changed" in err
        assert "1 caption of images that no longer exist left out" in out
        assert "run the job again, then export" in err
    rows = pq.read_table(tmp_path / "copy" / "train" / "metadata.parquet")["uri"].to_pylist()
    assert rows == [f"{photos}/kept.png"]
    (photos / "kept.png").write_bytes(b"")
    (photos / "changed.png").write_bytes(b"")
    assert own_job.export("webdataset", tmp_path / "none") == 1
    assert "nothing to export" in capfd.readouterr().out
    assert not (tmp_path / "none").exists()


def test_images_are_read_only_where_their_run_could(own_job: Job, tmp_path: Path, capfd) -> None:
    """Somebody who can add rows to an output cannot have files of the machine exported."""
    secret = tmp_path / "secret.png"
    Image.new("RGB", (9, 9)).save(secret)
    [part, *_] = sorted(own_job.output.glob("captions/*/part-00000.parquet"))
    table = pq.read_table(part, partitioning=None)
    uris = [str(secret), *table["uri"].to_pylist()[1:]]
    table = table.set_column(0, "uri", [uris]).set_column(
        table.schema.get_field_index("object_version"), "object_version", [[None] * table.num_rows]
    )
    pq.write_table(table, part)
    for images in ("copy", "link"):
        assert own_job.export("hf", tmp_path / images, f"--images={images}") == 1
        assert "add --allow_root=" in capfd.readouterr().err
        assert not [p for p in (tmp_path / images).rglob("*.png") if "secret" in p.name]
    assert own_job.export("hf", tmp_path / "allowed", f"--allow_root={tmp_path}") == 0
    shutil.rmtree(own_job.output / "runs")  # without its note nothing is known to be allowed
    assert own_job.export("hf", tmp_path / "none") == 1
    assert not (tmp_path / "none").exists()
    roots = [f"--allow_root={tmp_path}", f"--allow_root={own_job.photos}"]
    assert own_job.export("hf", tmp_path / "both", *roots) == 0


def test_a_list_of_what_was_left_out_is_never_overwritten(job: Job, tmp_path: Path, capfd) -> None:
    (tmp_path / "tree.left_out.jsonl").write_text("mine")
    options = ["--images=none", f"--root={job.photos}"]
    for number in (2, 3):
        assert job.export("sidecar", tmp_path / "tree", *options) == 1
        name = f"{tmp_path}/tree.left_out.{number}.jsonl"
        assert f"each with its reason in {name}" in capfd.readouterr().err
        assert len(Path(name).read_text().splitlines()) == 6
        shutil.rmtree(tmp_path / "tree")
    assert (tmp_path / "tree.left_out.jsonl").read_text() == "mine"


def test_images_of_a_bucket(bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    """Each is asked for in the generation of its row; where that is gone, so is the image."""
    monkeypatch.setattr("beam_job.captioning.caption_shards.load_captioner", lambda *_: FakeCaptioner())
    for name in ("a", "b"):
        bucket.blob(f"photos/{name}.png").upload_from_string(encode(Image.new("RGB", (9, 9)), "PNG"))
    root = f"gs://{bucket.name}"
    assert main([f"--input={root}/photos/", f"--output={root}/out"]) == 0
    bucket.blob("photos/b.png").delete()  # the emulator would give the newest generation, whichever is asked for
    export = ["export", f"--output={root}/out", "--format=sidecar", f"--root={root}/photos", f"--to={tmp_path}/x"]
    assert main([*export[:-1], f"--to={tmp_path}/all", "--missing=keep"]) == 1
    assert f"{root}/photos/b.png: 404 Not Found" in capfd.readouterr().err
    assert main(export) == 0
    assert sorted(os.listdir(tmp_path / "x")) == ["a.png", "a.txt"]
    assert main(["export", f"--output={root}/out", "--format=csv", f"--to={root}/x"]) == 2
