"""What a list may name (schemes, folders, buckets), and what becomes of a URI that names something else."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from PIL import Image

from beam_job.cli.command import main
from beam_job.config import JobConfig
from beam_job.inputs.lists import LISTING_FIELDS
from beam_job.planning.completed import exclude_completed
from beam_job.planning.keys import KEY_BYTES, KeySet, uri_keys, version_keys
from beam_job.storage import Allowed, NotAllowedError, StorageError, bucket_of, storage_for
from tests.fakes import FakeCaptioner
from tests.fault_server import FaultServer, ok, serve

DATA = b"photograph"


def allowed(*inputs: object, **options: object) -> Allowed:
    return JobConfig(tuple(map(str, inputs)), "out", **options).allowed  # type: ignore[arg-type]


def refused(policy: Allowed, uri: object) -> str:
    with pytest.raises(NotAllowedError) as caught:
        storage_for(str(uri), policy)
    assert (caught.value.cause, caught.value.transient) == ("NotAllowed", False)
    return str(caught.value)


# Local files


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """A folder for lists with an image in a folder below; beside it another folder with an image, and links to that."""
    folder = tmp_path / "lists"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "lists-of-others").mkdir()
    for name in ("lists/sub/a.jpg", "lists-of-others/b.jpg"):
        Image.new("RGB", (20, 10)).save(tmp_path / name)
    (folder / "link.jpg").symlink_to(tmp_path / "lists-of-others" / "b.jpg")
    (folder / "folder").symlink_to("../lists-of-others")
    (folder / "inside.jpg").symlink_to("sub/a.jpg")
    return folder


@pytest.mark.parametrize(
    "uri",
    [
        "{}/sub/a.jpg",
        "file://{}/sub/a.jpg",
        "FILE://localhost{}/sub/a.jpg",
        "file://{}/sub%2Fa.jpg",
        "{}/sub/../sub//a.jpg",
        "{}/inside.jpg",
        "sub/a.jpg",
    ],
)
@pytest.mark.parametrize("given", ["{}/uris.txt", "{}", "{}/*.jpg", "{}/**/*.jpg", "uris.csv", "."])
def test_below_the_inputs_own_folder(lists: Path, uri: str, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lists)
    uri = uri.format(lists)
    assert storage_for(uri, allowed(given.format(lists))).read(uri)[0][:2] == b"\xff\xd8"


@pytest.mark.parametrize(
    "uri",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "{}/../lists-of-others/b.jpg",
        "{}-of-others/b.jpg",
        "file://{}/%2e%2e/lists-of-others/b.jpg",
        "file://{}/..%2Flists-of-others%2Fb.jpg",
        "{}/link.jpg",
        "{}/folder/b.jpg",
        "{}/sub/../folder/b.jpg",
        "../lists-of-others/b.jpg",
        "/proc/self/environ",
        "/dev/stdin",
        "",
    ],
)
def test_outside_of_it(lists: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lists.parent)
    message = refused(allowed(lists / "uris.txt"), uri.format(lists))
    assert f"is outside the allowed folders ({lists}); add --allow_root=" in message


def test_the_option_that_is_named_helps(lists: Path) -> None:
    uri = f"{lists}/link.jpg"
    option = refused(allowed(lists / "uris.txt"), uri).rpartition("--allow_root=")[2]
    assert option == f"{lists}-of-others"
    assert storage_for(uri, allowed(lists / "uris.txt", allow_root=(option,))).read(uri)
    assert storage_for(uri, allowed("gs://bucket/uris.txt", allow_root=("/",))).read(uri)


@pytest.mark.parametrize("uri", ["file://elsewhere/etc/passwd", "file://[::1", "file://etc", "nul\0byte.jpg"])
def test_what_is_no_local_name(uri: str) -> None:
    with pytest.raises(StorageError) as caught:
        storage_for(uri, Allowed(("file",), ("/",)))
    assert not caught.value.transient


def test_an_input_that_is_a_link_is_the_operators_own(lists: Path) -> None:
    for given in (lists / "folder", lists / "link.jpg"):
        for found in storage_for(str(given)).list(str(given)):
            assert storage_for(found.uri, allowed(given)).read(found.uri)


def test_question_marks_and_hashes_are_part_of_a_files_name(tmp_path: Path) -> None:
    (tmp_path / "a?b#c.jpg").write_bytes(DATA)
    uri = f"file://{tmp_path}/a?b#c.jpg"
    assert storage_for(uri, allowed(tmp_path)).read(uri)[0] == DATA


# Schemes and buckets


@pytest.mark.parametrize(
    ("given", "uri", "option"),
    [
        ("uris.txt", "http://host/x.jpg?sig=1", "--allow_schemes=http,https"),
        ("uris.txt", "HTTPS://user:password@host/x.jpg", "--allow_schemes=http,https"),
        ("uris.txt", "gs://photos/a/x.jpg", "--allow_buckets=gs://photos"),
        ("uris.txt", "s3://photos/x.jpg", "--allow_buckets=s3://photos"),
        ("uris.txt", "hf://datasets/user/repo/x.jpg", "--allow_buckets=hf://datasets/user/repo"),
        ("gs://photos/uris.txt", "gs://others/x.jpg", "--allow_buckets=gs://others"),
        ("gs://photos/uris.txt", "gs://photos-of-others/x.jpg", "--allow_buckets=gs://photos-of-others"),
        ("gs://photos/uris.txt", "s3://photos/x.jpg", "--allow_buckets=s3://photos"),
        ("gs://photos/*/x.jpg", "gs:///photos/x.jpg", "--allow_buckets=gs://"),
        ("gs://photos/uris.txt", "/etc/passwd", "--allow_root=FOLDER"),
        ("https://host/uris.txt", "http://host/x.jpg", "--allow_schemes=http,https"),
        ("https://host/uris.txt", "file:///etc/passwd", "--allow_root=FOLDER"),
        ("memory:///uris.txt", "memory://photos/../x.jpg", "--allow_buckets=memory://photos"),
        ("hf://datasets/user/repo/uris.txt", "hf://datasets/user/other/x.jpg", "hf://datasets/user/other"),
        ("hf://user/repo/uris.txt", "hf://user/other/x.jpg", "--allow_buckets=hf://user/other"),
    ],
)
def test_schemes_and_buckets_are_the_inputs(given: str, uri: str, option: str) -> None:
    message = refused(allowed(given), uri)
    assert message.endswith(option)
    assert "sig=" not in message
    assert "password" not in message


@pytest.mark.parametrize(
    ("given", "options", "uri"),
    [
        ("uris.txt", {"allow_schemes": ("http",)}, "http://host/x.jpg"),
        ("uris.txt", {"allow_buckets": ("gs://photos", "s3://photos")}, "S3://photos/x.jpg"),
        ("uris.txt", {"allow_schemes": ("gs", "s3"), "allow_buckets": ("photos",)}, "s3://photos/x.jpg"),
        ("uris.txt", {"allow_buckets": ("hf://datasets/user/repo",)}, "hf://datasets/user/repo@main/x.jpg"),
        ("uris.txt", {"allow_buckets": ("gs://photos",)}, "gs://photos/../x.jpg"),
        ("gs://photos/a/*.jpg", {}, "GS://photos/b/x.jpg"),
        ("gs://photos", {}, "gs://photos/b/x.jpg"),
        ("https://host/uris.txt", {}, "https://other/x.jpg"),
        ("memory:///uris.txt", {}, "memory:///x.jpg"),
    ],
)
def test_what_the_options_add(given: str, options: dict, uri: str) -> None:
    storage_for(uri, allowed(given, **options))


def test_segments_that_a_client_may_take_for_the_parent() -> None:
    policy = allowed("hf://datasets/user/repo/uris.txt")
    assert "a segment .." in refused(policy, "hf://datasets/user/repo/../../user/private/x.jpg")


def test_a_policy_travels() -> None:
    policy = allowed("uris.txt", allow_buckets=("gs://photos",), allow_private_addresses=True)
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert hash(pickle.loads(pickle.dumps(policy))) == hash(policy)


def test_buckets() -> None:
    assert bucket_of("GS://Photos/a/b") == "gs://Photos"
    assert bucket_of("hf://gpt2") == "hf://gpt2"
    assert (
        bucket_of("abfs://container@account.dfs.core.windows.net/x") == "abfs://container@account.dfs.core.windows.net"
    )


# The job


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serve() as faults:
        yield faults


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the job over a list, with a fake captioner; returns its exit code."""
    monkeypatch.setattr("beam_job.captioning.caption_shards.load_captioner", lambda *_: FakeCaptioner())

    def run(uris: list[object], *options: str) -> int:
        (tmp_path / "lists" / "uris.txt").write_text("".join(f"{uri}\n" for uri in uris))
        arguments = [f"--input={tmp_path}/lists/uris.txt", f"--output={tmp_path}/out"]
        return main([*arguments, "--max_failure_ratio=1", "--untrusted_lists", *options])

    return run


def rows(tmp_path: Path, table: str) -> list[dict]:
    folder = tmp_path / "out" / table
    return ds.dataset(folder, partitioning="hive").to_table().to_pylist() if folder.exists() else []


@pytest.mark.parametrize(
    ("uris", "said"),
    [
        (
            ["http://127.0.0.1:9/a.jpg", "https://host/b.jpg"],
            "http:// is not among the allowed schemes (file); add --allow_schemes=http,https",
        ),
        (["gs://photos/a.jpg", "ftp://host/x"], "gs:// is not among the allowed schemes (file); add --allow_buckets="),
        (["/etc/hostname"], "is outside the allowed folders ({lists}); add --allow_root=/etc"),
    ],
)
def test_a_list_of_nothing_that_may_be_read_stops_the_job_before_it_begins(
    lists: Path, tmp_path: Path, job, uris: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert job(uris) == 2
    error = capfd.readouterr().err
    assert said.format(lists=lists) in error
    assert f"none of the images listed may be read; the first of {len(uris)}: " in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_may_not_be_read_is_a_row_among_others_and_is_done_once_it_may(
    lists: Path, tmp_path: Path, job, capfd: pytest.CaptureFixture[str]
) -> None:
    outside = f"{lists}-of-others/b.jpg"
    uris = [f"{lists}/sub/a.jpg", outside, "gs://photos/x.jpg", "http://127.0.0.1:9/x.jpg", "ftp://host/x.jpg"]
    assert job(uris) == 0
    assert re.search(r"3 x list: NotAllowed, such as \S+ is outside .*", capfd.readouterr().err)
    assert [row["uri"] for row in rows(tmp_path, "captions")] == uris[:1]
    failures = {row["uri"]: row for row in rows(tmp_path, "failures")}
    assert sorted(failures) == sorted(uris[1:])
    assert {(row["stage"], row["transient"]) for row in failures.values()} == {("list", False)}
    assert [failures[uri]["error_type"] for uri in uris[1:]] == [*["NotAllowed"] * 3, "UnknownSchemeError"]
    assert job(uris, f"--allow_root={lists}-of-others") == 0
    assert sorted(row["uri"] for row in rows(tmp_path, "captions")) == sorted(uris[:2])


def test_images_of_an_intranet(lists: Path, tmp_path: Path, job, server: FaultServer) -> None:
    server.script("x.jpg", ok((lists / "sub" / "a.jpg").read_bytes()))
    assert job([f"{server.address}/x.jpg"], "--allow_schemes=http,https") == 0
    [failure] = rows(tmp_path, "failures")
    assert failure["error_message"].endswith("add --allow_private_addresses")
    assert server.asked == []
    assert job([f"{server.address}/x.jpg"], "--allow_schemes=http", "--allow_private_addresses") == 0
    assert [row["uri"] for row in rows(tmp_path, "captions")] == [f"{server.address}/x.jpg"]


def test_the_version_of_what_may_not_be_read_is_not_looked_up(lists: Path) -> None:
    """It would tell whether a file is there, and a web server that somebody asks."""
    uri = f"{lists}-of-others/b.jpg"
    completed = KeySet(KEY_BYTES)
    completed.add(version_keys(uri_keys(pa.array([uri])), pa.array([storage_for(uri).stat(uri).version])))
    listing = pa.table([[uri], *[[None]] * 7], schema=pa.schema(LISTING_FIELDS))
    assert exclude_completed(listing, completed, allowed(lists)).num_rows == 1
    assert exclude_completed(listing, completed, allowed(lists, allow_root=(f"{lists}-of-others",))).num_rows == 0


def test_a_listed_file_that_becomes_a_link_is_not_followed(lists: Path) -> None:
    """The check is that of the moment of reading, not of listing."""
    uri = f"{lists}/sub/a.jpg"
    policy = allowed(lists)
    assert storage_for(uri, policy).read(uri)
    os.replace(lists / "link.jpg", uri)
    refused(policy, uri)


def test_a_reports_shards_lie_beside_its_manifest(tmp_path: Path) -> None:
    from beam_job.inputs.lists import read_list

    (tmp_path / "reports").mkdir()
    (tmp_path / "secret.csv").write_text("bucket,name\nb,secret\n")
    for name in ("../secret.csv", "..%2Fsecret.csv"):
        (tmp_path / "reports" / "manifest.json").write_text(json.dumps({"report_shards_file_names": [name]}))
        with pytest.raises(StorageError, match=r"reports/[^/]*secret\.csv: No such file"):
            list(read_list(f"file://{tmp_path}/reports/manifest.json"))
