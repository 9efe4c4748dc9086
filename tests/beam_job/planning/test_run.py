"""A run's manifest: formats, unknown fields, damage; and which run is resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from beam_job.cli.command import main
from beam_job.config import JobConfig
from beam_job.planning.damage import FORMAT
from beam_job.planning.listed_inputs import list_inputs
from beam_job.planning.plan import PlanReader
from beam_job.planning.prepare import PlannedRun, find_resumable_run, new_manifest, plan_run
from beam_job.planning.run import Run, RunManifest, read_manifest, read_runs
from beam_job.storage import StorageError
from model import Decoding
from tests.fakes import FakeCaptioner


@pytest.fixture
def config(tmp_path: Path) -> JobConfig:
    """A job over five images, in shards of two."""
    (tmp_path / "photos").mkdir()
    for shade in range(5):
        Image.new("RGB", (20, 10), (shade, 60, 30)).save(tmp_path / "photos" / f"{shade}.png")
    return JobConfig((str(tmp_path / "photos"),), str(tmp_path / "out"), shard_size=2)


def planned(config: JobConfig) -> PlannedRun:
    return plan_run(config, "model-1", list_inputs(config))


def rewrite(run: Run, **changes: Any) -> None:
    """Changes fields of the stored manifest; None removes one."""
    fields = json.loads(Path(run.manifest).read_text()) | changes
    Path(run.manifest).write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))


def test_a_manifest_is_read_back(config: JobConfig) -> None:
    run = planned(config).run
    manifest = read_manifest(run)
    assert RunManifest.from_json(manifest.to_json()) == manifest
    assert (manifest.inputs, manifest.shards, manifest.skipped, manifest.format) == (5, 3, 0, FORMAT)
    assert manifest.limits == {"max_pixels": config.max_pixels, "min_bytes": None, "max_bytes": None}


def test_a_manifest_of_an_earlier_version_is_read(config: JobConfig) -> None:
    planned_run = planned(config)
    rewrite(planned_run.run, format=None, limits=None)
    manifest = read_manifest(planned_run.run)
    assert (manifest.format, manifest.limits) == (0, {})
    resumable = find_resumable_run(config, "model-1")
    assert resumable
    assert (resumable.run, resumable.plan) == (planned_run.run, planned_run.plan)


def test_fields_of_a_newer_version_are_ignored(config: JobConfig) -> None:
    run = planned(config).run
    manifest = read_manifest(run)
    rewrite(run, colour="blue", decoding=dict(manifest.decoding) | {"patience": 2})
    assert read_manifest(run).captions_like(manifest)
    assert find_resumable_run(config, "model-1")


def test_a_newer_format_asks_for_an_upgrade(config: JobConfig) -> None:
    run = planned(config).run
    rewrite(run, format=FORMAT + 1)
    message = (
        f"{run.manifest} was written by a newer version of caption-images "
        f"(format {FORMAT + 1}; this version reads up to {FORMAT}); upgrade caption-images"
    )
    for read in (lambda: read_manifest(run), lambda: read_runs(config.output), lambda: planned(config)):
        with pytest.raises(StorageError) as refused:
            read()
        assert str(refused.value) == message


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b"null", b"{}", b'{"format": "x"}', b"[" * 100_000],
    ids=["empty", "truncated", "list", "no text", "null", "no fields", "format", "deep"],
)
def test_a_damaged_manifest_costs_its_run_only(
    config: JobConfig, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    damaged, other = planned(config).run, planned(config).run
    Path(damaged.manifest).write_bytes(content)
    assert [*read_runs(config.output)] == [other]
    [warning] = caplog.messages
    caplog.clear()
    assert warning.startswith(f"{damaged.manifest} is damaged (")
    found: list[StorageError] = []
    assert [*read_runs(config.output, found.append)] == [other]
    assert len(found) == 1
    assert not caplog.text


@pytest.mark.parametrize("field", ["model", "decoding", "request", "inputs", "shards"])
def test_a_manifest_without_a_field_names_it(config: JobConfig, field: str) -> None:
    run = planned(config).run
    rewrite(run, **{field: None})
    with pytest.raises(StorageError, match=rf"is damaged \({field} is missing\)"):
        read_manifest(run)
    rewrite(run, **{field: 1.5})
    with pytest.raises(StorageError, match=rf"is damaged \({field} is 1.5\)"):
        read_manifest(run)


@pytest.mark.parametrize("damage", ["truncated", "empty", "missing", "of another plan"])
def test_a_run_whose_plan_is_damaged_is_not_resumed(
    config: JobConfig, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = planned(config).run
    part = Path(run.plan_part(0))
    content = part.read_bytes()
    if damage == "missing":
        part.unlink()
    elif damage == "of another plan":
        pq.write_table(pq.read_table(part).slice(1), part)
    else:
        part.write_bytes(content[:-5] if damage == "truncated" else b"")
    assert find_resumable_run(config, "model-1") is None
    [warning] = caplog.messages
    assert warning.startswith(f"{part if damage != 'of another plan' else part.parent} ")
    assert warning.endswith("; the images that its run has written are done, and the others are planned in a new run")
    part.write_bytes(content)
    assert find_resumable_run(config, "model-1")


def test_a_worker_names_a_damaged_plan(config: JobConfig) -> None:
    run = planned(config).run
    content = bytearray(Path(run.plan_part(0)).read_bytes())
    content[30:60] = bytes(30)
    Path(run.plan_part(0)).write_bytes(content)
    with pytest.raises(StorageError, match=r"part-00000\.parquet is damaged \(.*\); delete it and repeat the command"):
        PlanReader(run).shard(0)


def test_a_run_with_other_limits_is_not_resumed(config: JobConfig) -> None:
    """Its manifest records the limits that its failures are judged by."""
    planned(config)
    changed = JobConfig(config.inputs, config.output, shard_size=2, max_pixels=7)
    assert find_resumable_run(changed, "model-1") is None
    assert find_resumable_run(config, "model-1")


def test_runs_before_one_that_ended_are_not_resumed(config: JobConfig) -> None:
    planned(config)
    later = planned(config).run
    found = find_resumable_run(config, "model-1")
    assert found
    assert found.run == later
    Path(later.summary).write_text("{}")
    assert find_resumable_run(config, "model-1") is None


def test_captions_like_compares_what_captions_depend_on(config: JobConfig) -> None:
    beam, greedy = (
        new_manifest(JobConfig(("x",), "out", decoding=Decoding(method=method)), "m") for method in ("beam", "greedy")
    )
    assert beam.captions_like(beam)
    assert not beam.captions_like(greedy)
    assert not greedy.captions_like(beam)
    assert not beam.captions_like(RunManifest("another", beam.decoding, {}, 0, 0, 0))


@pytest.fixture
def job(config: JobConfig, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("beam_job.captioning.caption_shards.load_captioner", lambda *_: FakeCaptioner())

    def run(*options: str) -> list[RunManifest]:
        given = [f"--input={config.inputs[0]}", f"--output={config.output}"]
        assert main([*given, "--shard_size=2", *options]) == 0
        return [*read_runs(config.output, on_damaged=lambda _: None).values()]

    return run


def test_a_return_to_earlier_options_is_recorded(job: Any, config: JobConfig, capfd: Any) -> None:
    """Options A, B, A, A: the third run has nothing to do, and says that the captions of A are wanted again."""
    job()
    job("--decoding=greedy")
    capfd.readouterr()
    third = job()
    assert "nothing to do: 5 images" in capfd.readouterr().err
    assert [manifest.inputs for manifest in third] == [5, 5, 0]
    assert third[2].captions_like(third[0])
    assert third[2].skipped == 5
    newest = [*read_runs(config.output)][2]
    summary = json.loads(Path(newest.summary).read_text())
    assert (summary["captions"], summary["failures"], summary["inputs"]) == (0, 0, 0)
    assert Path(newest.success).exists()
    assert len(job()) == 3  # once is enough
    capfd.readouterr()
    assert main(["status", f"--output={config.output}"]) == 0
    status = capfd.readouterr().out
    assert f"{newest.run_id}  nothing to do, 5 already done" in status
    assert "would caption 0 images and skip 5" in status


def test_a_damaged_run_does_not_stop_the_next_one(job: Any, config: JobConfig, capfd: Any) -> None:
    job()
    [run] = read_runs(config.output)
    Path(run.manifest).write_bytes(b"")
    capfd.readouterr()
    job()
    errors = capfd.readouterr().err
    assert errors.count(f"warning: {run.manifest} is damaged") == 1
    assert "5 captions and 0 failures of 5 images" in errors
