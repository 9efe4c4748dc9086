"""Drills of the whole job: storage that misbehaves, an output that takes nothing more, credentials that vanish.

Whatever happens, captions and failures are the distinct inputs, each exactly once, or the exit code says otherwise; and
the same command, given again when all is well, does the rest.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from PIL import Image

from beam_job import storage
from beam_job.cli.command import main
from tests.fakes import FakeCaptioner, with_fake_model
from tests.fault_server import FaultServer, Handler, Step, cut, drip, flipped, ok, pass_on, reset, serve, stall, status


def png(shade: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (20, 10), (shade, 60, 30)).save(content, "PNG")
    return content.getvalue()


@pytest.fixture(autouse=True)
def _fake_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beam_job.captioning.caption_shards.load_captioner", lambda *_: FakeCaptioner())


@pytest.fixture
def proxy(bucket, gcs_emulator: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """A server before the emulator that passes on what no script is for; `gs://` goes through it."""
    with serve() as faults:
        faults.otherwise = pass_on(gcs_emulator)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", faults.address)
        storage._storage.cache_clear()
        yield faults
        storage._storage("gs")._client.close()
    storage._storage.cache_clear()


def rows(output: Path, table: str) -> dict[str, dict]:
    """The rows of a table by the names of their images, none of which may stand twice."""
    if not (output / table).exists():
        return {}
    found = ds.dataset(output / table).to_table().to_pylist()
    by_name = {row["uri"].rsplit("/", 1)[1]: row for row in found}
    assert len(by_name) == len(found)
    return by_name


def test_a_night_of_faults(proxy: FaultServer, bucket, gcs_emulator: str, tmp_path: Path) -> None:
    """Thirty images: 30 % are answered with 503 at first, others with worse; a second night sets right what it can."""
    images = {f"{number:02d}.png": png(number) for number in range(30)}
    for name, content in images.items():
        bucket.blob(f"photos/{name}").upload_from_string(content)
    after = pass_on(gcs_emulator)

    def deleted(handler: Handler) -> None:
        bucket.blob("photos/20.png").delete()
        after(handler)

    faults: dict[str, list[Step]] = {f"{number:02d}.png": [status(503), after] for number in range(9)}
    faults |= {f"{number:02d}.png": [status(429, {"Retry-After": "1"}), after] for number in range(9, 14)}
    faults |= {
        "14.png": [cut(images["14.png"], 20), after],
        "15.png": [flipped(images["15.png"]), after],
        "16.png": [cut(images["16.png"], 20), flipped(images["16.png"]), after],
        "17.png": [reset(images["17.png"], 20), after],
        "20.png": [deleted, after],
        "21.png": [status(404)],  # what Google says of a generation that was overwritten
        "22.png": [stall],
        "23.png": [drip(images["23.png"])],
        "24.png": [status(503)],
        "25.png": [status(403)],
    }
    for name, steps in faults.items():
        proxy.script(f"photos/{name}", *steps)
    arguments = [f"--input=gs://{bucket.name}/photos/", f"--output={tmp_path}/out"]
    arguments += ["--shard_size=8", "--fetch_timeout=3", "--fetch_threads=30"]
    assert main(arguments) == 0
    failures = rows(tmp_path / "out", "failures")
    assert {name: (row["stage"], row["error_type"], row["transient"]) for name, row in failures.items()} == {
        "20.png": ("fetch", "NotFound", True),
        "21.png": ("fetch", "NotFound", True),
        "22.png": ("fetch", "TimeoutError", True),
        "23.png": ("fetch", "TimeoutError", True),
        "24.png": ("fetch", "ServiceUnavailable", True),
        "25.png": ("fetch", "Forbidden", False),
    }
    assert "was replaced or deleted" in failures["21.png"]["error_message"]
    captions = rows(tmp_path / "out", "captions")
    assert captions.keys() == images.keys() - failures.keys()

    for name in faults:
        proxy.script(f"photos/{name}", after)
    bucket.blob("photos/21.png").upload_from_string(png(121))
    assert main(arguments) == 0
    assert rows(tmp_path / "out", "captions").keys() == images.keys() - {"20.png"}  # a permission may be granted, too


@pytest.mark.parametrize("key", ["gone.json", "broken.json"])
@pytest.mark.parametrize("where", ["input", "output"])
def test_no_credentials_before_the_run(
    key: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    (tmp_path / "broken.json").write_text("{}")
    (tmp_path / "a.png").write_bytes(png(1))
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / key))
    storage._storage.cache_clear()
    given = {"input": str(tmp_path / "a.png"), "output": str(tmp_path / "out")} | {where: "gs://bucket/x"}
    assert main([f"--input={given['input']}", f"--output={given['output']}"]) == 2
    printed = capfd.readouterr().err
    assert printed.count("\n") == 1
    assert key in printed
    assert "set GOOGLE_APPLICATION_CREDENTIALS" in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("refuses", ["bucket", "token"])
def test_credentials_that_vanish_spoil_nothing(
    refuses: str,
    proxy: FaultServer,
    bucket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd,
) -> None:
    """The bucket, or the token endpoint, says no from some image on.

    No image is recorded as failed, and the same command goes on once there are credentials again.
    """
    names = [f"{number:02d}.png" for number in range(20)]
    for number, name in enumerate(names):
        bucket.blob(f"photos/{name}").upload_from_string(png(number))
    arguments = [f"--input=gs://{bucket.name}/photos/", f"--output={tmp_path}/out"]
    arguments += ["--shard_size=4", "--fetch_threads=1", "--batch_size=1"]
    if refuses == "bucket":
        for name in names[10:]:
            proxy.script(f"photos/{name}", status(401), status(401), status(401), proxy.otherwise)
    else:
        from google.oauth2.credentials import Credentials

        # Tokens that expire at once, so that one is asked for before each request.
        token = json.dumps({"access_token": "t", "expires_in": 1, "token_type": "Bearer"}).encode()
        answer = ok(token, {"Content-Length": str(len(token)), "Content-Type": "application/json"})
        refusal = b'{"error": "invalid_grant", "error_description": "Invalid grant: account not found"}'
        refused = status(401, {"Content-Type": "application/json"}, refusal)
        proxy.script("token", *[answer] * 15, refused, answer)
        # Before an emulator the client takes no credentials; all but this is what it does before Google.
        user = {"refresh_token": "r", "client_id": "c", "client_secret": "s"}
        logged_in = Credentials(None, token_uri=f"{proxy.address}/token", **user)
        monkeypatch.setattr("google.cloud.storage.client.AnonymousCredentials", lambda: logged_in)
        storage._storage.cache_clear()
    assert main(arguments) == 1
    printed = capfd.readouterr().err
    assert "Traceback" not in printed
    assert "gcloud auth application-default login" in printed.splitlines()[-1]
    done = len(rows(tmp_path / "out", "captions"))
    assert 0 < done < 20
    assert rows(tmp_path / "out", "failures") == {}
    for name in names:
        proxy.script(f"photos/{name}", proxy.otherwise)
    assert main(arguments) == 0
    assert "resuming run" in capfd.readouterr().err
    assert sorted(rows(tmp_path / "out", "captions")) == names
    assert rows(tmp_path / "out", "failures") == {}


@pytest.mark.parametrize("where", ["input", "output"])
def test_a_bucket_that_is_not_there(where: str, bucket, tmp_path: Path, capfd) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    given = {"input": str(tmp_path / "a.png"), "output": str(tmp_path / "out")} | {where: "gs://no-such-bucket/x"}
    assert main([f"--input={given['input']}", f"--output={given['output']}"]) == 2
    printed = capfd.readouterr().err
    assert printed.count("\n") == 1
    assert "gs://no-such-bucket/x" in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "output", [pytest.param("a file/out", id="below a file"), pytest.param("/sys/out", id="read-only file system")]
)
def test_an_output_that_takes_nothing(output: str, tmp_path: Path, capfd) -> None:
    if output.startswith("/sys") and not os.path.isdir("/sys"):
        pytest.skip("this system has no /sys, the file system that not even root can write to")
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "a file").touch()
    output = str(tmp_path / output)  # an absolute path stays itself
    assert main([f"--input={tmp_path}/a.png", f"--output={output}"]) == 2
    printed = capfd.readouterr().err
    assert printed.count("\n") == 1
    assert output in printed


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_stops_the_run_and_space_lets_it_go_on(workers: int, tmp_path: Path) -> None:
    """On a small file system of the test's own."""
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([unshare, "-rm", "mount", "-t", "tmpfs", "x", "/mnt"], check=False).returncode:
        pytest.skip("mounting a file system in a namespace of one's own is not allowed here")
    photos, disk = tmp_path / "photos", tmp_path / "disk"
    photos.mkdir()
    disk.mkdir()
    for number in range(60):
        (photos / f"{number}.png").write_bytes(png(number))
    job = f"'{sys.executable}' -m beam_job --input='{photos}' --output='{disk}/out' "
    job += "--shard_size=3"
    script = f"""
        mount -t tmpfs -o size=80k tmpfs '{disk}' || exit 99
        {job} --workers={workers}; echo "exit code $?"; mount -o remount,size=10m '{disk}'
        ls '{disk}'/out/captions/*/part-*.parquet | wc -l
        {job}; echo "exit code $?"; cp -r '{disk}/out' '{tmp_path}/saved'
    """
    done = subprocess.run(
        [unshare, "-rm", "sh", "-c", script], env=with_fake_model(), capture_output=True, text=True, check=True
    )
    first, written, second = done.stdout.split("\n")[:3]
    assert (first, second) == ("exit code 1", "exit code 0"), done.stderr
    assert 0 < int(written) < 20
    assert "Traceback" not in done.stderr
    broke = [line for line in done.stderr.splitlines() if line.startswith("caption-images: ")]
    assert len(broke) == 1
    assert "No space left on device" in broke[0]
    assert len(rows(tmp_path / "saved", "captions")) == 60
    assert rows(tmp_path / "saved", "failures") == {}
