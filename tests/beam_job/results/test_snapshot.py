"""`snapshot`: what is not a snapshot's is never touched, whatever --to names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from beam_job.cli.command import main
from beam_job.results.snapshot import write_snapshot
from beam_job.results.snapshot_files import replace_snapshot
from beam_job.storage import StorageError, storage_for
from tests.outputs import add_run

NEW = "data/train-00000-of-00001.parquet"


@pytest.fixture
def output(tmp_path: Path) -> str:
    add_run(f"{tmp_path}/out", 1, {f"/photos/{name}.jpg": f"caption {name}" for name in "abcd"})
    return f"{tmp_path}/out"


def snapshot(output: str, to: object, *options: str) -> int:
    return main(["snapshot", f"--output={output}", f"--to={to}", *options])


def content(folder: Path) -> dict[str, bytes]:
    """All files below a folder; links are not followed."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def captions(to: Path) -> list[str]:
    return sorted(ds.dataset(to / "data").to_table()["caption"].to_pylist())


FOREIGN = {
    "data/photos/dog.jpg": b"a dog",
    "data/notes.csv": b"a,b",
    "data/train.parquet": b"mine",
    "data/deeper/train-00000-of-00001.parquet": b"mine",
    "data/.train-00000-of-00001.parquet": b"mine",
    "failures/essay.txt": b"why we failed",
    "README.md": b"# Mine",
    "test/train-00000-of-00001.parquet": b"mine",
}


def test_foreign_files_stay_as_they_are(output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    for name, data in FOREIGN.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_bytes(data)
    monkeypatch.chdir(project)
    assert snapshot(output, ".", "--max_rows=1") == 0
    assert snapshot(output, ".") == 0
    found = content(project)
    assert {name: found.get(name) for name in FOREIGN} == FOREIGN
    assert found.keys() - FOREIGN.keys() == {NEW, "_SNAPSHOT.json"}


@pytest.mark.parametrize("name", [NEW, "data/train-00007-of-00009.parquet", "failures/train-00000-of-00001.parquet"])
def test_a_foreign_file_of_such_a_name_is_refused(output: str, tmp_path: Path, capfd, name: str) -> None:
    """It would be overwritten, or read together with the snapshot; so would one that an old version has left."""
    to = tmp_path / "to"
    (to / name).parent.mkdir(parents=True)
    pq.write_table(pa.table({"uri": ["mine"]}), to / name)
    before = content(to)
    assert snapshot(output, to) == 2
    error = capfd.readouterr().err
    assert f"{to}/{name} is not listed in {to}/_SNAPSHOT.json, so it is not overwritten or deleted" in error
    assert error.count("\n") == 1
    assert content(to) == before
    (to / name).unlink()
    assert snapshot(output, to) == 0


def test_a_file_that_was_changed_since_is_refused(output: str, tmp_path: Path, capfd) -> None:
    to = tmp_path / "to"
    assert snapshot(output, to, "--max_rows=1") == 0
    changed = to / "data/train-00003-of-00004.parquet"
    changed.write_bytes(changed.read_bytes()[:-1] + b"!")
    before = content(to)
    assert snapshot(output, to) == 2
    assert f"{changed} was changed since `snapshot` wrote it" in capfd.readouterr().err
    assert content(to) == before


def test_a_copied_or_touched_snapshot_is_still_its_own(output: str, tmp_path: Path) -> None:
    assert snapshot(output, tmp_path / "to", "--max_rows=1") == 0
    for path in (tmp_path / "to/data").iterdir():
        os.utime(path, (1, 1))
    assert snapshot(output, tmp_path / "to") == 0
    assert os.listdir(tmp_path / "to/data") == ["train-00000-of-00001.parquet"]


def forms(root: Path) -> dict[str, str]:
    """Ways to name the output itself, a folder in it, and one around it."""
    out = f"{root}/out"
    (root / "link").symlink_to(out)
    (root / "aside").mkdir()
    (root / "aside/data").symlink_to(f"{out}/failures")
    return {
        "itself": out,
        "with a slash": f"{out}/",
        "with dots": f"{root}/x/../out/./",
        "relative": "out",
        "as a file URI": f"file://{out}",
        "as a file URI of a host": f"FILE://localhost{out}/",
        "with escapes": f"file://{root}/%6Fut",
        "through a link": f"{root}/link",
        "in it": f"{out}/newest",
        "in it through a link": f"{root}/link/runs/newest",
        "around it": str(root),
        "the root": "/",
        "a link below": f"{root}/aside",
        "nothing": "",
    }


@pytest.mark.parametrize("form", ["snapshot", "export"])
def test_the_output_is_no_place_for_them(output: str, tmp_path: Path, monkeypatch, capfd, form: str) -> None:
    monkeypatch.chdir(tmp_path)
    names = forms(tmp_path)
    before = content(tmp_path)
    for how, to in names.items():
        if form == "export" and how == "a link below":
            continue
        more = ["--format=csv"] if form == "export" else []
        capfd.readouterr()
        assert main([form, f"--output={output}", f"--to={to}", *more]) == 2, how
        error = capfd.readouterr().err
        assert ("name a folder outside of the job's output" in error) == bool(to), how
        assert error.count("\n") == 1
    for given in ("out/", f"file://{tmp_path}/out", f"{tmp_path}/link"):
        assert snapshot(given, f"{tmp_path}/out/newest") == 2
    assert content(tmp_path) == before


def test_a_neighbour_of_a_similar_name_is_fine(output: str, tmp_path: Path) -> None:
    assert snapshot(output, f"{output}-newest") == 0
    assert captions(Path(f"{output}-newest")) == [f"caption {name}" for name in "abcd"]


def test_buckets(bucket, capfd: pytest.CaptureFixture[str]) -> None:
    root = f"gs://{bucket.name}"
    add_run(f"{root}/out", 1, {"a.jpg": "a dog", "b.jpg": "a cat"})
    foreign = {"project/data/notes.csv": b"a,b", "project/data/photos/x.jpg": b"x"}
    for name, data in foreign.items():
        bucket.blob(name).upload_from_string(data)
    before = {blob.name for blob in bucket.list_blobs()}
    for to in (f"{root}/out", f"{root}/out/", f"{root}/out/newest", root, f"{root}/", f"GS://{bucket.name}/out"):
        assert snapshot(f"{root}/out", to) == 2, to
        assert "name a folder outside of the job's output" in capfd.readouterr().err
    assert {blob.name for blob in bucket.list_blobs()} == before
    assert snapshot(f"{root}/out", f"{root}/project", "--max_rows=1") == 0
    assert snapshot(f"{root}/out/", f"{root}/project/") == 0
    new = {blob.name for blob in bucket.list_blobs()} - before
    assert new == {f"project/{NEW}", "project/_SNAPSHOT.json"}
    assert {name: bucket.blob(name).download_as_bytes() for name in foreign} == foreign
    bucket.blob(f"project/{NEW}").upload_from_string(b"mine")
    assert snapshot(f"{root}/out", f"{root}/project") == 2
    assert bucket.blob(f"project/{NEW}").download_as_bytes() == b"mine"


@pytest.mark.parametrize("written", [0, 1, 2, 3, 5, 7])
def test_a_snapshot_killed_at_any_write_is_replaced_by_the_next(output: str, tmp_path: Path, written: int) -> None:
    """Processes that die before their N-th change of the folder: manifest, two new files, four old ones, manifest."""
    to = tmp_path / "to"
    assert snapshot(output, to, "--max_rows=1") == 0
    (to / "data/notes.csv").write_text("mine")
    add_run(output, 2, {"/photos/e.jpg": "caption e"})
    script = f"""
import os
from beam_job.storage.local import LocalStorage
left = {written}
def dying(method):
    def call(*arguments):
        global left
        if left == 0:
            os._exit(9)
        left -= 1
        return method(*arguments)
    return call
for name in ("write", "create", "delete"):
    setattr(LocalStorage, name, dying(getattr(LocalStorage, name)))
from beam_job.results.snapshot import write_snapshot
write_snapshot({output!r}, {str(to)!r}, max_rows=3)
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False)
    assert ended.returncode == 9
    assert snapshot(output, to) == 0
    assert sorted(pq.read_table(to / NEW)["caption"].to_pylist()) == [f"caption {name}" for name in "abcde"]
    assert sorted(os.listdir(to / "data")) == ["notes.csv", "train-00000-of-00001.parquet"]


def test_nothing_is_replaced_before_all_of_it_can_be(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers see the old snapshot while the new one is put together."""
    to = tmp_path / "to"
    assert snapshot(output, to, "--max_rows=2") == 0
    before = content(to)
    seen = []

    def looked_at(to: str, staged: object) -> None:
        seen.append(content(Path(to)))
        replace_snapshot(to, staged)  # type: ignore[arg-type]

    monkeypatch.setattr("beam_job.results.snapshot.replace_snapshot", looked_at)
    add_run(output, 2, {"/photos/e.jpg": "caption e"})
    assert snapshot(output, to, "--max_rows=2") == 0
    assert seen == [before]
    assert len(list((to / "data").iterdir())) == 3


def test_a_file_that_appears_meanwhile_is_not_overwritten(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "to"
    storage = storage_for(str(to))
    create = storage.create

    def create_after_another(uri: str, data: bytes) -> bool:
        storage.write(uri, b"theirs")
        return create(uri, data)

    monkeypatch.setattr(storage, "create", create_after_another)
    with pytest.raises(StorageError, match="was just written by another process"):
        write_snapshot(output, str(to))
    assert (to / NEW).read_bytes() == b"theirs"


MANIFESTS = {
    "no JSON": ("PAR1", "is damaged"),
    "empty": ("", "is damaged"),
    "another's": ('{"snapshots": []}', "is damaged"),
    "a list": ("[]", "is damaged"),
    "names outside of the snapshot": (
        json.dumps({"format": 1, "files": [{"name": "../out/x.parquet", "size": 1, "sha256": ""}]}),
        "is damaged",
    ),
    "newer": ('{"format": 9, "files": []}', "was written by a newer version of caption-images (format 9"),
}


@pytest.mark.parametrize(("text", "told"), MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_that_cannot_be_read_is_named(output: str, tmp_path: Path, capfd, text: str, told: str) -> None:
    to = tmp_path / "to"
    assert snapshot(output, to) == 0
    (to / "_SNAPSHOT.json").write_text(text)
    before = content(to)
    assert snapshot(output, to) == 2
    error = capfd.readouterr().err
    assert f"{to}/_SNAPSHOT.json {told}" in error
    assert error.count("\n") == 1
    assert content(to) == before


def test_unknown_fields_of_a_manifest_are_ignored(output: str, tmp_path: Path) -> None:
    to = tmp_path / "to"
    assert snapshot(output, to, "--max_rows=1") == 0
    manifest = json.loads((to / "_SNAPSHOT.json").read_text())
    manifest["by"] = "somebody"
    manifest["files"] = [file | {"rows": 1} for file in manifest["files"]]
    (to / "_SNAPSHOT.json").write_text(json.dumps(manifest))
    assert snapshot(output, to) == 0
    assert os.listdir(to / "data") == ["train-00000-of-00001.parquet"]


@pytest.mark.parametrize("option", ["--max_rows=0", "--max_rows=-1", "--max_bytes=0", "--max_rows=many", "--max_rows="])
def test_sizes_that_are_none(output: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], option: str) -> None:
    assert snapshot(output, tmp_path / "to", option) == 2
    error = capfd.readouterr().err
    assert f"{option.partition('=')[0]} must be a whole number from 1, not " in error
    assert error.count("\n") == 1
    assert not (tmp_path / "to").exists()
    with pytest.raises(ValueError, match="max_rows must be a whole number from 1"):
        write_snapshot(output, str(tmp_path / "to"), max_rows=0)


def test_names_count_the_files_that_there_are(output: str, tmp_path: Path) -> None:
    """Three rows a file at most, and four rows: 2 + 2; with files of a byte, one each."""
    add_run(output, 2, {"/photos/e.jpg": "caption e"})
    assert snapshot(output, tmp_path / "to", "--max_rows=2") == 0
    assert sorted(os.listdir(tmp_path / "to/data")) == [f"train-0000{n}-of-00003.parquet" for n in range(3)]
    assert snapshot(output, tmp_path / "to", "--max_bytes=1") == 0
    assert sorted(os.listdir(tmp_path / "to/data")) == [f"train-0000{n}-of-00005.parquet" for n in range(5)]
