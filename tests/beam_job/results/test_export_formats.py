"""Each form of export is opened by the library that it is for, over images whose names and captions are hostile."""

from __future__ import annotations

import gc
import io
import json
import os
import subprocess
import warnings
from pathlib import Path

import pytest
from PIL import Image

from model.training.data import read_examples
from tests.exported import HOSTILE, Job, expected, shade
from tests.hostile_names import NAMES

pytestmark = pytest.mark.usefixtures("nothing_escapes")


def test_datasets_reads_the_image_folder(job: Job, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    assert job.export("hf", tmp_path / "hf") == 0
    plain = datasets.load_dataset(str(tmp_path / "hf"), split="train", cache_dir=str(tmp_path / "cache"))
    named = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "hf"), split="train", cache_dir=str(tmp_path / "cache2")
    )
    for loaded in (plain, named):
        assert {row["uri"]: (shade(row["image"]), row["text"]) for row in loaded} == expected(job)
    assert plain[0]["text_in_list"] == "t0"
    assert plain[0]["file_name_in_list"] == "/etc/passwd"


def test_datasets_and_training_read_parquet_with_the_images_inside(job: Job, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    assert job.export("hf", tmp_path / "hf", "--images=embed", "--max_rows=7") == 0
    names = [path.name for path in sorted((tmp_path / "hf" / "data").iterdir())]
    assert names == [f"train-{number:05d}-of-00003.parquet" for number in range(3)]
    loaded = datasets.load_dataset(str(tmp_path / "hf"), split="train", cache_dir=str(tmp_path / "cache"))
    assert {row["uri"]: (shade(row["image"]), row["text"]) for row in loaded} == expected(job)
    examples = read_examples(str(tmp_path / "hf" / "data"))
    found = sorted((shade(Image.open(io.BytesIO(example.read()))), *example.captions) for example in examples)
    assert found == sorted(expected(job).values())


def test_webdataset_reads_the_tars(job: Job, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    assert job.export("webdataset", tmp_path / "tars", "--max_rows=4") == 0
    tars = sorted(map(str, (tmp_path / "tars").iterdir()))
    assert [Path(tar).name for tar in tars] == [f"{number:05d}.tar" for number in range(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # its own, of the tars that it opens
        samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode("pil"))
        gc.collect()
    assert [sample["__key__"] for sample in samples] == [f"{number:09d}" for number in range(len(NAMES))]
    assert {s["json"]["uri"]: (shade(s["png"]), s["txt"]) for s in samples} == expected(job)


def test_the_same_export_again_gives_the_same_tars(job: Job, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert job.export("webdataset", tmp_path / name) == 0
    assert (tmp_path / "one" / "00000.tar").read_bytes() == (tmp_path / "two" / "00000.tar").read_bytes()


def test_sidecars_lie_beside_their_images(job: Job, tmp_path: Path) -> None:
    assert job.export("sidecar", tmp_path / "side") == 0
    texts = {path.stem: path.read_text() for path in (tmp_path / "side").glob("*.txt")}
    images = {path.stem: path for path in (tmp_path / "side").glob("*.png")}
    assert texts.keys() == images.keys()
    found = sorted((shade(Image.open(path)), texts[stem]) for stem, path in images.items())
    assert found == sorted((grey, " ".join(text.split()) + "\n") for grey, text in expected(job).values())


def test_pycocotools_reads_the_results(job: Job, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    assert job.export("coco", tmp_path / "coco") == 0
    images = coco.COCO(str(tmp_path / "coco" / "images.json"))
    results = images.loadRes(str(tmp_path / "coco" / "results.json"))
    said = {images.imgs[said["image_id"]]["file_name"]: said["caption"] for said in results.anns.values()}
    assert said == job.captions()


def test_coco_results_take_the_numbers_of_an_annotation_file(job: Job, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    known = {"images": [{"id": 391895, "file_name": "猫.png"}, {"id": 7, "file_name": "dog.png"}], "annotations": []}
    (tmp_path / "captions_val.json").write_text(json.dumps(known | {"info": {}}))
    assert job.export("coco", tmp_path / "coco", f"--annotations={tmp_path}/captions_val.json") == 1
    results = coco.COCO(str(tmp_path / "captions_val.json")).loadRes(str(tmp_path / "coco" / "results.json"))
    said = {said["image_id"]: said["caption"] for said in results.anns.values()}
    captions = job.captions()
    assert said[391895] == captions[job.uri("猫.png")]
    assert len(said) == 2  # of four called dog.png one, and the others are told
    assert len((tmp_path / "coco.left_out.jsonl").read_text().splitlines()) == len(NAMES) - 2


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param("no json", "is not a COCO annotation file", id="not JSON"),
        pytest.param('{"images": 3}', "is not a COCO annotation file", id="something else"),
        pytest.param(
            json.dumps({"images": [{"id": 1, "file_name": "a/x.jpg"}, {"id": 2, "file_name": "b/x.jpg"}]}),
            "several images are named 'x.jpg'",
            id="names that do not tell images apart",
        ),
    ],
)
def test_annotations_that_will_not_do(job: Job, tmp_path: Path, capfd, content: str, told: str) -> None:
    (tmp_path / "ann.json").write_text(content)
    assert job.export("coco", tmp_path / "coco", f"--annotations={tmp_path}/ann.json") == 2
    assert told in capfd.readouterr().err
    assert not (tmp_path / "coco").exists()


def test_pandas_and_duckdb_read_the_csv(job: Job, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pandas, duckdb = pytest.importorskip("pandas"), pytest.importorskip("duckdb")
    assert job.export("csv", tmp_path / "csv") == 0
    path = str(tmp_path / "csv" / "captions.csv")
    frame = pandas.read_csv(path)
    assert dict(zip(frame["uri"], frame["caption"], strict=True)) == job.captions()
    rows = duckdb.sql(f"select uri, caption from read_csv('{path}', header=true, quote='\"', escape='\"')").fetchall()
    assert dict(rows) == job.captions()
    assert json.loads(frame["a.b"][0]) == {"n": [0]}
    assert (
        "a spreadsheet would read 1 value as formulas; add --for_spreadsheets to prevent that" in capfd.readouterr().out
    )


def test_csv_for_spreadsheets_holds_no_formula(job: Job, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    assert job.export("csv", tmp_path / "csv", "--for_spreadsheets") == 0
    frame = pandas.read_csv(tmp_path / "csv" / "captions.csv")
    assert not [text for text in [*frame["uri"], *frame["caption"]] if text[0] in "=+-@\t\r"]
    assert f"'{HOSTILE}" in set(frame["caption"])


def test_bigquery_gets_a_file_its_schema_and_a_command(job: Job, tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    assert job.export("bigquery", tmp_path / "big query") == 0
    folder = tmp_path / "big query"
    fields = json.loads((folder / "schema.json").read_text())
    schema = {field["name"]: field["type"] for field in fields}
    lists = {field["name"] for field in fields if field["mode"] == "REPEATED"}
    described = duckdb.sql(f"describe select * from '{folder}/captions.parquet'").fetchall()
    theirs = {"STRING": "VARCHAR", "FLOAT64": "FLOAT", "INT64": "INTEGER", "TIMESTAMP": "TIMESTAMP WITH TIME ZONE"}
    theirs["BOOL"] = "BOOLEAN"
    found = {name: theirs[kind] + ("[]" if name in lists else "") for name, kind in schema.items()}
    assert found == {name: kind for name, kind, *_ in described}
    assert schema["a_b"] == "STRING"
    rows = duckdb.sql(f"select uri, caption from '{folder}/captions.parquet'").fetchall()
    assert dict(rows) == job.captions()
    (tmp_path / "bq").write_text('#!/bin/sh\nfor a in "$@"; do echo "$a"; done\n')
    (tmp_path / "bq").chmod(0o755)
    loaded = subprocess.run(
        [folder / "load.sh", "--replace", "set.table"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    options = ["load", "--source_format=PARQUET", "--parquet_enable_list_inference=true", "--replace", "set.table"]
    assert loaded.stdout.splitlines() == [*options, f"{folder}/captions.parquet", f"{folder}/schema.json"]
