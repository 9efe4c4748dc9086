"""The stored plan, and the names of runs."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow as pa
import pytest

from beam_job.inputs.lists import LISTING_FIELDS
from beam_job.planning.plan import Plan, PlanReader, write_plan
from beam_job.planning.run import Run
from beam_job.records import ImageInput


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(str(tmp_path), "r1")


def listing(*uris: str, **carried: list) -> pa.Table:
    columns = {
        "uri": list(uris),
        "object_version": ["v1"] * len(uris),
        "size": [3] * len(uris),
        "crc32c": [None] * len(uris),
        **dict.fromkeys(("tar_offset", "list_error", "parquet_place", "is_trusted"), [None] * len(uris)),
    }
    table = pa.table(columns, schema=pa.schema(LISTING_FIELDS))
    for name, values in carried.items():
        table = table.append_column(name, pa.array(values))
    return table


def test_plan_is_read_back_shard_by_shard(run: Run) -> None:
    uris = [f"gs://b/{n}.jpg" for n in range(8)]
    table = listing(*uris, label=[[n] for n in range(8)])
    assert write_plan(run, [table.slice(0, 5), table.slice(5)], shard_size=3) == Plan(inputs=8, shards=3)
    reader = PlanReader(run)
    shards = [reader.shard(number) for number in range(3)]
    reader.close()
    assert [[image.uri for image in shard.images] for shard in shards] == [uris[:3], uris[3:6], uris[6:]]
    assert shards[0].images[0] == ImageInput("gs://b/0.jpg", "v1", 3, None)
    assert [shard.carried.to_pydict() for shard in shards[1:]] == [{"label": [[3], [4], [5]]}, {"label": [[6], [7]]}]


def test_a_long_plan_has_several_files(run: Run) -> None:
    uris = [f"{n}.jpg" for n in range(205)]
    assert write_plan(run, [listing(*uris)], shard_size=1) == Plan(inputs=205, shards=205)
    assert len(list(Path(run.folder, "plan").iterdir())) == 3
    reader = PlanReader(run)
    assert [[image.uri for image in reader.shard(number).images] for number in (204, 0, 99, 100)] == [
        ["204.jpg"],
        ["0.jpg"],
        ["99.jpg"],
        ["100.jpg"],
    ]


def test_runs_have_names_of_their_own_that_sort_by_age(tmp_path: Path) -> None:
    names = []
    for _ in range(20):
        names.append(Run.new(str(tmp_path)).run_id)
        moment = time.time_ns() // 1_000_000
        while time.time_ns() // 1_000_000 == moment:
            pass
    assert names == sorted(names)
    assert len({Run.new(str(tmp_path)).run_id for _ in range(20)}) == 20
