"""The page of captions before and after: whole, self-contained, and inert whatever the captions say."""

from __future__ import annotations

import base64
import html
import io
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from model import Caption, check_bundle
from model.training.compare import main, page, spread
from model.training.data import Example
from tests.images import encode

WIDE = Example("wide.jpg", encode(Image.new("RGB", (400, 100), "blue"), "JPEG"), ("a sea <b>", "two & two"))


def test_a_row_has_the_photograph_and_all_captions_as_text() -> None:
    before, after = [Caption("a <script>alert(1)</script>", -1.25)], [Caption("the sea", -0.5)]
    found = page([WIDE], before, after, ["model-<1>", "model-2"])
    assert "<p>1 of 1 captions differ between model-&lt;1&gt; and model-2" in found
    assert "<th>image<th>human captions<th>model-&lt;1&gt;<th>model-2" in found
    cells = re.split("<td>", found)[1:]
    assert cells[1] == "a sea &lt;b&gt;<br>two &amp; two"
    assert cells[2] == "a &lt;script&gt;alert(1)&lt;/script&gt; <i>-1.25</i>"
    assert cells[3].startswith("the sea <i>-0.50</i>")
    [data] = re.findall('src="data:image/jpeg;base64,([^"]+)"', found)
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (224, 56)
    assert "http" not in found


def test_what_differs_comes_first() -> None:
    same, old, new = Caption("a sea", -1.0), Caption("before", -1.0), Caption("after", -1.0)
    found = page([WIDE, WIDE, WIDE], [same, old, same], [same, new, same], ["first", "second"])
    assert "1 of 3 captions differ between first and second" in found
    assert [cell.split(" <i>")[0] for cell in re.split("<td>", found)[3::4]] == ["before", "a sea", "a sea"]


def test_the_photographs_are_spread_over_the_data() -> None:
    examples = [Example(str(number), b"", ("x",)) for number in range(10)]
    assert [example.image_id for example in spread(examples, 4)] == ["0", "2", "5", "7"]
    assert spread(examples, 50) == examples


def test_the_command(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"image": WIDE.image, "captions": [f"number {number}"]} for number in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    models = [f"--before={tiny_bundle}", f"--after={tiny_bundle}", "--engine=tensorflow", "--decoding=greedy"]
    arguments = [f"--data={tmp_path}/data.parquet", *models, f"--output={tmp_path}/page.html", "--images=2"]
    assert main(arguments) == 0
    named = f"{tiny_bundle} ({check_bundle(tiny_bundle)})"
    told = capsys.readouterr().out
    assert told == f"{tmp_path}/page.html: 0 of 2 captions differ between {named} and {named}\n"
    found = html.unescape((tmp_path / "page.html").read_text())
    assert re.findall("number .", found) == ["number 0", "number 1"]
    captions = re.findall("<td>([^<]+<i>.*?</i>)<td>(.*)", found)
    assert len(captions) == 2
    assert all(before == after for before, after in captions)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        pytest.param("--before=nowhere", "no model at nowhere", id="no bundle"),
        pytest.param("--images=0", "--images must be a whole number from 1, not 0", id="no image"),
    ],
)
def test_wrong_usage(
    argument: str, message: str, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(pa.Table.from_pylist([{"image": WIDE.image, "captions": ["x"]}]), tmp_path / "data.parquet")
    models = [f"--before={tiny_bundle}", f"--after={tiny_bundle}"]
    assert main([f"--data={tmp_path}/data.parquet", *models, f"--output={tmp_path}/page.html", argument]) == 2
    assert capsys.readouterr().err.startswith(f"model compare: {message}")
    assert not (tmp_path / "page.html").exists()
