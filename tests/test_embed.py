"""The examples of docs/embed.md run as printed, with stand-ins for Google's sources and sinks."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.testing import test_stream

from beam_job.captioning import caption_shards
from tests.conftest import ROOT, has_package
from tests.fakes import FakeCaptioner
from tests.planned import grey

if not (has_package("google.cloud") and has_package("google.cloud.bigquery")):
    pytest.skip("needs the extra dataflow", allow_module_level=True)

PAGE = (ROOT / "docs" / "embed.md").read_text(encoding="utf-8")
WRITTEN: dict[str, list[Any]] = {}


class Keep(beam.PTransform):
    """A sink that keeps what is written under the name of the table or topic."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self._place = place

    def expand(self, pcoll: beam.PCollection[Any]) -> beam.PCollection[Any]:
        return pcoll | beam.Map(_keep, self._place)


def _keep(row: Any, place: str) -> None:
    WRITTEN.setdefault(place, []).append(row)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    WRITTEN.clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(caption_shards, "load_captioner", lambda *_: FakeCaptioner())
    (tmp_path / "photos").mkdir()
    for brightness in (10, 20):
        (tmp_path / "photos" / f"{brightness}.png").write_bytes(grey(brightness))
    return tmp_path


def run_example(heading: str, replaced: dict[str, str]) -> None:
    """Runs the Python block below a heading of the page, with some of its text replaced."""
    section = PAGE.partition(f"{heading}\n")[2]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found
    example = found[1]
    for old, new in replaced.items():
        assert old in example, old
        example = example.replace(old, new)
    exec(compile(example, f"docs/embed.md: {heading}", "exec"), {"__name__": "example"})


HERE = {'allow_buckets=["gs://my-photos"]': 'allow_root=["photos"]'}


def test_the_first_example(capsys: pytest.CaptureFixture[str]) -> None:
    run_example("# In your own pipeline", {**HERE, "gs://my-photos/dog.jpg": "photos/10.png"})
    printed = capsys.readouterr().out
    assert "'caption': 'brightness 10'" in printed
    assert "'error_type': 'NotAllowed'" in printed  # the cat, which lies elsewhere


def test_captions_to_bigquery(in_a_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows have the schema's columns, and are JSON as Beam loads it into BigQuery."""
    from apache_beam.io.gcp.bigquery_tools import RowAsDictJsonCoder, parse_table_schema_from_json

    schemas = {}

    def write(table: str, schema: str) -> Keep:
        schemas[table] = [field.partition(":")[0] for field in schema.split(",")]
        fields = [dict(zip(("name", "type"), field.split(":"), strict=True)) for field in schema.split(",")]
        assert parse_table_schema_from_json(json.dumps({"fields": fields}))
        return Keep(table)

    monkeypatch.setattr(beam.io, "WriteToBigQuery", write)
    (in_a_folder / "uris.txt").write_text("photos/10.png\nphotos/none.png\n")
    run_example("## Captions to BigQuery", {**HERE, "gs://my-bucket/uris.txt": "uris.txt"})
    for table, rows in WRITTEN.items():
        [row] = rows
        assert list(row) == schemas[table]
        assert json.loads(RowAsDictJsonCoder().encode(row))["uri"] == row["uri"]
    [caption] = WRITTEN["my-project:photos.captions"]
    assert caption["caption"] == "brightness 10"
    assert len(WRITTEN) == 2


def test_uploads_from_pubsub(in_a_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(subscription: str, with_attributes: bool) -> beam.PTransform:
        assert with_attributes
        names = [("10.png", "2026-11-01T00:00:00Z"), ("none.png", "2026-11-01T00:00:01Z")]
        messages = [
            PubsubMessage(b"", {"bucketId": "photos", "objectId": name, "eventTime": time}) for name, time in names
        ]
        return test_stream.TestStream().add_elements(messages).advance_watermark_to_infinity()

    monkeypatch.setattr(beam.io, "ReadFromPubSub", read)
    monkeypatch.setattr(beam.io, "WriteToPubSub", Keep)
    run_example("## New uploads from Pub/Sub", {**HERE, "f\"gs://{names['bucketId']": "f\"{names['bucketId']"})
    [caption] = map(json.loads, WRITTEN["projects/my-project/topics/captions"])
    assert (caption["caption"], caption["uploaded_at"]) == ("brightness 10", "2026-11-01T00:00:00Z")
    [failure] = map(json.loads, WRITTEN["projects/my-project/topics/failures"])
    assert (failure["stage"], failure["uploaded_at"]) == ("fetch", "2026-11-01T00:00:01Z")


@pytest.fixture
def shop() -> Iterator[str]:
    """A web server with the pictures of this folder."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Logs nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_catalogue_of_products(in_a_folder: Path, shop: str) -> None:
    products = [
        {"sku": "a", "price": 1.5, "image_url": f"{shop}/photos/10.png"},
        {"sku": "b", "price": 2.5, "image_url": f"{shop}/photos/20.png"},
        {"sku": "c", "price": None, "image_url": f"{shop}/photos/none.png"},
    ]
    pq.write_table(pa.Table.from_pylist(products), "products.parquet")
    server = {'allow_schemes=["https"]': 'allow_schemes=["http"], allow_private_addresses=True'}
    run_example("## A catalogue of products", server)
    rows = [row for path in in_a_folder.glob("enriched*") for row in pq.read_table(path).to_pylist()]
    captions = {"a": "brightness 10", "b": "brightness 20", "c": None}
    expected = [{**product, "caption": captions[str(product["sku"])]} for product in products]
    assert sorted(rows, key=lambda row: row["sku"]) == expected


def test_run_inference(in_a_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    replaced = {
        "load_captioner().config.input_size": "8",
        "import load_captioner, load_image": "import load_image",
        '"dog.jpg", "cat.jpg"': '"photos/10.png", "photos/20.png"',
    }
    run_example("## RunInference", replaced)
    printed = capsys.readouterr().out.splitlines()
    assert sorted(printed) == ["photos/10.png brightness 10", "photos/20.png brightness 20"]
