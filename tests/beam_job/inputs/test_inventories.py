"""Inventory reports of Cloud Storage: CSV, Parquet, and the manifest that names their shards."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from beam_job.storage import StorageError
from tests.list_reading import listed, table, uris

REPORT_CSV = (
    "project,bucket,name,size,generation,crc32c,contentType,timeDeleted\n"
    "7,photos,a b.jpg,1234,1700000000000001,AAAAAA==,image/jpeg,\n"
    "7,photos,dogs/,0,1700000000000002,AAAAAA==,text/plain,\n"
    '7,photos,"dogs/x,y.jpg",,,,image/jpeg,\n'
    "7,photos,a b.jpg,99,1600000000000001,BBBBBB==,image/jpeg,2024-01-01T00:00:00Z\n"
)


REPORT_ROWS = [
    {
        "uri": "gs://photos/a b.jpg",
        "object_version": "1700000000000001",
        "size": 1234,
        "crc32c": "AAAAAA==",
        "tar_offset": None,
    },
    {"uri": "gs://photos/dogs/x,y.jpg", "object_version": None, "size": None, "crc32c": None, "tar_offset": None},
]


def test_inventory_csv(write) -> None:
    assert listed(write("report.csv", REPORT_CSV)) == REPORT_ROWS
    carried = table(write("report.csv", REPORT_CSV), carry_columns=("contentType", "name"))
    assert carried.select(["contentType", "name"]).to_pylist() == [
        {"contentType": "image/jpeg", "name": "a b.jpg"},
        {"contentType": "image/jpeg", "name": "dogs/x,y.jpg"},
    ]


def test_inventory_csv_with_quoted_empty_values(write) -> None:
    quoted = 'bucket,name,size,generation,timeDeleted\n"photos","x.jpg","","",""\n'
    assert listed(write("report.csv", quoted)) == [
        {"uri": "gs://photos/x.jpg", "object_version": None, "size": None, "crc32c": None, "tar_offset": None}
    ]


def report_parquet(path: Path) -> None:
    report = pyarrow.csv.read_csv(pa.py_buffer(REPORT_CSV.encode()))
    assert report.select(["generation", "timeDeleted"]).schema.types == [pa.int64(), pa.timestamp("s", "UTC")]
    pq.write_table(report, path)


def test_inventory_parquet(tmp_path: Path) -> None:
    report_parquet(tmp_path / "report.parquet")
    assert listed(str(tmp_path / "report.parquet")) == REPORT_ROWS


def test_the_uri_column_goes_before_bucket_and_name(write) -> None:
    assert uris(write("l.csv", "bucket,name\nphotos,a.jpg\n")) == ["gs://photos/a.jpg"]
    assert uris(write("l.csv", "bucket,name,uri\nphotos,a.jpg,b.jpg\n")) == ["b.jpg"]


def test_manifest(tmp_path: Path, write, monkeypatch: pytest.MonkeyPatch) -> None:
    start = "fc95c52f-157a-494f-af4a-d4a53a69ba66_2024-05-06T00:00"
    write(f"{start}_0.csv", REPORT_CSV)
    report_parquet(tmp_path / f"{start}_1.parquet")
    manifest = {
        "report_config": {"csvOptions": {"delimiter": ",", "headerRequired": True}},
        "records_processed": 8,
        "snapshot_time": "2024-05-06T00:00:00Z",
        "shard_count": 2,
        "report_shards_file_names": [f"{start}_0.csv", f"{start}_1.parquet"],
    }
    given = write(f"{start}_manifest.json", json.dumps(manifest))
    assert listed(given) == REPORT_ROWS * 2
    monkeypatch.chdir(tmp_path)
    assert table(f"{start}_manifest.json").num_rows == 4


def test_a_missing_shard_is_an_error(write) -> None:
    given = write("manifest.json", '{"report_shards_file_names": ["shard_0.csv"]}')
    with pytest.raises(StorageError, match=r"shard_0\.csv: No such file"):
        uris(given)
