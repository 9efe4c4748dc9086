"""The names and suffixes that exports give to files, and to columns of BigQuery."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from beam_job.results.export.bigquery import column_names
from beam_job.results.export.names import UnusableNameError, flat_name, name_below, suffix_of
from tests.hostile_names import NAMES
from tests.images import encode


def test_names_that_bigquery_takes() -> None:
    assert column_names(["uri", "URI", "a.b", "a b", "2x", "_table_x", "猫"]) == [
        *("uri", "URI_2", "a_b", "a_b_2", "c_2x", "c__table_x", "_"),
    ]


@pytest.mark.parametrize("uri", [*NAMES, "https://h/x.jpg?sig=SECRET", "gs://b/../..", "///", "a\x00b"], ids=repr)
def test_flat_names_are_names(uri: str) -> None:
    name = flat_name(uri)
    assert len(os.fsencode(name)) < 200
    assert "/" not in name
    assert name[0] not in "-."
    assert name.isprintable()
    assert "SECRET" not in name
    assert flat_name(uri + "x") != name


@pytest.mark.parametrize(
    ("uri", "root", "name"),
    [
        ("gs://b/set/a/x.jpg", "gs://b/set", "a/x.jpg"),
        ("gs://b/set/a/x.jpg", "gs://b/set/", "a/x.jpg"),
        ("gs://b/settle/x.jpg", "gs://b/set", None),
        ("gs://b/set//x.jpg", "gs://b/set", None),
        ("gs://b/set/../x.jpg", "gs://b/set", None),
        ("/photos/x.jpg", "file:///photos", "x.jpg"),
        ("/photos/./x.jpg", "/photos", None),
        ("/etc/passwd", "/photos", None),
        ("/photos/C:x.jpg", "/photos", None),
        ("/photos/a\u202egpj.exe", "/photos", None),
    ],
)
def test_names_below_a_root(uri: str, root: str, name: str | None) -> None:
    if name is not None:
        assert name_below(uri, root) == name
        return
    with pytest.raises(UnusableNameError):
        name_below(uri, root)


def test_relative_uris_lie_below_a_relative_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert name_below("photos/x.jpg", "photos") == "x.jpg"
    assert name_below(f"{tmp_path}/photos/x.jpg", "photos") == "x.jpg"


@pytest.mark.parametrize(
    ("suffix", "kind"),
    {
        ".jpg": "JPEG",
        ".png": "PNG",
        ".webp": "WEBP",
        ".gif": "GIF",
        ".bmp": "BMP",
        ".tif": "TIFF",
        ".avif": "AVIF",
    }.items(),
)
def test_the_content_tells_the_suffix(suffix: str, kind: str) -> None:
    assert suffix_of(encode(Image.new("RGB", (16, 16)), kind)[:16]) == suffix
