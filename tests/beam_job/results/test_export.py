"""`export`: each form is opened by the library that it is for, over images whose names and captions are hostile."""

from __future__ import annotations

import gc
import io
import json
import os
import shutil
import subprocess
import tarfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beam_job.cli.command import main
from model import Caption
from model.training.data import read_examples
from tests.fakes import FakeCaptioner
from tests.hostile_names import NAMES
from tests.images import encode

HOSTILE = '=HYPERLINK("http://evil","<script>alert(1)</script>")\r\nsecond line'


class HostileCaptioner(FakeCaptioner):
    """One caption is what an attacker would like to see in a page or a spreadsheet."""

    def _captions(self, brightness: int) -> tuple[Caption, ...]:
        return (Caption(HOSTILE if brightness == 10 else f"brightness {brightness}", -0.5),)


class Job:
    """A run over all `NAMES`, which carries columns whose names formats have a use for."""

    def __init__(self, root: Path) -> None:
        self.root, self.output = root, root / "out"
        self.photos = root / "photos"

    def make(self) -> None:
        (self.photos / "b").mkdir(parents=True)
        members = {}
        for number, name in enumerate(NAMES):
            content = encode(Image.new("RGB", (20, 10), (10 * (number + 1),) * 3), "PNG")
            container, _, member = name.partition("#")
            if member:
                members[member] = content
                continue
            path = Path(os.path.normpath(self.photos / container))
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        with tarfile.open(self.photos / "set.tar", "w") as tar:
            for member, content in members.items():
                entry = tarfile.TarInfo(member)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        rows = [
            {"uri": f"{self.photos}/{name}", "text": f"t{number}", "file_name": "/etc/passwd", "a.b": {"n": [number]}}
            for number, name in enumerate(NAMES)
        ]
        (self.photos / "list.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        self.run("--carry_columns=text,file_name,a.b")

    def run(self, *options: str) -> None:
        arguments = [f"--input={self.photos}/list.jsonl", f"--output={self.output}"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("beam_job.captioning.caption_shards.load_captioner", lambda *_: HostileCaptioner())
            assert main([*arguments, "--shard_size=4", *options]) == 0

    def export(self, kind: str, to: Path, *options: str) -> int:
        return main(["export", f"--output={self.output}", f"--format={kind}", f"--to={to}", *options])

    def captions(self) -> dict[str, str]:
        rows = ds.dataset(self.output / "captions", partitioning=None).to_table(["uri", "caption"]).to_pylist()
        return {row["uri"]: row["caption"] for row in rows}

    def uri(self, name: str) -> str:
        return f"{self.photos}/{name}"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    made = Job(tmp_path_factory.mktemp("export"))
    made.make()
    assert len(made.captions()) == len(NAMES)
    return made


@pytest.fixture
def own_job(job: Job, tmp_path: Path) -> Job:
    """A copy of the output, for a test that changes it; the photographs are those of `job`."""
    copy = Job(tmp_path)
    shutil.copytree(job.output, copy.output)
    copy.photos = job.photos
    return copy


@pytest.fixture(autouse=True)
def nothing_escapes(job: Job) -> Iterator[None]:
    """Whatever a test exports, the folders around it stay as they are."""
    around = sorted(path for path in job.root.rglob("*"))
    yield
    assert sorted(path for path in job.root.rglob("*")) == around


def shade(image: Image.Image) -> int:
    return round(float(np.asarray(image.convert("RGB")).mean()))


def expected(job: Job) -> dict[str, tuple[int, str]]:
    """(grey of the pixels, caption) by URI."""
    captions = job.captions()
    return {uri: (10 * (n + 1), captions[uri]) for n, uri in enumerate(map(job.uri, NAMES))}


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


def test_links_are_to_local_files_and_the_rest_is_copied(job: Job, tmp_path: Path) -> None:
    assert job.export("hf", tmp_path / "hf", "--images=link") == 0
    files = pq.read_table(tmp_path / "hf" / "train" / "metadata.parquet").to_pylist()
    linked = {row["uri"]: (tmp_path / "hf" / "train" / row["file_name"]) for row in files}
    for uri, path in linked.items():
        assert path.is_symlink() == ("#" not in uri)
        assert shade(Image.open(path)) == expected(job)[uri][0]


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


def test_sidecars_in_the_images_own_folders(job: Job, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ["--images=none", "--suffix=.caption", f"--root={job.photos}"]
    assert job.export("sidecar", tmp_path / "tree", *options) == 1
    files = {str(path.relative_to(tmp_path / "tree")) for path in (tmp_path / "tree").rglob("*") if path.is_file()}
    assert {"a/dog.caption", "b/dog.caption", "猫.caption", "no suffix.caption", "set.tar#in/dog.caption"} <= files
    left_out = [json.loads(line) for line in (tmp_path / "tree.left_out.jsonl").read_text().splitlines()]
    hostile = ("b/../c/dog.png", "=cmd|' /C calc'!A0.png", "two\nlines.png", "<img src=x onerror=alert(1)>.png")
    hostile += ("set.tar#../../../escaped.png", f"{'x' * 240}.png")
    assert {row["uri"] for row in left_out} == {job.uri(name) for name in hostile}
    assert len(files) == len(NAMES) - len(left_out)
    error = capfd.readouterr().err
    assert f"6 images left out; each with its reason in {tmp_path}/tree.left_out.jsonl" in error
    assert "without --root, names are generated" in error


def test_two_images_do_not_share_a_sidecar(own_job: Job, tmp_path: Path, job: Job) -> None:
    photos = tmp_path / "mine"
    photos.mkdir()
    for name in ("dog.png", "dog.gif"):
        Image.new("RGB", (9, 9)).save(photos / name)
    own_job.photos, own_job.output = photos, tmp_path / "mine-out"
    (photos / "list.jsonl").write_text("".join(f'{{"uri": "{photos}/dog.{kind}"}}\n' for kind in ("png", "gif")))
    own_job.run()
    assert own_job.export("sidecar", tmp_path / "tree", f"--root={photos}") == 1
    assert sorted(path.name for path in (tmp_path / "tree").iterdir()) == ["dog.png", "dog.txt"]
    assert "NameTaken" in (tmp_path / "tree.left_out.jsonl").read_text()
    assert own_job.export("sidecar", tmp_path / "flat") == 0
    assert len(list((tmp_path / "flat").iterdir())) == 4


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


def test_what_has_changed_or_gone_is_left_out_and_told(own_job: Job, tmp_path: Path, capfd) -> None:
    photos = tmp_path / "mine"
    photos.mkdir()
    for name in ("kept.png", "changed.png", "gone.png"):
        Image.new("RGB", (9, 9)).save(photos / name)
    names = ("kept", "changed", "gone")
    (photos / "list.jsonl").write_text("".join(f'{{"uri": "{photos}/{name}.png"}}\n' for name in names))
    own_job.photos, own_job.output = photos, tmp_path / "mine-out"
    own_job.run()
    Image.new("RGB", (10, 10), (200, 0, 0)).save(photos / "changed.png")
    (photos / "gone.png").unlink()
    for images in ("copy", "link", "embed"):
        capfd.readouterr()
        assert own_job.export("hf", tmp_path / images, f"--images={images}") == 1
        out, err = capfd.readouterr()
        assert f"1 caption in {tmp_path}/{images}" in out
        assert "1 x fetch: Changed" in err
        assert "1 caption of images that no longer exist left out" in out
        assert "run the job again, then export" in err
    rows = pq.read_table(tmp_path / "copy" / "train" / "metadata.parquet")["uri"].to_pylist()
    assert rows == [f"{photos}/kept.png"]
    (photos / "kept.png").write_bytes(b"")
    (photos / "changed.png").write_bytes(b"")
    assert own_job.export("webdataset", tmp_path / "none") == 1
    assert "nothing to export" in capfd.readouterr().out
    assert not (tmp_path / "none").exists()


def test_images_are_read_only_where_their_run_could(own_job: Job, tmp_path: Path, capfd) -> None:
    """Somebody who can add rows to an output cannot have files of the machine exported."""
    secret = tmp_path / "secret.png"
    Image.new("RGB", (9, 9)).save(secret)
    [part, *_] = sorted(own_job.output.glob("captions/*/part-00000.parquet"))
    table = pq.read_table(part, partitioning=None)
    uris = [str(secret), *table["uri"].to_pylist()[1:]]
    table = table.set_column(0, "uri", [uris]).set_column(
        table.schema.get_field_index("object_version"), "object_version", [[None] * table.num_rows]
    )
    pq.write_table(table, part)
    for images in ("copy", "link"):
        assert own_job.export("hf", tmp_path / images, f"--images={images}") == 1
        assert "add --allow_root=" in capfd.readouterr().err
        assert not [p for p in (tmp_path / images).rglob("*.png") if "secret" in p.name]
    assert own_job.export("hf", tmp_path / "allowed", f"--allow_root={tmp_path}") == 0
    shutil.rmtree(own_job.output / "runs")  # without its note nothing is known to be allowed
    assert own_job.export("hf", tmp_path / "none") == 1
    assert not (tmp_path / "none").exists()
    roots = [f"--allow_root={tmp_path}", f"--allow_root={own_job.photos}"]
    assert own_job.export("hf", tmp_path / "both", *roots) == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        pytest.param(
            ["--format=csv", "--images=link"], "--images is for the format hf, sidecar, not for csv", id="csv"
        ),
        pytest.param(["--format=hf", "--root=x"], "--root is for the format sidecar, not for hf", id="root"),
        pytest.param(["--format=hf", "--images=none"], "give one of copy, link, embed", id="images"),
        pytest.param(["--format=webdataset", "--max_rows=0"], "--max_rows must be a whole number from 1", id="rows"),
        pytest.param(["--format=csv", "--to=gs://bucket/x"], "must be a local folder", id="bucket"),
        pytest.param(
            ["--format=csv", "--fetch_timeout=0"], "--fetch_timeout must be a number of seconds above 0", id="timeout"
        ),
        pytest.param(["--format=csv", "--fetch_timeout=nan"], "must be a number of seconds above 0, not nan", id="NaN"),
        pytest.param(["--format=csv", "--fetch_timeout=inf"], "must be a number of seconds above 0, not inf", id="inf"),
        pytest.param(["--format=webdataset", "--max_bytes=-5"], "--max_bytes must be a whole number", id="bytes"),
        pytest.param(["--format=csv", "--output=/none"], "there is no caption in /none", id="no output"),
        pytest.param(["--format=csv", "--allow_schemes=ftp"], "not 'ftp'", id="scheme"),
    ],
)
def test_wrong_usage_is_one_line(job: Job, tmp_path: Path, capfd, options: list[str], told: str) -> None:
    assert main(["export", f"--output={job.output}", f"--to={tmp_path}/x", *options]) == 2
    error = capfd.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_a_folder_that_holds_something_is_left_alone(job: Job, tmp_path: Path, capfd) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert job.export("csv", tmp_path / "full") == 2
    assert "exists and is not an empty folder; name a new folder, or remove it first" in capfd.readouterr().err
    assert os.listdir(tmp_path / "full") == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert job.export("csv", tmp_path / "empty") == 0
    assert job.export("csv", tmp_path / "full" / "mine.txt" / "x") == 1
    assert f"cannot write {tmp_path}/full/mine.txt/x: " in capfd.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["empty", "full"]


def test_a_list_of_what_was_left_out_is_never_overwritten(job: Job, tmp_path: Path, capfd) -> None:
    (tmp_path / "tree.left_out.jsonl").write_text("mine")
    options = ["--images=none", f"--root={job.photos}"]
    for number in (2, 3):
        assert job.export("sidecar", tmp_path / "tree", *options) == 1
        name = f"{tmp_path}/tree.left_out.{number}.jsonl"
        assert f"each with its reason in {name}" in capfd.readouterr().err
        assert len(Path(name).read_text().splitlines()) == 6
        shutil.rmtree(tmp_path / "tree")
    assert (tmp_path / "tree.left_out.jsonl").read_text() == "mine"


def test_an_empty_folder_is_filled_and_stays(job: Job, tmp_path: Path) -> None:
    """A mounted volume is such a folder: it can be neither renamed nor replaced."""
    (tmp_path / "volume").mkdir(mode=0o750)
    (tmp_path / "link").symlink_to("volume")
    folder = (tmp_path / "volume").stat().st_ino
    assert job.export("csv", tmp_path / "link") == 0
    assert os.listdir(tmp_path / "volume") == ["captions.csv"]
    assert (tmp_path / "volume").stat().st_ino == folder
    assert (tmp_path / "link").is_symlink()


def test_an_export_that_breaks_off_leaves_nothing(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("beam_job.results.export.command.write_csv", full)
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        assert job.export("csv", tmp_path / name) == 1
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["empty"]


@pytest.mark.parametrize("fills", [True, False])
def test_what_comes_to_its_place_meanwhile_is_not_replaced(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd, fills: bool
) -> None:
    to = tmp_path / "to"
    if fills:
        to.mkdir()

    def slow(tables: object, folder: str, *_: object) -> tuple[int, int]:
        to.mkdir(exist_ok=True)
        Path(folder, "captions.csv").write_text("ours")
        (to / "captions.csv").write_text("theirs")
        return 1, 0

    monkeypatch.setattr("beam_job.results.export.command.write_csv", slow)
    assert job.export("csv", to) == 2
    assert "by another process during the export" in capfd.readouterr().err
    assert {path.name: path.read_text() for path in to.iterdir()} == {"captions.csv": "theirs"}
    assert os.listdir(tmp_path) == ["to"]


def test_images_of_a_bucket(bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    """Each is asked for in the generation of its row; where that is gone, so is the image."""
    monkeypatch.setattr("beam_job.captioning.caption_shards.load_captioner", lambda *_: FakeCaptioner())
    for name in ("a", "b"):
        bucket.blob(f"photos/{name}.png").upload_from_string(encode(Image.new("RGB", (9, 9)), "PNG"))
    root = f"gs://{bucket.name}"
    assert main([f"--input={root}/photos/", f"--output={root}/out"]) == 0
    bucket.blob("photos/b.png").delete()  # the emulator would give the newest generation, whichever is asked for
    export = ["export", f"--output={root}/out", "--format=sidecar", f"--root={root}/photos", f"--to={tmp_path}/x"]
    assert main([*export[:-1], f"--to={tmp_path}/all", "--missing=keep"]) == 1
    assert f"{root}/photos/b.png: 404 Not Found" in capfd.readouterr().err
    assert main(export) == 0
    assert sorted(os.listdir(tmp_path / "x")) == ["a.png", "a.txt"]
    assert main(["export", f"--output={root}/out", "--format=csv", f"--to={root}/x"]) == 2
