"""CaptionImages in pipelines of other people: each element comes out once, as it went in."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow.parquet as pq
import pytest

from beam_job import CaptionImages, Decoding, JobConfig, run_job
from beam_job.captioning import caption_shards
from beam_job.captioning.caption_elements import InvalidElementError, parse_element
from model import Caption, CaptionerError, Picture
from tests.elements import caption, in_process, write_photos
from tests.fakes import FakeCaptioner
from tests.planned import grey


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


def run(elements: list[Any], transform: CaptionImages) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The captions and failures of elements, in a pipeline of their own."""
    _COLLECTED.clear()
    with in_process() as pipeline:
        results = pipeline | beam.Create(elements) | transform
        both = (
            results.captions | "c" >> beam.Map(lambda row: ("c", row)),
            results.failures | "f" >> beam.Map(lambda row: ("f", row)),
        )
        _ = both | beam.Flatten() | beam.Map(_collect)
    return [row for kind, row in _COLLECTED if kind == "c"], [row for kind, row in _COLLECTED if kind == "f"]


_COLLECTED: list[Any] = []


def _collect(row: Any) -> None:
    """The in-process runner's workers are threads of this process."""
    _COLLECTED.append(row)


def test_every_element_is_one_row(photos: Path, loaded: list[FakeCaptioner]) -> None:
    uris = [str(photos / f"{brightness}.png") for brightness in range(10, 50)]
    captions, failures = run([*uris, str(photos / "bad.png"), str(photos / "none.png")], caption(photos))
    assert {row["uri"]: row["caption"] for row in captions} == {
        str(photos / f"{value}.png"): f"brightness {value}" for value in range(10, 50)
    }
    assert len(captions) == 40
    assert {row["uri"]: (row["stage"], row["retry_when"]) for row in failures} == {
        str(photos / "bad.png"): ("decode", "content"),
        str(photos / "none.png"): ("fetch", "later"),
    }
    assert len(loaded) == 1
    assert max(map(len, loaded[0].batches)) == 8


def test_fields_of_dicts_are_carried_and_do_not_change_the_row(photos: Path, loaded: list[FakeCaptioner]) -> None:
    products = [
        {"uri": str(photos / "10.png"), "product_id": 7, "tags": ["a", "b"]},
        beam.Row(uri=str(photos / "11.png"), product_id=8, tags=[]),
        {"product_id": 9, "uri": str(photos / "bad.png")},
        str(photos / "12.png"),
    ]
    captions, failures = run(products, caption(photos))
    by_name = {Path(row["uri"]).name: row for row in captions}
    assert (by_name["10.png"]["product_id"], by_name["10.png"]["tags"]) == (7, ["a", "b"])
    assert (by_name["11.png"]["product_id"], by_name["11.png"]["tags"]) == (8, [])
    assert "product_id" not in by_name["12.png"]
    assert [row["product_id"] for row in failures] == [9]


def test_the_rows_are_those_of_the_command(photos: Path, tmp_path: Path, loaded: list[FakeCaptioner]) -> None:
    options: dict[str, Any] = {"decoding": Decoding(beam_width=2), "min_score": -0.2}
    output = tmp_path / "out"
    run_job(JobConfig((str(photos),), str(output), **options))
    uris = [str(path) for path in sorted(photos.iterdir())]
    for kind, rows in zip(("captions", "failures"), run(uris, caption(photos, **options)), strict=True):
        [part] = (output / kind).glob("*/*.parquet")
        theirs = pq.ParquetFile(part).read().to_pylist()
        for row in [*theirs, *rows]:
            row.pop("captioned_at", row.pop("failed_at", None))
        for row in theirs:  # null columns of the options that were not given are in files only
            assert (row.pop("captions", None), row.pop("scores", None)) == (None, None)
        # A listing knows the version of an object before it is read, so its failures may have one.
        assert sorted(rows, key=lambda row: row["uri"]) == sorted(theirs, key=lambda row: row["uri"])
        assert rows


def test_elements_that_are_no_images_are_failures(photos: Path, loaded: list[FakeCaptioner]) -> None:
    elements: dict[str, Any] = {
        "must be a URI or a dict with uri, not 7": 7,
        "uri must be text, not None": {"url": "x"},
        "uri must be text, not ''": "",
        "uri must be text, not 9": {"uri": 9},
        "'Width' is a column of the output": {"uri": "x", "Width": 3},
        "3 is a column of the output": {"uri": "x", 3: 3},
    }
    captions, failures = run([*elements.values(), str(photos / "10.png")], caption(photos))
    assert [row["caption"] for row in captions] == ["brightness 10"]
    assert {(row["stage"], row["error_type"]) for row in failures} == {("list", "InvalidElementError")}
    assert len(failures) == len(elements)
    for message in elements:
        assert len([row for row in failures if message in row["error_message"]]) == 1, message


def test_names_that_are_no_unicode_cannot_become_rows() -> None:
    """Beam's coders do not take them either; they come from a step that is fused with this one."""
    with pytest.raises(InvalidElementError, match="not valid Unicode"):
        parse_element({"uri": "/photos/\udcff.png"}, JobConfig((), ""))


def test_only_allowed_places_are_read(photos: Path, tmp_path: Path, loaded: list[FakeCaptioner]) -> None:
    (tmp_path / "secret.png").write_bytes(grey(99))
    others = [
        str(tmp_path / "secret.png"),
        "gs://other/a.png",
        "http://169.254.169.254/a.png",
        f"{photos}/../secret.png",
    ]
    captions, failures = run([*others, str(photos / "10.png")], caption(photos))
    assert [row["caption"] for row in captions] == ["brightness 10"]
    assert {row["uri"] for row in failures} == set(others)
    assert {(row["stage"], row["error_type"]) for row in failures} == {("list", "NotAllowed")}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        pytest.param({}, ValueError, r"name those of the images: allow_buckets=\['gs://photos'\]", id="nothing"),
        pytest.param({"allow_rot": ["/"]}, TypeError, "has no option allow_rot; did you mean allow_root", id="unknown"),
        pytest.param({"allow_root": "/photos"}, TypeError, "allow_root must be a list, not '/photos'", id="text"),
        pytest.param({"allow_root": ["/"], "batch_size": 0}, ValueError, "--batch_size must be", id="range"),
        pytest.param({"allow_root": ["/"], "output": "out"}, TypeError, "has no option output", id="of the job"),
    ],
)
def test_wrong_options_are_refused_at_once(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        CaptionImages(**options)


def test_it_travels_to_other_processes(photos: Path) -> None:
    transform = caption(photos)
    assert pickle.loads(pickle.dumps(transform))._config == transform._config


def test_what_stops_the_captioner_fails_the_pipeline(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No row says that an image failed which did not."""
    captioner = FakeCaptioner(poison=12, error=CaptionerError("the key is refused"))
    monkeypatch.setattr(caption_shards, "load_captioner", lambda *_: captioner)
    with pytest.raises(Exception, match="the key is refused"):
        run([str(photos / f"{number}.png") for number in range(10, 20)], caption(photos))
    assert not _COLLECTED


def test_a_bad_image_fails_alone(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_shards, "load_captioner", lambda *_: FakeCaptioner(poison=12))
    captions, failures = run([str(photos / f"{number}.png") for number in range(10, 20)], caption(photos))
    assert len(captions) == 9
    assert [(Path(row["uri"]).name, row["stage"]) for row in failures] == [("12.png", "caption")]


class Answering:
    """Answers with the prompt, the size of the picture and a field of its element."""

    version = "answering-1"
    max_side = 16

    def caption_pictures(self, pictures: list[Picture]) -> list[list[Caption]]:
        return [[Caption(f"{each.prompt} {each.pixels.shape} {each.columns['brand']}", None)] for each in pictures]


def make_answering(model: str | None, decoding: Decoding) -> Answering:
    return Answering()


def test_prompts_and_pictures_in_their_own_shape(photos: Path) -> None:
    elements = [{"uri": str(photos / "10.png"), "brand": "Acme"}, str(photos / "11.png")]
    asking = caption(
        photos,
        captioner="tests.beam_job.test_transforms:make_answering",
        prompts={"caption": "What?", "maker": "Is it {brand}?"},
    )
    [row], [failure] = run(elements, asking)
    assert (row["caption"], row["score"], row["brand"]) == ("What? (11, 16, 3) Acme", None, "Acme")
    assert row["caption_maker"] == "Is it Acme? (11, 16, 3) Acme"
    assert failure["error_message"] == "an element has no field 'brand', which the prompt names"
