"""Models of the Hub: a revision that is looked up once, files that are safe, and refusals of one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_api

from beam_job.captioners.hub import ModelSource, find_source
from model import CaptionerError
from tests.hub_server import COMMITS, hub

MAIN, V1 = COMMITS["main"], COMMITS["v1"]


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The Hub, with one model; what it was asked for."""
    files = tmp_path / "files"
    files.mkdir()
    for name in ("model.safetensors", "tokenizer.json", "pytorch_model.bin", "code.py"):
        (files / name).write_bytes(b"content")
    (files / "config.json").write_text('{"model_type": "blip"}')
    empty = tmp_path / "empty"
    empty.mkdir()
    with hub({"some/model": files, "some/gated": files, "some/dataset": empty}) as (address, paths):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(hf_api.api, "endpoint", address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield paths


@pytest.mark.parametrize(
    ("model", "revision"),
    [
        pytest.param("some/model", MAIN, id="main"),
        pytest.param("some/model@v1", V1, id="tag"),
        pytest.param(f"some/model@{V1}", V1, id="commit"),
    ],
)
def test_the_revision_becomes_a_commit(model: str, revision: str, asked: list[str]) -> None:
    source = find_source(model)
    assert (source.revision, source.kind, source.version) == (revision, "blip", f"some/model@{revision}")


def test_a_worker_takes_the_revision_of_the_run(asked: list[str]) -> None:
    assert find_source("some/model", V1) == ModelSource("some/model", V1, False)
    assert asked == []


def test_only_weights_and_text_are_downloaded(asked: list[str]) -> None:
    folder = find_source("some/model").files()
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "tokenizer.json"}


def test_what_is_in_the_cache_needs_no_network(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first = find_source("some/model")
    first.files()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked.clear()
    assert find_source("some/model") == first
    assert (first.files() / "model.safetensors").is_file()
    assert asked == []


@pytest.mark.parametrize(
    ("model", "message"),
    [
        pytest.param("some/gated", "some/gated is gated: accept its terms at http://.*, and log in", id="gated"),
        pytest.param("some/other", "some/other was not found at http://.*; check the name", id="missing"),
        pytest.param("some/model@v7", "some/model has no revision 'v7'", id="revision"),
        pytest.param("some/dataset", "some/dataset has no config.json", id="no model"),
        pytest.param("some/..", "some/.. is not a valid model name", id="no name"),
        pytest.param("photos/of/cats", "is neither a folder here nor a name like", id="path"),
        pytest.param("gs://bucket/model", "is neither a folder here nor a name like", id="bucket"),
    ],
)
def test_a_model_that_cannot_be_had_is_one_line(model: str, message: str, asked: list[str]) -> None:
    with pytest.raises(CaptionerError, match=message) as raised:
        find_source(model)
    assert "\n" not in str(raised.value)


def test_a_model_that_is_not_there_offline_is_one_line(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        CaptionerError, match=r"some/model is not in the cache .* cannot be reached; connect to the network, or"
    ):
        find_source("some/model")


def test_a_hub_that_cannot_be_reached_is_one_line(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the library's attempts
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    with pytest.raises(CaptionerError, match="some/model is not in the cache"):
        find_source("some/model")
