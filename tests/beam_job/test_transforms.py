"""CaptionImages and CaptionModelHandler in pipelines of other people: each element comes out once, as it went in."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq
import pytest
from apache_beam import coders
from apache_beam.ml.inference.base import KeyedModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_stream
from apache_beam.testing.util import assert_that
from apache_beam.transforms.window import FixedWindows, GlobalWindows, SlidingWindows, TimestampedValue
from apache_beam.typehints.row_type import RowTypeConstraint

from beam_job import CaptionImages, CaptionModelHandler, Decoding, JobConfig, run_job
from beam_job.captioning import caption_shards
from beam_job.captioning.caption_elements import InvalidElementError, parse_element
from beam_job.output.sink import FAILURE_SCHEMA
from beam_job.records import CaptionedImage, DecodedImage, Failure, ImageInput
from model import Caption, CaptionerError, Picture
from tests.fakes import FakeCaptioner
from tests.planned import grey


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[FakeCaptioner]:
    """The captioners that were opened."""
    captioners: list[FakeCaptioner] = []

    def load(*_: object) -> FakeCaptioner:
        captioners.append(FakeCaptioner())
        return captioners[-1]

    monkeypatch.setattr(caption_shards, "load_captioner", load)
    return captioners


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Grey pictures named by their brightness, 10 to 49, and one that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for brightness in range(10, 50):
        (folder / f"{brightness}.png").write_bytes(grey(brightness))
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


def caption(photos: Path, **options: Any) -> CaptionImages:
    return CaptionImages(**{"allow_root": [str(photos)], "batch_size": 8} | options)


def in_process(*options: str) -> beam.Pipeline:
    return beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner", *options]))


def run(elements: list[Any], transform: CaptionImages) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The captions and failures of elements, in a pipeline of their own."""
    with in_process() as pipeline:
        results = pipeline | beam.Create(elements) | transform
        both = (
            results.captions | "c" >> beam.Map(lambda row: ("c", row)),
            results.failures | "f" >> beam.Map(lambda row: ("f", row)),
        )
        _ = both | beam.Flatten() | beam.Map(_collect)
    got, _COLLECTED[:] = list(_COLLECTED), []
    return [row for kind, row in got if kind == "c"], [row for kind, row in got if kind == "f"]


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


def test_windows_and_timestamps_are_kept(photos: Path, loaded: list[FakeCaptioner]) -> None:
    """Also of elements in several windows, and of failures."""

    def placed(row: Any, time: Any = beam.DoFn.TimestampParam, window: Any = beam.DoFn.WindowParam) -> Any:
        return Path(row["uri"]).name, float(time), float(window.start), float(window.end)

    def check(found: list[Any]) -> None:
        expected = []
        for number in range(10, 40):
            starts = [start for start in range(number - number % 5, number - 10, -5) if start + 10 > number]
            expected += [(f"{number}.png", number, start, start + 10) for start in starts]
        expected += [("bad.png", 12, start, start + 10) for start in (5, 10)]
        assert sorted(found) == sorted(expected)

    with in_process() as pipeline:
        results = (
            pipeline
            | beam.Create([*((f"{number}.png", number) for number in range(10, 40)), ("bad.png", 12)])
            | beam.MapTuple(lambda name, time: TimestampedValue(str(photos / name), time))
            | beam.WindowInto(SlidingWindows(10, 5))
            | caption(photos)
        )
        both = (results.captions, results.failures) | beam.Flatten() | beam.Map(placed)
        assert_that(both | "global" >> beam.WindowInto(GlobalWindows()), check)


def test_a_stream(photos: Path, loaded: list[FakeCaptioner]) -> None:
    """Images arrive over time; each window has its counts when its watermark has passed, late ones included."""
    events = (
        test_stream.TestStream()
        .advance_watermark_to(0)
        .add_elements([TimestampedValue(str(photos / f"{number}.png"), number - 10) for number in range(10, 16)])
        .advance_watermark_to(60)
        .add_elements([TimestampedValue(str(photos / "20.png"), 61), TimestampedValue(str(photos / "bad.png"), 62)])
        .advance_watermark_to_infinity()
    )

    def counted(count: int, window: Any = beam.DoFn.WindowParam) -> tuple[float, int]:
        return float(window.start), count

    with beam.Pipeline(options=PipelineOptions(["--streaming", "--allow_unsafe_triggers"])) as pipeline:
        results = pipeline | events | beam.WindowInto(FixedWindows(60)) | caption(photos)
        for name, rows, expected in (
            ("captions", results.captions, [(0.0, 6), (60.0, 1)]),
            ("failures", results.failures, [(60.0, 1)]),
        ):
            counts = (
                rows
                | f"{name} ones" >> beam.Map(lambda _: 1)
                | f"{name} sum" >> beam.CombineGlobally(sum).without_defaults()
                | f"{name} window" >> beam.Map(counted)
            )
            assert_that(counts, lambda found, expected=expected: _equal(sorted(found), expected), label=name)


def _equal(found: list[Any], expected: list[Any]) -> None:
    assert found == expected


def test_rows_with_a_schema(photos: Path, loaded: list[FakeCaptioner]) -> None:
    """They have registered types, survive their coder, and hold what the dicts do."""

    def check(found: list[Any]) -> None:
        [row] = found
        assert (row.caption, row.width, row.product_id, row.low_confidence) == ("brightness 10", 30, 7, True)
        assert row.captioned_at.to_utc_datetime().year >= 2026

    def check_failures(found: list[Any]) -> None:
        [row] = found
        assert (row.stage, row.transient, row.product_id) == ("decode", False, 7)

    with in_process() as pipeline:
        uris = [{"uri": str(photos / name), "product_id": 7} for name in ("10.png", "bad.png")]
        results = pipeline | beam.Create(uris) | caption(photos, min_score=-0.01)
        assert results.captions.element_type == dict[str, Any]
        rows, failures = results.caption_rows(product_id=int), results.failure_rows(product_id=int)
        assert isinstance(rows.element_type, RowTypeConstraint)
        assert isinstance(coders.registry.get_coder(rows.element_type), coders.RowCoder)
        names = [name for name, _ in failures.element_type._fields]
        assert names == [*FAILURE_SCHEMA.names, "product_id"]
        assert_that(rows | "r" >> beam.Reshuffle(), check, label="rows")
        assert_that(failures | "f" >> beam.Reshuffle(), check_failures, label="failure rows")


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


def test_run_inference_over_decoded_images(loaded: list[FakeCaptioner]) -> None:
    """Keys are kept; an image is pixels, or a decoded image with its URI."""
    pixels = [np.full((8, 8, 3), brightness, np.uint8) for brightness in range(10, 30)]
    image = DecodedImage(ImageInput("gs://b/a.png"), pixels[0], 640, 480, "1")

    def check(found: list[Any]) -> None:
        results = dict(found)
        assert len(found) == len(results) == 21
        assert all(isinstance(result, CaptionedImage) for result in results.values())
        assert {key: result.captions[0].text for key, result in results.items()} == {
            **{number: f"brightness {10 + number}" for number in range(20)},
            "image": "brightness 10",
        }
        assert (results["image"].uri, results["image"].width) == ("gs://b/a.png", 640)

    with in_process() as pipeline:
        keyed = pipeline | beam.Create([*enumerate(pixels), ("image", image)])
        results = keyed | RunInference(KeyedModelHandler(CaptionModelHandler(batch_size=8)))
        assert_that(results, check)
    assert len(loaded) == 1


def test_inference_of_a_bad_image_is_a_failure() -> None:
    from beam_job.captioning.batches import BatchCaptioner

    handler = CaptionModelHandler()
    model = BatchCaptioner(FakeCaptioner(poison=12), 4, print)
    pixels = [np.full((8, 8, 3), brightness, np.uint8) for brightness in (11, 12, 13)]
    results = list(handler.run_inference(pixels, model))
    assert [type(result) for result in results] == [CaptionedImage, Failure, CaptionedImage]
    assert handler.get_num_bytes(pixels) == 3 * 8 * 8 * 3


@pytest.fixture
def interactive() -> Any:
    try:
        from apache_beam.runners.interactive import interactive_beam
    except (ImportError, AttributeError) as error:
        pytest.skip(f"Beam's interactive runner does not import here: {error}")
    return interactive_beam


def test_the_interactive_runner(photos: Path, loaded: list[FakeCaptioner], interactive: Any) -> None:
    from apache_beam.runners.interactive.interactive_runner import InteractiveRunner

    pipeline = beam.Pipeline(InteractiveRunner())
    results = pipeline | beam.Create([str(photos / "10.png"), str(photos / "bad.png")]) | caption(photos)
    captions, failures = results.captions, results.failures
    interactive.watch({"pipeline": pipeline, "captions": captions, "failures": failures})
    assert interactive.collect(captions)["caption"].tolist() == ["brightness 10"]
    assert interactive.collect(failures)["stage"].tolist() == ["decode"]
