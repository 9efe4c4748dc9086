"""Which rows of a list remain: patterns, sizes, samples, limits."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pyarrow as pa
import pytest

from beam_job.inputs.filters import Filters

URIS = ["gs://b/a.jpg", "gs://b/dogs/a.jpg", "gs://b/dogs/deep/b.JPG", "gs://b/cats/c1.png", "gs://b/cats/c[2].png"]


def batch(uris, sizes=None) -> pa.RecordBatch:
    columns = {"uri": pa.array(uris, pa.string()), "size": pa.array(sizes or [None] * len(uris), pa.int64())}
    return pa.record_batch({**columns, "row": pa.array(range(len(uris)))})


def rows(filters: Filters, *batches: pa.RecordBatch) -> list[int]:
    """The numbers of the rows that pass, each counted in its batch."""
    return [row for passed in filters.apply(batches) for row in passed["row"].to_pylist()]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        pytest.param("gs://b/*.jpg", [0], id="a star stays in its segment"),
        pytest.param("gs://b/*/*.jpg", [1], id="a star for a folder"),
        pytest.param("gs://b/**.jpg", [0, 1], id="two stars cross folders"),
        pytest.param("gs://b/**/a.jpg", [0, 1], id="no folder is also any number of folders"),
        pytest.param("gs://b/dogs/**", [1, 2], id="all below a folder"),
        pytest.param("**/dogs/*", [1], id="a folder anywhere"),
        pytest.param("gs://b/dogs", [], id="the whole URI, not its start"),
        pytest.param("b/a.jpg", [], id="the whole URI, not its end"),
        pytest.param("a.jpg", [0, 1], id="the last segment"),
        pytest.param("*.jpg", [0, 1], id="case counts"),
        pytest.param("d*a.jpg", [], id="the last segment only"),
        pytest.param("d**a.jpg", [], id="two stars of the last segment"),
        pytest.param("?.*", [0, 1, 2], id="one character"),
        pytest.param("gs:/?b/a.jpg", [], id="one character is no slash"),
        pytest.param("[ab].*", [0, 1, 2], id="a class"),
        pytest.param("[!a].*", [2], id="not of a class"),
        pytest.param("[^a-b].*", [], id="not of a range"),
        pytest.param("c[0-9].png", [3], id="a range"),
        pytest.param("c[[]2].png", [4], id="a bracket in a class"),
        pytest.param("c[[]2[]].png", [4], id="a closing bracket first in a class"),
        pytest.param("c[2].png", [], id="a name's own brackets are a class"),
        pytest.param("gs:/[!a]b/a.jpg", [], id="a negated class is no slash"),
        pytest.param("gs:/[/x]b/a.jpg", [], id="a class is no slash"),
        pytest.param("[", [], id="an open bracket is itself"),
        pytest.param("a+jpg", [], id="signs of regular expressions are themselves"),
        pytest.param("a.jp", [], id="a dot is itself, to the end"),
    ],
)
def test_patterns(pattern: str, expected: list[int]) -> None:
    assert rows(Filters(include=(pattern,)), batch(URIS)) == expected
    assert rows(Filters(exclude=(pattern,)), batch(URIS)) == [row for row in range(5) if row not in expected]


@pytest.mark.parametrize(
    ("pattern", "uri"),
    [
        pytest.param("*.jpg", "a\nb.jpg", id="line break in a name"),
        pytest.param("ü?.jpg", "/x/üß.jpg", id="a character of two bytes is one"),
        pytest.param("[ä-ü].jpg", "ö.jpg", id="a range beyond ASCII"),
        pytest.param("a-b c#&~.jpg", "a-b c#&~.jpg", id="signs"),
        pytest.param("x[a-].jpg", "x-.jpg", id="a hyphen last in a class"),
        pytest.param("x[!-a].jpg", "x0.jpg", id="a hyphen first in a negated class"),
        pytest.param("x[!].jpg", "x!.jpg", id="a class of an exclamation mark"),
        pytest.param("[]].jpg", "].jpg", id="a class of a closing bracket"),
        pytest.param("x[].jpg", "x[].jpg", id="an empty class is itself"),
    ],
)
def test_odd_names(pattern: str, uri: str) -> None:
    assert rows(Filters(include=(pattern,)), batch([uri, "other/name.gif"])) == [0]


def test_any_include_and_no_exclude() -> None:
    filters = Filters(include=("*.jpg", "*.png"), exclude=("gs://b/dogs/**", "c1.*"))
    assert rows(filters, batch(URIS)) == [0, 4]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        pytest.param(Filters(min_bytes=10), [1, 2, 3], id="at least"),
        pytest.param(Filters(max_bytes=10), [0, 1, 3], id="at most"),
        pytest.param(Filters(min_bytes=10, max_bytes=10), [1, 3], id="exactly"),
        pytest.param(Filters(), [0, 1, 2, 3], id="any"),
    ],
)
def test_an_unknown_size_passes(filters: Filters, expected: list[int]) -> None:
    assert rows(filters, batch(["a", "b", "c", "d"], [9, 10, 11, None])) == expected


def test_all_columns_stay_as_they_are() -> None:
    [passed] = Filters(include=("c*",)).apply([batch(URIS, [1, 2, 3, 4, 5])])
    assert passed.schema == batch(URIS).schema
    assert passed.to_pylist() == [
        {"uri": "gs://b/cats/c1.png", "size": 4, "row": 3},
        {"uri": "gs://b/cats/c[2].png", "size": 5, "row": 4},
    ]


def test_limit_counts_what_remains_and_stops_reading() -> None:
    read = []

    def batches():
        for number in range(100):
            read.append(number)
            yield batch(["a.jpg", "b.png", "c.jpg"])

    passed = list(Filters(include=("*.jpg",), limit=5).apply(batches()))
    assert [part["uri"].to_pylist() for part in passed] == [["a.jpg", "c.jpg"], ["a.jpg", "c.jpg"], ["a.jpg"]]
    assert read == [0, 1, 2]


def test_limit_reached_at_the_end_of_a_batch_reads_no_other() -> None:
    def batches():
        yield batch(["a", "b"])
        raise AssertionError("read on")

    assert [part.num_rows for part in Filters(limit=2).apply(batches())] == [2]


def test_batches_without_a_row_are_left_out() -> None:
    assert list(Filters(include=("*.gif",)).apply([batch(URIS), batch([])])) == []


def test_a_sample_is_part_of_a_larger_one() -> None:
    many = batch([f"gs://b/{number}.jpg" for number in range(10_000)])
    samples = [set(rows(Filters(sample=share), many)) for share in (0.1, 0.2, 0.7, 1.0)]
    assert samples[0] < samples[1] < samples[2] < samples[3] == set(range(10_000))
    # The hash is fixed, so this never fails by chance; four standard deviations are 120 of 10,000 at 0.1.
    assert [round(len(sample), -3) for sample in samples] == [1_000, 2_000, 7_000, 10_000]


def test_a_sample_does_not_depend_on_process_order_or_batches() -> None:
    script = (
        "import pyarrow as pa; from beam_job.inputs.filters import Filters;"
        "uris = pa.array([f'{n}.jpg' for n in range(40)]);"
        "print([u for b in Filters(sample=0.3).apply([pa.record_batch({'uri': uris})]) for u in b['uri'].to_pylist()])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    names = [f"{number}.jpg" for number in range(40)]
    halves = batch(names[:20]), batch(names[20:])
    here = [uri for part in Filters(sample=0.3).apply(halves) for uri in part["uri"].to_pylist()]
    assert done.stdout.strip() == str(here)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"sample": 2.0}, "--sample must be above 0 and at most 1, not 2.0", id="sample above 1"),
        pytest.param({"sample": 0.0}, "--sample must be above 0 and at most 1, not 0.0", id="sample of nothing"),
        pytest.param(
            {"sample": float("nan")}, "--sample must be above 0 and at most 1, not nan", id="sample no number"
        ),
        pytest.param({"limit": 0}, "--limit must be 1 or more, not 0", id="limit of nothing"),
        pytest.param({"min_bytes": -1}, "--min_bytes must be 0 or more, not -1", id="min_bytes below 0"),
        pytest.param({"max_bytes": -2}, "--max_bytes must be 0 or more, not -2", id="max_bytes below 0"),
        pytest.param(
            {"min_bytes": 5, "max_bytes": 4},
            r"--min_bytes must be at most --max_bytes \(4\), not 5",
            id="crossed sizes",
        ),
        pytest.param({"include": ("",)}, "--include must not be an empty pattern", id="empty include"),
        pytest.param({"exclude": ("*", "[z-a]")}, r"--exclude '\[z-a\]' is not a pattern", id="reversed range"),
    ],
)
def test_refused_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Filters(**options)  # type: ignore[arg-type]


def test_filters_travel() -> None:
    filters = Filters(include=("*.jpg",), sample=0.5)
    assert pickle.loads(pickle.dumps(filters)) == filters
