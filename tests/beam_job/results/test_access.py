"""Commands that read an output ask storages in the name that their options give."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from beam_job.cli.command import main
from beam_job.storage import Access, use_access
from tests.fault_server import ok, serve
from tests.gcs_server import GcsServer
from tests.images import encode, halves
from tests.outputs import add_run


@pytest.fixture(autouse=True)
def others_ask_as_before() -> Iterator[None]:
    yield
    use_access(Access())


@pytest.mark.parametrize(
    "command",
    [["status"], ["snapshot", "--to=data"], ["export", "--format=csv", "--to=texts"], ["review", "--to=x.html"]],
)
def test_the_project_that_pays_is_named(
    gcs_server: GcsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    add_run("gs://bucket/out", 1, {"gs://bucket/a.jpg": "a dog"})
    gcs_server.requests.clear()
    assert main([*command, "--output=gs://bucket/out", "--billing_project=museum-1"]) in (0, 1)
    asked = [request for request in gcs_server.requests if request.operation != "bucket"]
    assert asked
    assert [request for request in asked if request.query.get("userProject") != "museum-1"] == []


def test_the_user_agent_is_sent_for_exported_images(tmp_path: Path) -> None:
    data = encode(halves("red", "blue"), "JPEG")
    with serve() as server:
        server.script("a.jpg", ok(data, {"Content-Length": str(len(data))}))
        add_run(f"{tmp_path}/out", 1, {f"{server.address}/a.jpg": "a dog"}, version="")
        arguments = [f"--output={tmp_path}/out", f"--to={tmp_path}/data", "--format=hf", "--user_agent=Museum/1.0"]
        assert main(["export", *arguments, "--allow_schemes=http", "--allow_private_addresses"]) == 0
        assert {headers["user-agent"] for _, _, headers in server.asked} == {"Museum/1.0"}


def test_a_user_agent_that_no_header_can_have(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--output=out", "--user_agent=Müseum"]) == 2
    assert "--user_agent must be one line of printable ASCII characters, not 'Müseum'" in capsys.readouterr().err
