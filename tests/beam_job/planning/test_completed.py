"""What counts as completed: captions, final failures, versions, limits, and files of earlier versions."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_job.config import JobConfig
from beam_job.inputs.filters import Filters
from beam_job.inputs.listing import InputError
from beam_job.output.sink import commit_shard
from beam_job.output.tables import caption_table
from beam_job.planning.listed_inputs import list_inputs
from beam_job.planning.new_images import count_new
from beam_job.planning.plan import PlanReader, Shard, write_plan
from beam_job.planning.prepare import PlannedRun, new_manifest, plan_run
from beam_job.planning.run import Run
from beam_job.records import CaptionedImage, Failure, ImageInput
from beam_job.storage import StorageError
from model import Caption, Decoding

NOON = datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.timezone.utc)


def job(root: Path, *uris: str, **options: Any) -> JobConfig:
    """A job over an inventory report of these objects, all in version 1."""
    rows = "".join(f"b,{uri.removeprefix('gs://b/')},1,10\n" for uri in uris)
    (root / "report.csv").write_text(f"bucket,name,generation,size\n{rows}")
    inputs = options.pop("inputs", (str(root / "report.csv"),))
    return JobConfig(inputs, str(root / "out"), allow_buckets=("gs://b",), shard_size=2, **options)


def earlier_run(
    config: JobConfig, captions: dict[str, str] | None = None, failures: list[Failure] | None = None, **manifest: Any
) -> Run:
    """A run of one shard, with captions of these URIs in these versions."""
    run = Run.new(config.output)
    images = [ImageInput(uri) for uri in [*(captions or {}), *(failure.uri for failure in failures or [])]]
    plan = write_plan(run, [pa.Table.from_pylist([dataclasses.asdict(image) for image in images])], 512)
    note = dataclasses.replace(new_manifest(config, "model-1"), inputs=plan.inputs, shards=1, **manifest)
    run.storage.write(run.manifest, note.to_json())
    done = [
        CaptionedImage(uri, (Caption("x", -1.0),), 1, 1, version, NOON) for uri, version in (captions or {}).items()
    ]
    table = caption_table(done, "model-1", several=False)
    commit_shard(run, 0, table, failures or [], Shard(images, pa.table({})))
    run.storage.write(run.summary, b"{}")
    return run


def failed(
    uri: str, error: str = "ImageError", retry_when: str = "content", stage: str = "decode", **more: Any
) -> Failure:
    return Failure(uri, stage, error, more.pop("message", "bad"), False, "1", NOON, retry_when)


def planned(config: JobConfig, model: str = "model-1") -> tuple[PlannedRun, list[str]]:
    """A new run, and the URIs of its plan in order."""
    prepared = plan_run(config, model, list_inputs(config))
    reader = PlanReader(prepared.run)
    return prepared, [image.uri for n in range(prepared.plan.shards) for image in reader.shard(n).images]


def test_new_changed_and_doubled_images_are_planned_once_in_order(tmp_path: Path) -> None:
    config = job(tmp_path, "gs://b/new", "gs://b/done", "gs://b/changed", "gs://b/new", "gs://b/0", "gs://b/done")
    earlier_run(config, {"gs://b/done": "1", "gs://b/changed": "0"})
    run, uris = planned(config)
    assert uris == ["gs://b/new", "gs://b/changed", "gs://b/0"]
    assert (run.plan.inputs, run.plan.shards, run.skipped) == (3, 2, 1)
    new = count_new(config, new_manifest(config, "model-1"), list_inputs(config))
    assert (new.images, new.skipped, new.mean_bytes) == (3, 1, 10.0)


def test_a_listing_longer_than_what_is_held_is_planned_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of one row, of which the first alone is read before the lease."""
    monkeypatch.setattr("beam_job.inputs.list_formats.BLOCK_BYTES", 256)
    given = tmp_path / "inventory.csv"
    given.write_text("bucket,name,size\n" + "".join(f"b,{n},1\n" for n in range(300)) + "b,y,large\n")
    monkeypatch.setattr("beam_job.planning.listed_inputs._HELD_BYTES", 1)
    config = job(tmp_path, *(f"gs://b/{n % 7}" for n in range(20)))
    earlier_run(config, {"gs://b/2": "1"})
    run, uris = planned(config)
    assert uris == [f"gs://b/{n}" for n in (0, 1, 3, 4, 5, 6)]
    assert run.skipped == 1


def test_a_listing_that_breaks_off_leaves_no_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beam_job.inputs.list_formats.BLOCK_BYTES", 256)
    given = tmp_path / "inventory.csv"
    given.write_text("bucket,name,size\n" + "".join(f"b,{n},1\n" for n in range(300)) + "b,y,large\n")
    monkeypatch.setattr("beam_job.planning.listed_inputs._HELD_BYTES", 1)
    config = job(tmp_path, inputs=(str(given),))
    with pytest.raises(InputError, match="cannot be read as an inventory report"):
        planned(config)
    assert not list(tmp_path.rglob("*.parquet"))


def test_lists_whose_carried_columns_differ_get_one_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan's first part is written before the second list is read."""
    monkeypatch.setattr("beam_job.planning.plan._SHARDS_PER_PART", 1)
    pq.write_table(pa.table({"uri": ["gs://b/0", "gs://b/1"], "n": [1, 2]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"uri": ["gs://b/2"], "n": [0.5]}), tmp_path / "2.parquet")
    lists = (str(tmp_path / "1.parquet"), str(tmp_path / "2.parquet"))
    run, _ = planned(job(tmp_path, inputs=lists, carry_columns=("n",)))
    reader = PlanReader(run.run)
    assert [reader.shard(n).carried["n"].to_pylist() for n in (0, 1)] == [[1.0, 2.0], [0.5]]
    assert {reader.shard(n).carried.schema.field("n").type for n in (0, 1)} == {pa.float64()}


@pytest.mark.parametrize("shards_per_part", [1, 100], ids=["a part each", "one part"])
def test_carried_columns_whose_types_do_not_go_together_become_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards_per_part: int
) -> None:
    monkeypatch.setattr("beam_job.planning.plan._SHARDS_PER_PART", shards_per_part)
    for number, value in enumerate(("[1, 2]", "7", '"text"', "true", "null", "2.5", '{"a": [1]}')):
        (tmp_path / f"{number}.jsonl").write_text(f'{{"uri": "gs://b/{number}", "n": {value}}}\n')
    (tmp_path / "7.csv").write_text("uri,n\ngs://b/7,007\n")
    lists = tuple(str(tmp_path / name) for name in [*(f"{number}.jsonl" for number in range(7)), "7.csv"])
    run, _ = planned(job(tmp_path, inputs=lists, carry_columns=("n",)))
    carried = [PlanReader(run.run).shard(number).carried["n"] for number in range(4)]
    assert {column.type for column in carried} == {pa.string()}
    found = [value for column in carried for value in column.to_pylist()]
    assert found == ["[1, 2]", "7", "text", "true", None, "2.5", '{"a": [1]}', "007"]


FAILURES = [
    failed("gs://b/content"),
    failed("gs://b/later", retry_when="later", stage="fetch"),
    failed("gs://b/options", "MissingSupportError", "options"),
    failed("gs://b/not-allowed", "NotAllowed", "options", "list"),
]


@pytest.mark.parametrize(
    ("retry", "again"),
    [
        ("transient", ["later", "options", "not-allowed"]),
        ("all", ["content", "later", "options", "not-allowed"]),
        ("none", []),
    ],
)
def test_which_failures_are_tried_again(tmp_path: Path, retry: str, again: list[str]) -> None:
    config = job(tmp_path, *(failure.uri for failure in FAILURES), retry=retry)
    earlier_run(config, failures=FAILURES)
    assert planned(config)[1] == [f"gs://b/{name}" for name in again]


@pytest.mark.parametrize(
    ("error", "before", "now", "again"),
    [
        pytest.param("TooManyPixelsError", {"max_pixels": 100}, {"max_pixels": 100}, False, id="the same pixels"),
        pytest.param("TooManyPixelsError", {"max_pixels": 100}, {"max_pixels": 50}, False, id="fewer pixels"),
        pytest.param("TooManyPixelsError", {"max_pixels": 100}, {"max_pixels": 101}, True, id="more pixels"),
        pytest.param("TooManyPixelsError", {"max_pixels": 100}, {}, True, id="pixels by default"),
        pytest.param("TooLarge", {"max_bytes": 100}, {"max_bytes": 100}, False, id="the same bytes"),
        pytest.param("TooLarge", {"max_bytes": 100}, {"max_bytes": 200}, True, id="more bytes"),
        pytest.param("TooLarge", {"max_bytes": 100}, {}, True, id="any bytes"),
        pytest.param("TooLarge", {"max_bytes": 100}, {"max_bytes": 100, "max_pixels": 9}, False, id="another limit"),
        pytest.param("TooSmall", {"min_bytes": 9}, {"min_bytes": 9}, False, id="the same least bytes"),
        pytest.param("TooSmall", {"min_bytes": 9}, {"min_bytes": 8}, True, id="less bytes"),
        pytest.param("TooSmall", {"min_bytes": 9}, {"min_bytes": 10}, False, id="more least bytes"),
        pytest.param("TooSmall", {"min_bytes": 9}, {}, True, id="no least bytes"),
    ],
)
def test_a_failure_by_a_limit_is_final_while_the_limit_is_as_strict(
    tmp_path: Path, error: str, before: dict[str, int], now: dict[str, int], again: bool
) -> None:
    def limited(limits: dict[str, int]) -> JobConfig:
        pixels = {"max_pixels": limits["max_pixels"]} if "max_pixels" in limits else {}
        filters = Filters(**{name: value for name, value in limits.items() if name != "max_pixels"})
        return job(tmp_path, "gs://b/x", "gs://b/other", filters=filters, **pixels)

    earlier_run(limited(before), failures=[failed("gs://b/x", error, "options")])
    assert ("gs://b/x" in planned(limited(now))[1]) == again


def test_failures_of_an_earlier_version_are_tried_again_unless_the_content_was_at_fault(tmp_path: Path) -> None:
    """They have no column `retry_when`, and their run recorded no limits."""
    failures = [
        failed("gs://b/content"),
        failed("gs://b/missing", "FileNotFoundError", stage="fetch"),
        failed("gs://b/not-allowed", "NotAllowed", stage="list"),
        failed("gs://b/pixels", message="9 x 9 pixels are more than the limit of 80"),
        failed("gs://b/heic", message="a HEIC image needs pillow-heif: pip install 'caption-images[heic]'"),
        failed("gs://b/slow", "DecoderError", message="decoding took longer than 20 s"),
        failed("gs://b/score", "NonFiniteScoreError", stage="caption"),
        failed("gs://b/device", "ResourceExhaustedError", "later", stage="caption"),
    ]
    config = job(tmp_path, *(failure.uri for failure in failures))
    run = earlier_run(config, failures=failures, limits={}, format=0)
    table = pq.read_table(run.failures(0), partitioning=None)
    pq.write_table(table.drop_columns(["retry_when"]), run.failures(0))
    assert planned(config)[1] == [
        f"gs://b/{name}" for name in ("missing", "not-allowed", "pixels", "heic", "slow", "device")
    ]


def test_a_damaged_part_costs_its_own_images_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = job(tmp_path, "gs://b/1", "gs://b/2", "gs://b/3")
    earlier_run(config, {"gs://b/1": "1"})
    damaged = Path(earlier_run(config, {"gs://b/2": "1"}).captions(0))
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert planned(config)[1] == ["gs://b/2", "gs://b/3"]
    [warning] = caplog.messages
    caplog.clear()
    assert warning.startswith(f"{damaged} is damaged (")
    assert warning.endswith("captioned again; restore the file, or delete it to stop this message")
    damaged.unlink()
    assert planned(config)[1] == ["gs://b/2", "gs://b/3"]
    assert not caplog.text


@pytest.mark.parametrize("how", ["empty", "truncated", "flipped", "another schema"])
@pytest.mark.parametrize("table", ["captions", "failures"])
def test_each_damage_of_a_part_is_named(tmp_path: Path, table: str, how: str, caplog: pytest.LogCaptureFixture) -> None:
    config = job(tmp_path, "gs://b/1", "gs://b/2")
    run = earlier_run(config, {"gs://b/1": "1"}, [failed("gs://b/2")])
    path = Path(run.captions(0) if table == "captions" else run.failures(0))
    content = path.read_bytes()
    if how == "another schema":
        pq.write_table(pa.table({"url": ["x"]}), path)
    elif how == "flipped":
        path.write_bytes(bytes([*content[:20], content[20] ^ 255, content[21] ^ 255, *content[22:]]))
    else:
        path.write_bytes(content[:-9] if how == "truncated" else b"")
    assert planned(config)[1] == ["gs://b/1" if table == "captions" else "gs://b/2"]
    [warning] = caplog.messages
    assert warning.startswith(f"{path} is damaged (")


def test_a_part_that_cannot_be_read_ends_the_planning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = job(tmp_path, "gs://b/1")
    earlier_run(config, {"gs://b/1": "1"})

    def unavailable(uri: str) -> pq.ParquetFile:
        raise StorageError(f"{uri}: 503 Service Unavailable", transient=True)

    monkeypatch.setattr("beam_job.planning.completed.read_parquet", unavailable)
    with pytest.raises(StorageError, match="503 Service Unavailable"):
        planned(config)


def test_options_that_change_no_caption_caption_nothing_again(tmp_path: Path) -> None:
    config = job(tmp_path, "gs://b/1")
    earlier_run(config, {"gs://b/1": "1"})
    for unused in ({"seed": 7}, {"top_k": 3}, {"temperature": 0.5}, {"seed": 1, "top_k": 2}):
        assert planned(dataclasses.replace(config, decoding=Decoding(**unused)))[1] == []
    for used in ({"beam_width": 4}, {"num_captions": 2}, {"length_penalty": 0.0}, {"no_repeat_ngram": 0}):
        assert planned(dataclasses.replace(config, decoding=Decoding(**used)))[1] == ["gs://b/1"]


def test_a_captioner_of_the_users_own_may_use_every_option(tmp_path: Path) -> None:
    config = job(tmp_path, "gs://b/1", captioner="mine:make")
    earlier_run(config, {"gs://b/1": "1"})
    assert planned(config)[1] == []
    assert planned(dataclasses.replace(config, decoding=Decoding(temperature=0.5)))[1] == ["gs://b/1"]


def test_a_manifest_from_before_an_option_existed_has_its_default(tmp_path: Path) -> None:
    config = job(tmp_path, "gs://b/1")
    old = dataclasses.asdict(Decoding())
    del old["no_repeat_ngram"]
    earlier_run(config, {"gs://b/1": "1"}, decoding=old)
    assert planned(config)[1] == []
    assert planned(dataclasses.replace(config, decoding=Decoding(no_repeat_ngram=0)))[1] == ["gs://b/1"]
