"""Damaged files of an output, and those of other versions: one line each, and the rest is still read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from beam_job.cli.command import main
from beam_job.output.run_page import write_page
from beam_job.output.sink import read_report
from beam_job.planning.run import Run
from beam_job.records import Failure
from beam_job.storage import StorageError, storage_for
from tests.beam_job.cli.test_report import summary_of
from tests.outputs import add_run


def rewritten(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path, partitioning=None)), path)


def with_format(path: Path, number: str) -> None:
    def change(table: pa.Table) -> pa.Table:
        return table.replace_schema_metadata(table.schema.metadata | {b"caption_images.format": number.encode()})

    rewritten(path, change)


def broken_page(path: Path) -> None:
    """Flips bytes in the middle of the file, which its footer does not show."""
    data = bytearray(path.read_bytes())
    at = data.index(b"caption of b")
    data[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "a few bytes": lambda path: path.write_bytes(b"PAR1"),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "an error page": lambda path: path.write_text("<html>502 Bad Gateway</html>"),
    "another schema": lambda path: pq.write_table(pa.table({"id": [1], "text": ["x"]}), path),
    "a column is missing": lambda path: rewritten(path, lambda table: table.drop_columns("object_version")),
    "another type": lambda path: rewritten(path, lambda table: table.set_column(0, "uri", [[7] * table.num_rows])),
    "nulls": lambda path: rewritten(
        path, lambda table: table.set_column(0, "uri", [pa.array([None] * table.num_rows, pa.string())])
    ),
    "no format number": lambda path: with_format(path, "one"),
}


@pytest.fixture
def output(tmp_path: Path) -> str:
    out = f"{tmp_path}/out"
    gone = Failure("/photos/gone.jpg", "fetch", "FileNotFoundError", "gone", True)
    add_run(out, 1, {"/photos/a.jpg": "caption of a"}, [gone])
    add_run(out, 2, {"/photos/b.jpg": "caption of b"}, [Failure("/photos/c.jpg", "decode", "ImageError", "no", False)])
    return out


def part(output: str, table: str, run: int = 1) -> Path:
    return sorted(Path(output, table).glob("run=*/part-00000.parquet"))[run]


def assert_goes_on(output: str, to: Path, capfd: pytest.CaptureFixture[str], named: Path, told: str) -> None:
    """All three commands name the file in one line, exit with 1 and do the rest."""
    for name, *options in (
        ("status", "--no_listing"),
        ("snapshot", f"--to={to}/snapshot"),
        ("export", "--format=csv", f"--to={to}/csv"),
    ):
        capfd.readouterr()
        assert main([name, f"--output={output}", *options]) == 1, name
        error = capfd.readouterr().err
        assert error.startswith(f"caption-images: left out: {named} {told}"), name
        assert error.count("\n") == 1


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_part_is_left_out(output: str, tmp_path: Path, capfd, damage: Callable[[Path], object]) -> None:
    path = part(output, "captions")
    damage(path)
    assert_goes_on(output, tmp_path, capfd, path, "is damaged (")
    rows = ds.dataset(tmp_path / "snapshot/data").to_table().to_pylist()
    assert [row["uri"] for row in rows] == ["/photos/a.jpg"]
    path.unlink()  # the remedy that the line names
    assert main(["snapshot", f"--output={output}", f"--to={tmp_path}/snapshot"]) == 0


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_failures_are_left_out(output: str, tmp_path: Path, capfd, damage: Callable[[Path], object]) -> None:
    path = part(output, "failures")
    damage(path)
    assert_goes_on(output, tmp_path, capfd, path, "is damaged (")
    rows = ds.dataset(tmp_path / "snapshot/failures").to_table().to_pylist()
    assert [row["uri"] for row in rows] == ["/photos/gone.jpg"]


def test_damage_that_only_reading_shows_is_found_before_anything_is_written(output: str, tmp_path: Path, capfd) -> None:
    path = part(output, "captions")
    table = pq.read_table(path, partitioning=None)
    pq.write_table(
        table, path, compression="none", use_dictionary=False, write_statistics=False, write_page_checksum=True
    )
    broken_page(path)
    assert_goes_on(output, tmp_path, capfd, path, "is damaged (")


@pytest.mark.parametrize("name", ["captions", "failures", "runs"])
def test_an_outage_ends_a_snapshot_and_leaves_the_earlier_one(
    output: str, tmp_path: Path, capfd, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What cannot be read for now is not left out, as if it were lost."""
    snapshot = ["snapshot", f"--output={output}", f"--to={tmp_path}/to"]
    assert main(snapshot) == 0
    before = sorted((path, path.read_bytes()) for path in (tmp_path / "to").rglob("*.parquet"))
    [*_, newest] = sorted(Path(output, name).iterdir())
    storage = storage_for(output)
    read = storage.read

    def stale(uri: str, *arguments: object, **options: object) -> tuple[bytes, str]:
        if uri.startswith(str(newest)):
            raise StorageError(f"{uri}: Stale file handle", "OSError")
        return read(uri, *arguments, **options)

    monkeypatch.setattr(storage, "read", stale)
    capfd.readouterr()
    assert main(snapshot) == 2
    error = capfd.readouterr().err
    assert "Stale file handle" in error
    assert error.count("\n") == 1
    assert sorted((path, path.read_bytes()) for path in (tmp_path / "to").rglob("*.parquet")) == before


@pytest.mark.parametrize("name", ["empty", "truncated", "a few bytes", "zeros", "an error page", "another schema"])
def test_the_job_names_a_damaged_part(output: str, name: str) -> None:
    path = part(output, "captions")
    DAMAGE[name](path)
    with pytest.raises(StorageError) as caught:
        read_report(Run(output, path.parent.name.removeprefix("run=")), 0)
    assert str(caught.value).startswith(f"{path} is damaged (")
    assert "remove it, and the next run captions its images again" in str(caught.value)


def test_a_newer_version_is_named_as_such(output: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = part(output, "captions")
    assert pq.read_metadata(path).metadata[b"caption_images.format"] == b"1"
    with_format(path, "2")
    assert_goes_on(
        output,
        tmp_path,
        capfd,
        path,
        "was written by a newer version of caption-images (format 2; this version reads up to 1)",
    )


def test_unknown_columns_and_older_parts_are_read(output: str, tmp_path: Path) -> None:
    def older(table: pa.Table) -> pa.Table:
        return table.drop_columns("retry_when").replace_schema_metadata(None)

    rewritten(part(output, "failures", 0), older)
    rewritten(part(output, "failures", 1), older)
    path = part(output, "captions")
    rewritten(path, lambda table: table.append_column("mood", pa.array(["calm"])).replace_schema_metadata(None))
    assert main(["snapshot", f"--output={output}", f"--to={tmp_path}/to"]) == 0
    assert ds.dataset(tmp_path / "to/data").to_table()["mood"].to_pylist() == [None, "calm"]
    failures = ds.dataset(tmp_path / "to/failures").to_table().to_pylist()
    assert {row["uri"]: row["retry_when"] for row in failures} == {
        "/photos/gone.jpg": "later",
        "/photos/c.jpg": "content",
    }


def test_unknown_fields_of_a_report_are_ignored(output: str) -> None:
    path = part(output, "captions")
    table = pq.read_table(path, partitioning=None)
    report = json.loads(table.schema.metadata[b"caption_images.shard"])
    report["mood"] = "calm"
    report["failures"] = [failure | {"mood": "calm"} for failure in report["failures"]]
    pq.write_table(
        table.replace_schema_metadata(table.schema.metadata | {b"caption_images.shard": json.dumps(report)}), path
    )
    [failure] = read_report(Run(output, path.parent.name.removeprefix("run=")), 0).failures
    assert (failure.uri, failure.retry_when) == ("/photos/c.jpg", "content")


SUMMARIES = {
    "empty": ("", "is damaged"),
    "truncated": ('{"captions": 1,', "is damaged"),
    "a list": ("[]", "is damaged"),
    "other members": ('{"done": true}', "is damaged"),
    "other types": ('{"captions": "x", "failures": null, "images_per_second": []}', "is damaged"),
    "newer": ('{"format": 2}', "was written by a newer version"),
}


@pytest.mark.parametrize(("text", "told"), SUMMARIES.values(), ids=SUMMARIES)
def test_status_goes_on_without_a_summary(output: str, capfd, text: str, told: str) -> None:
    summaries = [Path(run, "summary.json") for run in sorted(Path(output, "runs").iterdir())]
    good = {"captions": 1, "failures": 1, "images_per_second": 2.5, "new": "field"}
    summaries[0].write_text(json.dumps(good))
    summaries[1].write_text(text)
    assert main(["status", f"--output={output}", "--no_listing"]) == 1
    out, error = capfd.readouterr()
    assert error.startswith(f"caption-images: left out: {summaries[1]} {told}")
    assert error.count("\n") == 1
    assert "1 caption, 1 failure, 0 already done, 2.5 images/s" in out
    assert "current: 2 captions, 2 failures" in out


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": 1}'])
def test_all_go_on_without_a_run(output: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str) -> None:
    [_, newest] = sorted(Path(output, "runs").iterdir())
    (newest / "run.json").write_text(text)
    assert main(["status", f"--output={output}", "--no_listing"]) == 1
    out, error = capfd.readouterr()
    assert f"caption-images: left out: {newest}/run.json" in error
    assert error.count("\n") == 1
    assert "current: 2 captions, 2 failures" in out
    assert main(["snapshot", f"--output={output}", f"--to={tmp_path}/to"]) == 0
    assert main(["export", "--format=csv", f"--output={output}", f"--to={tmp_path}/csv"]) == 0


def test_correct_says_that_a_part_was_left_out(output: str, tmp_path: Path, capfd) -> None:
    path = part(output, "captions")
    path.write_bytes(b"")
    (tmp_path / "new.jsonl").write_text('{"uri": "/photos/b.jpg", "object_version": "v1", "caption": "mine"}')
    assert main(["correct", f"--output={output}", f"{tmp_path}/new.jsonl"]) == 2
    error = capfd.readouterr().err
    assert "no run has captioned uri '/photos/b.jpg'" in error
    assert f"left out, which may be why: {path} is damaged" in error


def test_an_empty_file_of_corrections_is_named(output: str, tmp_path: Path, capfd) -> None:
    """People's words are not left out silently: the commands wait for somebody to decide."""
    (Path(output) / "corrections").mkdir()
    path = Path(output, "corrections", "20260102T000000000Z-0123456789abcdef.jsonl")
    path.touch()
    for name, *options in (("snapshot", f"--to={tmp_path}/to"), ("export", "--format=csv", f"--to={tmp_path}/csv")):
        assert main([name, f"--output={output}", *options]) == 2
        assert f"{path} is damaged (it is empty); restore it, or remove it" in capfd.readouterr().err


def test_carried_columns_of_types_that_do_not_go_together_become_text(tmp_path: Path) -> None:
    out = f"{tmp_path}/out"
    add_run(out, 1, {"a": "x"}, carried={"label": [3], "size": [1]})
    add_run(out, 2, {"b": "y"}, carried={"label": ["three"], "size": [1.5]})
    add_run(out, 3, {"c": "z"}, carried={"label": [[3, 4]]})
    assert main(["snapshot", f"--output={out}", f"--to={tmp_path}/to"]) == 0
    table = ds.dataset(tmp_path / "to/data").to_table()
    assert table["label"].to_pylist() == ["3", "three", "[3, 4]"]
    assert table["size"].to_pylist() == [1.0, 1.5, None]


def test_files_of_others_are_neither_read_nor_called_damaged(output: str, capfd: pytest.CaptureFixture[str]) -> None:
    others = ["runs/train/run.json", "runs/detect/train/run.json", "captions/mine.parquet", "failures/old/a.parquet"]
    for name in others:
        Path(output, name).parent.mkdir(parents=True, exist_ok=True)
        Path(output, name).write_text("{}")
    for command in (["status", "--no_listing"], ["snapshot", f"--to={output}.newest"]):
        assert main([command[0], f"--output={output}", *command[1:]]) == 0
    printed = capfd.readouterr()
    assert "current: 2 captions, 2 failures" in printed.out
    assert not printed.err


def test_what_a_killed_write_left_is_not_read(output: str, tmp_path: Path) -> None:
    run = Run(output, part(output, "failures").parent.name.removeprefix("run="))
    Path(run.failures_folder, ".part-00000.parquet.0123.tmp").write_bytes(b"PAR1")
    summary = summary_of(run_id=run.run_id, inputs=2, failures=1)
    assert write_page(run, summary) == run.page
    assert "/photos/c.jpg" in Path(run.page).read_text()
