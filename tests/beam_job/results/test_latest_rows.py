"""Which row of a URI counts, over runs with other options, other content and failures."""

from __future__ import annotations

from pathlib import Path

import pyarrow.dataset as ds
import pytest

from beam_job.cli.command import main
from beam_job.records import Failure
from model import Decoding
from tests.outputs import add_run

GREEDY, BEAM = Decoding(beam_width=1), Decoding(beam_width=5)


@pytest.fixture
def output(tmp_path: Path) -> str:
    return f"{tmp_path}/out"


def current(output: str) -> dict[str, str]:
    to = Path(output).parent / "to"
    assert main(["snapshot", f"--output={output}", f"--to={to}"]) == 0
    tables = [ds.dataset(to / "data").to_table().to_pylist() if (to / "data").exists() else []]
    return {row["uri"]: row["caption"] for rows in tables for row in rows}


def test_back_to_earlier_options_shows_their_captions(output: str) -> None:
    """The job has nothing to do, since they were captioned so before; its run is recorded without an image."""
    add_run(output, 1, {"a": "greedy a", "b": "greedy b"}, decoding=GREEDY)
    add_run(output, 2, {"a": "beam a", "b": "beam b"}, decoding=BEAM)
    assert current(output) == {"a": "beam a", "b": "beam b"}
    add_run(output, 3, decoding=GREEDY, skipped=2)
    assert current(output) == {"a": "greedy a", "b": "greedy b"}
    add_run(output, 4, {"c": "greedy c"}, decoding=GREEDY, skipped=2)
    assert current(output) == {"a": "greedy a", "b": "greedy b", "c": "greedy c"}
    add_run(output, 5, decoding=BEAM, skipped=3)
    assert current(output) == {"a": "beam a", "b": "beam b", "c": "greedy c"}


def test_status_shows_a_run_that_had_nothing_to_do(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    add_run(output, 1, {"a": "greedy a"}, decoding=GREEDY)
    add_run(output, 3, decoding=GREEDY, skipped=1)
    assert main(["status", f"--output={output}", "--no_listing"]) == 0
    assert "nothing to do, 1 already done\n" in capsys.readouterr().out


def test_another_content_comes_before_the_options(output: str) -> None:
    add_run(output, 1, {"a": "greedy old"}, decoding=GREEDY, version="v1")
    add_run(output, 2, {"a": "beam new"}, decoding=BEAM, version="v2")
    add_run(output, 3, {"b": "greedy b"}, decoding=GREEDY)
    assert current(output) == {"a": "beam new", "b": "greedy b"}


def test_of_the_same_options_the_newest_counts(output: str) -> None:
    for hour in (1, 2, 3):
        add_run(output, hour, {"a": f"caption {hour}"}, decoding=GREEDY)
    assert current(output) == {"a": "caption 3"}


def test_a_failure_takes_the_place_of_a_caption_of_other_content_only(output: str) -> None:
    add_run(output, 1, {"a": "caption a", "b": "caption b"}, version="v1")
    same = Failure("a", "caption", "RuntimeError", "try again", True, "v1")
    other = Failure("b", "decode", "ImageError", "no image", False, "v2")
    add_run(output, 2, failures=[same, other])
    assert current(output) == {"a": "caption a"}


def test_without_any_manifest_the_newest_counts(output: str) -> None:
    for hour, decoding in ((1, GREEDY), (2, BEAM)):
        run = add_run(output, hour, {"a": f"caption {hour}"}, decoding=decoding)
        run.storage.delete(run.manifest)
    assert current(output) == {"a": "caption 2"}
