"""Exports of images that only the run's plan can find, or that only a list of the user's allows to be read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beam_job.cli.command import main
from tests.images import encode


def run(*options: str) -> None:
    assert main([*options, "--captioner=tests.picture_captioner:make"]) == 0


def picture(shade: int) -> bytes:
    return encode(Image.new("L", (9, 9), shade), "PNG")


@pytest.fixture(scope="module")
def packed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over images inside Parquet, some of which have paths, given by relative names from another folder."""
    tmp_path = tmp_path_factory.mktemp("packed")
    paths = ["x/0.png", "/mnt/gone/1.png", None, "x/0.png"]
    rows = [{"image": {"bytes": picture(50 * at), "path": path}} for at, path in enumerate(paths)]
    (tmp_path / "set").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set" / "0.parquet", row_group_size=3)
    with pytest.MonkeyPatch.context() as there:
        there.chdir(tmp_path / "set")
        run("--input=0.parquet", "--uri_column=image.bytes", f"--output={tmp_path}/out", "--shard_size=2")
    return tmp_path


@pytest.fixture
def packed(packed_once: Path, tmp_path: Path) -> Iterator[Path]:
    """The same, restored after a test that changes it."""
    shutil.copytree(packed_once, tmp_path / "before")
    yield packed_once
    shutil.rmtree(packed_once)
    shutil.copytree(tmp_path / "before", packed_once)


@pytest.mark.parametrize("images", ["copy", "link", "embed"])
def test_images_inside_parquet(packed: Path, images: str) -> None:
    to = packed / "to"
    assert main(["export", f"--output={packed}/out", "--format=hf", f"--to={to}", f"--images={images}"]) == 0
    if images == "embed":
        [file] = to.glob("data/*.parquet")
        table = pq.read_table(file)
        found = dict(zip(table["uri"].to_pylist(), (row["bytes"] for row in table["image"].to_pylist()), strict=True))
    else:
        table = pq.read_table(to / "train" / "metadata.parquet")
        names = zip(table["uri"].to_pylist(), table["file_name"].to_pylist(), strict=True)
        found = {uri: (to / "train" / name).read_bytes() for uri, name in names}
    given = packed / "set" / "0.parquet"
    uris = ["x/0.png", "/mnt/gone/1.png", f"{given}#row=3", f"{given}#row=4"]
    assert found == {uri: picture(50 * at) for at, uri in enumerate(uris)}


def test_a_list_of_images_that_is_gone(packed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["status", f"--output={packed}/out"]) == 0
    assert "no longer exist" not in capfd.readouterr().out
    (packed / "set" / "0.parquet").unlink()
    assert main(["status", f"--output={packed}/out"]) == 0
    assert "no longer exist: 3 captioned images" in capfd.readouterr().out  # of relative paths nobody knows


def test_a_list_of_images_that_has_changed(packed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    table = pq.read_table(packed / "set" / "0.parquet")
    pq.write_table(table.slice(1), packed / "set" / "0.parquet")
    assert main(["export", f"--output={packed}/out", "--format=hf", f"--to={packed}/to"]) == 1
    assert "4 x fetch: ListChanged" in capfd.readouterr().err


def test_a_plan_that_is_gone(packed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for part in packed.glob("out/runs/*/plan/*"):
        part.unlink()
    options = [f"--output={packed}/out", "--format=hf", f"--to={packed}/to", "--missing=keep"]
    assert main(["export", *options]) == 1
    out, err = capfd.readouterr()
    assert "2 captions" in out  # those whose names say where they are
    assert "2 images left out" in err


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A run over a list whose images lie in another folder."""
    for folder in ("photos", "lists"):
        (tmp_path / folder).mkdir()
    for name in "ab":
        (tmp_path / "photos" / f"{name}.png").write_bytes(picture(90))
    (tmp_path / "lists" / "all.txt").write_text(f"{tmp_path}/photos/a.png\n{tmp_path}/photos/b.png\n")
    return tmp_path


@pytest.mark.parametrize("images", ["copy", "link"])
def test_what_a_trusted_list_named_is_exported(listed: Path, images: str) -> None:
    run(f"--input={listed}/lists/all.txt", f"--output={listed}/out")
    options = [f"--output={listed}/out", "--format=hf", f"--images={images}"]
    assert main(["export", *options, f"--to={listed}/to"]) == 0
    assert len(list((listed / "to").rglob("*.png"))) == 2


def test_what_nobody_has_listed_is_not(
    listed: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Rows that were added to the output, a run that others could have written, and lists that were not trusted."""
    run(f"--input={listed}/lists/all.txt", f"--output={listed}/out")
    [part] = listed.glob("out/captions/*/part-00000.parquet")
    table = pq.read_table(part, partitioning=None)
    uris = [f"{listed}/photos/a.png", f"{listed}/secret.png"]
    (listed / "secret.png").write_bytes(picture(90))
    pq.write_table(table.set_column(0, "uri", [uris]), part)
    options = [f"--output={listed}/out", "--format=hf"]
    assert main(["export", *options, f"--to={listed}/added"]) == 1
    assert f"{listed}/secret.png is outside the allowed folders" in capfd.readouterr().err
    assert len(list((listed / "added").rglob("*.png"))) == 1
    [manifest] = listed.glob("out/runs/*/run.json")
    with monkeypatch.context() as other_user:
        other_user.setattr(os, "geteuid", lambda: os.getuid() + 1)
        assert main(["export", *options, f"--to={listed}/of-others"]) == 1
    content = json.loads(manifest.read_text())
    content["request"]["untrusted_lists"] = True
    manifest.write_text(json.dumps(content))
    assert main(["export", *options, f"--to={listed}/untrusted"]) == 1
    assert capfd.readouterr().err.count("add --allow_root=") == 4
    assert not (listed / "of-others").exists()
    assert not (listed / "untrusted").exists()
