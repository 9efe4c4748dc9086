"""Each place that images may lie in, from end to end: the real command, a captioner that tells brightnesses."""

from __future__ import annotations

import functools
import http.server
import importlib
import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from beam_job.cli.command import main
from tests.fakes import FakeCaptioner
from tests.outputs import table
from tests.tars import write_tar

SHADES = (10, 120, 230)
JSON = b'{"similarity": %.1f, "original": "a photograph"}'


def photograph(shade: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((30, 40, 3), shade, np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """Runs the job; the caption of each URI."""
    monkeypatch.setattr("beam_job.captioning.caption_shards.load_captioner", lambda *_: FakeCaptioner())
    output = tmp_path / "out"

    def run(given: object, *options: str) -> dict[str, str]:
        assert main([f"--input={given}", f"--output={output}", *options]) == 0
        return {row["uri"]: row["caption"] for row in table(output, "captions")}

    run.output = output  # type: ignore[attr-defined]
    return run


def captions(root: str, names: str = "{}.jpg") -> dict[str, str]:
    return {f"{root}{names.format(shade)}": f"brightness {shade}" for shade in SHADES}


def fill_tar(path: Path) -> Path:
    files = {f"{shade}.jpg": photograph(shade) for shade in SHADES}
    return write_tar(path, files | {f"{shade}.json": JSON % (shade / 10) for shade in SHADES})


def test_tars_of_a_folder_with_their_json(run, tmp_path: Path) -> None:
    tar = fill_tar(tmp_path / "00000.tar")
    assert run(tar, "--carry_columns=similarity,original") == captions(f"{tar}#")
    assert {row["uri"]: (row["similarity"], row["original"]) for row in table(run.output, "captions")} == {
        f"{tar}#{shade}.jpg": (shade / 10, "a photograph") for shade in SHADES
    }
    assert run(tar, "--carry_columns=similarity,original") == captions(f"{tar}#")  # the second night has nothing to do
    assert len(list((run.output / "runs").iterdir())) == 1


def test_tars_of_a_bucket(run, bucket, tmp_path: Path) -> None:
    bucket.blob("set/00000.tar").upload_from_filename(fill_tar(tmp_path / "x.tar"))
    assert run(f"gs://{bucket.name}/set/*.tar") == captions(f"gs://{bucket.name}/set/00000.tar#")


def test_s3(run, s3_server: str, tmp_path: Path) -> None:
    files: Any = importlib.import_module("fsspec").filesystem("s3", use_listings_cache=False)
    files.mkdir("photographs")
    for shade in SHADES:
        files.pipe_file(f"s3://photographs/{shade}.jpg", photograph(shade))
    files.pipe_file("s3://photographs/tars/0.tar", fill_tar(tmp_path / "x.tar").read_bytes())
    assert run("s3://photographs/*.jpg") == captions("s3://photographs/")
    found = run("s3://photographs")
    assert found == captions("s3://photographs/") | captions("s3://photographs/tars/0.tar#")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server of the standard library, which knows no ranges; yields the address of its folder."""
    folder = tmp_path / "web"
    folder.mkdir()
    for shade in SHADES:
        (folder / f"{shade}.jpg").write_bytes(photograph(shade))
    fill_tar(folder / "0.tar")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_urls_of_a_list_and_a_tar_behind_a_url(run, web: str, tmp_path: Path) -> None:
    missing = f"{web}/missing.jpg"
    lines = [json.dumps({"url": uri, "label": uri[-6:]}) for uri in (*captions(f"{web}/"), missing)]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    allow = ("--allow_schemes=http", "--allow_private_addresses")
    options = ("--uri_column=url", "--carry_columns=label", *allow)
    assert run(tmp_path / "list.jsonl", *options) == captions(f"{web}/")
    [failure] = table(run.output, "failures")
    assert (failure["uri"], failure["error_type"], failure["label"]) == (missing, "NotFound", "ng.jpg")
    assert run(f"{web}/0.tar", *allow) == captions(f"{web}/") | captions(f"{web}/0.tar#")
