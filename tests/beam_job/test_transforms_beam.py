"""CaptionImages among other transforms: windows, timestamps, streams, rows with a schema, the interactive runner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam import coders
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_stream
from apache_beam.testing.util import assert_that
from apache_beam.transforms.window import FixedWindows, GlobalWindows, SlidingWindows, TimestampedValue
from apache_beam.typehints.row_type import RowTypeConstraint

from beam_job.output.tables import FAILURE_SCHEMA
from tests.elements import caption, in_process, write_photos
from tests.fakes import FakeCaptioner


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


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
