"""What the job writes for people is inert: no terminal obeys it, and it holds no passwords and no signatures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beam_job.cli.command import _same_command, main
from beam_job.cli.demo import print_captions
from beam_job.config import JobConfig
from beam_job.planning.recorded_config import request_of
from beam_job.records import Failure
from beam_job.storage import local_path, public_name, without_secrets
from beam_job.text import printable, printable_lines
from tests.fakes import FakeCaptioner
from tests.fault_server import FaultServer, ok, serve, status

SECRET = "8f3a51c0ffee"
SIGNED = f"?X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=me%40project&X-Goog-Signature={SECRET}"


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serve() as faults:
        yield faults


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the job into tmp_path/out with a fake captioner; returns its exit code."""
    monkeypatch.setattr("beam_job.captioning.caption_shards.load_captioner", lambda *_: FakeCaptioner())

    def run(given: object, *options: str) -> int:
        arguments = [f"--input={given}", f"--output={tmp_path}/out"]
        return main([*arguments, "--max_failure_ratio=1", *options])

    return run


@pytest.fixture
def photograph(tmp_path: Path) -> bytes:
    Image.new("RGB", (20, 10)).save(tmp_path / "x.png")
    return (tmp_path / "x.png").read_bytes()


def without_uris(value: object) -> object:
    """JSON without what stands under `uri`, which is the images' key and stays as it was given."""
    if isinstance(value, dict):
        return {name: without_uris(inner) for name, inner in value.items() if name != "uri"}
    return [without_uris(inner) for inner in value] if isinstance(value, list) else value


def everything_but_uris(output: Path) -> dict[Path, str]:
    """The text in each file of an output, without the column `uri`."""
    texts = {}
    for path in output.rglob("*"):
        if path.suffix == ".parquet":
            table = pq.read_table(path, partitioning=None)
            notes = [json.loads(note) for note in (table.schema.metadata or {}).values()]
            others = [name for name in table.column_names if name != "uri"]
            texts[path] = str(table.select(others).to_pylist()) + str(without_uris(notes))
        elif path.is_file():
            texts[path] = path.read_text()
    return texts


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("photos/ümlaut 猫.jpg", "photos/ümlaut 猫.jpg"),
        ("\x1b[2J\x1b]0;title\x07.jpg", r"\x1b[2J\x1b]0;title\x07.jpg"),
        ("\x9b31m", r"\x9b31m"),
        ("two\r\nlines\ttab\0", r"two\r\nlines\ttab\x00"),
        ("gpj.\u202eexe", r"gpj.\u202eexe"),
        ("caf\udce9", r"caf\udce9"),
        ("a\u2028b\u00a0c", r"a\u2028b\xa0c"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown
    assert printable_lines(f"{text}\n{text}") == printable_lines(text) + "\n" + printable_lines(text)


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("https://user:password@host:8/a/x.jpg?sig=1#part", "https://host:8/a/x.jpg"),
        ("HTTPS://token@host", "HTTPS://host"),
        ("http://[::1/x?sig=1", "http://[::1/x"),
        ("http://host?sig=1", "http://host"),
        ("https://host/@user/x.jpg", "https://host/@user/x.jpg"),
        ("ftp://user:password@host/x?sig=1", "ftp://host/x"),
        ("abfs://container@account.example/x?sv=1&sig=2", "abfs://container@account.example/x"),
        ("gs://bucket/x?.jpg", "gs://bucket/x?.jpg"),
        ("gs://bucket/x.jpg?X-Goog-Signature=1", "gs://bucket/x.jpg"),
        ("photos/a?b=c#d.jpg", "photos/a?b=c#d.jpg"),
        ("file:///photos/a?b=c.jpg", "file:///photos/a?b=c.jpg"),
        ("file://user:password@host/x.jpg?sig=1", "file://host/x.jpg"),
    ],
)
def test_public_names(uri: str, name: str) -> None:
    assert public_name(uri) == name
    assert public_name(name) == name


def test_values_of_a_signature_are_found_in_others_messages() -> None:
    uri = "https://user:pass%2Fword@host/x?sig=abc%2Bdef%3D&n=1"
    text = f"GET {uri} failed: abc+def= is no signature, abc%2Bdef%3D neither; login pass/word; n=1"
    shown = without_secrets(text, uri)
    assert shown == "GET https://host/x failed: ... is no signature, ... neither; login ...; n=1"
    assert Failure.of(uri, "fetch", ValueError(text)).error_message == shown


def test_a_failures_message_can_always_be_stored() -> None:
    assert Failure.of("x", "fetch", ValueError("caf\udce9")).error_message == r"caf\udce9"


def test_a_signature_stays_in_the_uri_column(
    tmp_path: Path, server: FaultServer, photograph: bytes, job, capfd: pytest.CaptureFixture[str]
) -> None:
    server.script("good.jpg", ok(photograph))
    server.script("text.jpg", ok(b"no image"))
    server.script("busy.jpg", status(503, text=SECRET.encode()))
    server.script("moved.jpg", status(302, {"Location": f"gs://bucket/x.jpg{SIGNED}"}))
    server.script("loop.jpg", status(302, {"Location": f"/loop.jpg{SIGNED}"}))
    server.script("odd.jpg", status(302, {"Location": f"http://[::1/x{SIGNED}"}))
    server.script("encoded.jpg", ok(photograph, {"Content-Encoding": "br"}))
    names = ("good", "text", "busy", "moved", "loop", "odd", "encoded", "missing")
    uris = [f"{server.address}/{name}.jpg{SIGNED}" for name in names]
    uris += [
        server.address.replace("//", f"//user:{SECRET}@") + "/with-password.jpg",
        f"http://127.0.0.1:9/refused.jpg{SIGNED}",
        f"http://gone.invalid/x.jpg{SIGNED}",
        f"http://host:port/x.jpg{SIGNED}",
        f"http://[::1/x.jpg{SIGNED}",
        f"http://a..b/x.jpg{SIGNED}",
        f"ftp://user:{SECRET}@host/x.jpg{SIGNED}",
        f"gs://bucket/x.jpg{SIGNED}",
        f"s3://bucket/x.jpg{SIGNED}",
        f"memory://bucket/x.jpg{SIGNED}",
        f"https://host/x.jpg{SIGNED}",
        f"file://host/x.jpg{SIGNED}",
    ]
    (tmp_path / "uris.txt").write_text("\n".join(uris))
    options = [
        "--untrusted_lists",
        "--allow_schemes=http",
        "--allow_private_addresses",
        "--allow_buckets=memory://bucket",
    ]
    assert job(tmp_path / "uris.txt", *options, "--fetch_timeout=0.5") == 0
    assert main(["status", f"--output={tmp_path}/out"]) == 0
    shown = capfd.readouterr()
    assert "1 caption and 19 failures of 20 images" in shown.err
    assert SECRET not in shown.err + shown.out
    captions, failures = (
        ds.dataset(tmp_path / "out" / name).to_table().to_pylist() for name in ("captions", "failures")
    )
    assert sorted(row["uri"] for row in captions + failures) == sorted(uris)  # there it stands whole
    for path, text in everything_but_uris(tmp_path / "out").items():
        assert SECRET not in text, path


@pytest.mark.parametrize("name", ["good.jpg", "missing.jpg", "missing.csv"])
@pytest.mark.parametrize("secret", ["signature", "password"])
def test_an_input_with_a_secret_is_noted_without_it(
    tmp_path: Path, server: FaultServer, photograph: bytes, job, capfd, name: str, secret: str
) -> None:
    server.script("good.jpg", ok(photograph))
    address = f"{server.address}/{name}{SIGNED}"
    if secret == "password":
        address = server.address.replace("//", f"//user:{SECRET}@") + f"/{name}"
    code = job(address, "--allow_private_addresses")
    if code == 0:
        assert main(["status", f"--output={tmp_path}/out"]) == 0
    shown = capfd.readouterr()
    assert (code, SECRET in shown.err + shown.out) == (0 if name == "good.jpg" else 2, False)
    for path, text in everything_but_uris(tmp_path / "out").items():
        assert SECRET not in text, path


def test_requests_with_other_queries_are_other_requests() -> None:
    requests = [request_of(JobConfig((f"https://host/x.jpg?id={number}",), "out")) for number in (1, 1, 2)]
    assert requests[0] == requests[1] != requests[2]
    assert request_of(JobConfig(("photos/?.jpg", "gs://b/?.jpg"), "out"))["inputs"] == [
        f"{Path.cwd()}/photos/?.jpg",
        "gs://b/?.jpg",
    ]


def test_a_broken_job_shows_neither(
    tmp_path: Path, server: FaultServer, photograph: bytes, job, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    """Whatever the message of the exception below: its traceback is shown, too."""
    server.script("good.jpg", ok(photograph))
    uri = f"{server.address}/good.jpg{SIGNED}"

    def broken(*_: object) -> None:
        raise RuntimeError(f"\x1b[2J cannot commit {uri}")

    monkeypatch.setattr("beam_job.captioning.open_shard.commit_shard", broken)
    assert job(uri, "--allow_private_addresses") == 1
    error = capfd.readouterr().err
    assert f"cannot commit {server.address}/good.jpg" in error
    assert SECRET not in error
    assert "\x1b" not in error


def test_names_with_control_characters_and_of_no_text(tmp_path: Path, job, capfd: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    names = [b"\x1b[31mred\x1b[0m.png", b"line\nbreak.png", b"caf\xe9\x1b.png", "\u202egnp.png".encode()]
    for name in names:
        (photos / os.fsdecode(name)).write_bytes(b"no image")
    Image.new("RGB", (20, 10)).save(photos / "\x1b]0;title\x07.png")
    assert job(photos, "--shard_size=2") == 0
    assert job(photos, "--recaption", "--verbose") == 0
    assert main(["status", f"--output={tmp_path}/out"]) == 0
    assert job(tmp_path / "\x1b[2J.txt") == job(f"{tmp_path}/\x1b[2J*.png") == 2
    shown = capfd.readouterr()
    assert "\x1b" not in shown.err + shown.out
    assert r"\x1b[2J" in shown.err
    tables = [ds.dataset(tmp_path / "out" / name).to_table(["uri"]) for name in ("captions", "failures")]
    uris = {uri for table in tables for uri in table["uri"].to_pylist()}
    assert {os.fsencode(local_path(uri)) for uri in uris} == {os.fsencode(path) for path in photos.iterdir()}


def test_the_demos_table(tmp_path: Path, job, capsys: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (20, 10)).save(photos / "\x1b[31mred.png")
    assert job(photos) == 0
    print_captions(tmp_path / "out")
    shown = capsys.readouterr().out
    assert r"\x1b[31mred.png" in shown
    assert "\x1b" not in shown


def test_what_was_held_back_is_shown_inert() -> None:
    program = (
        "import os\nfrom beam_job.cli.quiet import quiet_stderr\nwith quiet_stderr():\n"
        "    os.write(2, b'said\\x1b[2J\\nmore\\n')\n    raise SystemExit(1)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr == "said\\x1b[2J\nmore\n"


def test_the_command_that_goes_on_shows_no_signature() -> None:
    given = ["--input=https://host/x.jpg?X-Signature=0123456789abcdef", "--output=two words"]
    assert _same_command(given) == "caption-images '--input=https://host/x.jpg' '--output=two words'"
