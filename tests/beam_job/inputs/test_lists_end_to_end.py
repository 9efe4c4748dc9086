"""Lists and inventories from end to end: the images that they name, and the columns that are carried."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.nights import Nights


def test_carried_columns_reach_the_output(nights: Nights, tmp_path: Path) -> None:
    nights.add("a.png", "b.png")
    lines = [{"url": str(nights.photos / f"{name}.png"), "label": name, "n": n} for n, name in enumerate("ab")]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    nights.run("--uri_column=url", "--carry_columns=n,label", inputs=tmp_path / "list.jsonl")
    table = ds.dataset(nights.output / "captions").to_table()
    assert [(row["n"], row["label"], Path(row["uri"]).name) for row in table.to_pylist()] == [
        (0, "a", "a.png"),
        (1, "b", "b.png"),
    ]


def write_list(path: Path, uris: list[str]) -> None:
    """A list of `uris` with a column `label` of their numbers, in the form that the name tells."""
    table = pa.table({"uri": uris, "label": [str(number) for number in range(len(uris))]})
    plain, text = path.name.removesuffix(".gz"), io.BytesIO()
    if plain.endswith(".parquet"):
        pq.write_table(table, text)
    else:
        pyarrow.csv.write_csv(table, text)
    path.write_bytes(gzip.compress(text.getvalue()) if path.suffix == ".gz" else text.getvalue())


@pytest.mark.parametrize("name", ["list.csv.gz", "list.parquet"])  # see test_lists.py for the others
def test_forms_of_list_from_end_to_end(nights: Nights, tmp_path: Path, name: str) -> None:
    nights.add("a.png", "b.png")
    write_list(tmp_path / name, [str(nights.photos / "b.png"), str(nights.photos / "a.png")])
    assert nights.run("--carry_columns=label", inputs=tmp_path / name) == ["a.png", "b.png"]
    rows = ds.dataset(nights.output / "captions").to_table().to_pylist()
    assert [(Path(row["uri"]).name, row["label"]) for row in rows] == [("b.png", "0"), ("a.png", "1")]


def test_an_inventory_report_from_end_to_end(bucket, nights: Nights, tmp_path: Path) -> None:
    nights.add("a.png", "b.png")
    blobs = [bucket.blob(f"photos/{name}") for name in ("a.png", "b.png")]
    for blob in blobs:
        blob.upload_from_filename(str(nights.photos / Path(blob.name).name))
    rows = [
        {
            "bucket": bucket.name,
            "name": blob.name,
            "generation": blob.generation,
            "size": blob.size,
            "crc32c": blob.crc32c,
        }
        for blob in blobs
    ]
    pyarrow.csv.write_csv(pa.Table.from_pylist(rows), tmp_path / "report_0.csv")
    (tmp_path / "report_manifest.json").write_text(json.dumps({"report_shards_file_names": ["report_0.csv"]}))
    manifest = tmp_path / "report_manifest.json"
    allowed = f"--allow_buckets=gs://{bucket.name}"
    assert nights.run(allowed, inputs=manifest) == ["a.png", "b.png"]
    versions = ds.dataset(nights.output / "captions").to_table()["object_version"].to_pylist()
    assert versions == [str(blob.generation) for blob in blobs]
    assert nights.run(allowed, inputs=manifest) == []
