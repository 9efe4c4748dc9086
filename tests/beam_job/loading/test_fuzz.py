"""Arbitrary URIs, lists and bundles: the right answer or the error that is meant for it, never another.

For longer: FUZZ_EXAMPLES=100000 python -m pytest tests/beam_job/loading/test_fuzz.py, which also draws anew each time.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from beam_job.inputs.lists import LISTING_FIELDS, ListError, read_list
from beam_job.storage import (
    Allowed,
    StorageError,
    bucket_of,
    local_path,
    local_uri,
    public_name,
    real_path,
    scheme_of,
    storage_for,
    without_secrets,
)
from beam_job.storage.allow import check_addresses
from beam_job.storage.gcs_objects import split
from beam_job.text import printable
from model import BundleError, check_bundle
from model.bundle import load_captioner
from tests.bundles import reseal

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
HERE = str(Path(__file__).parent)
POLICY = Allowed(
    ("file", "gs", "http", "s3", "hf", "memory"), (HERE,), ("gs://bucket", "s3://bucket", "hf://user/repo")
)


def bounded(examples: int) -> settings:
    """The same examples every time, unless more are asked for."""
    return settings(
        max_examples=EXAMPLES or examples, deadline=None, derandomize=not EXAMPLES, suppress_health_check=SLOW
    )


PARTS = st.sampled_from(
    [
        *("gs://", "file://", "http://", "s3://", "hf://", "HTTP://", "://", "bucket", "user", "repo", "datasets"),
        *("/", "..", ".", "//", "@", ":", "?", "#", "=", "&", "%2e%2e", "%2F", "%", "%00", "[", "]", "[::1]", "*"),
        *("\\", "\0", "\n", "\x1b[2J", "\udce9", "ü", "①", "127.0.0.1", "0x7f.1", "localhost", HERE, "x.jpg"),
        *("secret-value", " ", "\u202e"),
    ]
)
URIS = st.one_of(st.lists(PARTS, max_size=12).map("".join), st.text(max_size=40))


@given(URIS)
@bounded(500)
@example("file://[::1/x")
@example("http://[::1")
@example("nul\0byte")
@example("file:///\udce9")
@example("file:///\ud800")
@example("hf://datasets/")
@example("file://%00")
@example("gs://bucket")
def test_uris(uri: str) -> None:
    assert scheme_of(uri) == scheme_of(uri.lower())
    assert public_name(public_name(uri)) == public_name(uri)
    assert printable(uri).isprintable()
    with contextlib.suppress(StorageError):
        assert "\0" in local_path(uri) or os.path.isabs(real_path(uri))
    with contextlib.suppress(StorageError):
        bucket = split(uri)[0] if scheme_of(uri) == "gs" else "x"
        assert bucket
        assert "/" not in bucket
        assert scheme_of(uri) != "gs" or bucket_of(uri) == f"gs://{bucket}"
    with contextlib.suppress(StorageError):
        storage_for(uri, POLICY)
        assert scheme_of(uri) in POLICY.schemes
        if scheme_of(uri) == "file":
            assert (os.path.realpath(local_path(uri)) + "/").startswith(HERE + "/")


@given(URIS, st.text(alphabet="abcdef0123456789", min_size=8, max_size=20))
@bounded(150)
def test_secrets(rest: str, secret: str) -> None:
    assume(secret not in rest)
    for scheme in ("http", "https", "ftp", "s3"):
        host = re.sub("[/?#@]", "", rest) or "host"
        for uri in (f"{scheme}://user:{secret}@{host}/x", f"{scheme}://host/x?sig={secret}"):
            assert secret not in public_name(uri)
            assert secret not in without_secrets(f"{uri} and {secret}", uri)


@given(st.binary(min_size=1, max_size=60).filter(lambda name: b"\0" not in name))
@bounded(150)
def test_names_of_files(name: bytes) -> None:
    path = "/" + os.fsdecode(name)
    assert local_path(local_uri(path)) == path
    local_uri(path).encode("utf-8")


@given(st.ip_addresses())
@bounded(300)
def test_addresses(address: object) -> None:
    with contextlib.suppress(StorageError):
        check_addresses("host", [str(address)])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("uri", "n", "a")), inner, max_size=3),
    max_leaves=6,
)
TEXTS = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(JSON, max_size=4).map(lambda rows: "\n".join(map(json.dumps, rows)).encode()),
    st.lists(st.sampled_from((b"uri", b"n", b",", b'"', b"\n", b"\r", b"a.jpg", b"\0", b"\xff", b"{", b"}", b":")))
    .map(b"".join)
    .map(lambda rows: b"uri,n\n" + rows),
)
NAMES = st.sampled_from(
    ("l.txt", "l.csv", "l.jsonl", "l.ndjson", "l.parquet", "l.txt.gz", "l.csv.gz", "l.jsonl.gz", "m_manifest.json")
)


def parquet_list() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"uri": ["a.jpg", "b.jpg", "c"], "n": [1, 2, None]}), buffer)
    return buffer.getvalue()


PARQUET = parquet_list()


def mutated(data: bytes) -> st.SearchStrategy[bytes]:
    """A few bytes replaced, cut or doubled."""

    def mutate(changes: list[tuple[int, int, bytes]]) -> bytes:
        changed = data
        for start, length, put in changes:
            place = start % (len(changed) + 1)
            changed = changed[:place] + put + changed[place + length :]
        return changed

    change = st.tuples(st.integers(0, 1 << 24), st.integers(0, 4), st.binary(max_size=4))
    return st.lists(change, min_size=1, max_size=4).map(mutate)


def read_all(path: Path, carried: tuple[str, ...]) -> None:
    """Reads a list as the launcher does: batches that hold together, or an error that is a list's."""
    with contextlib.suppress(ListError, StorageError):
        for batch in read_list(str(path), carry_columns=carried):
            batch.validate(full=True)
            assert batch.schema.names[: len(LISTING_FIELDS)] == [field.name for field in LISTING_FIELDS]
            for row in batch.to_pylist():
                assert row["uri"]
                row["uri"].encode("utf-8")


# Arrow reads the text of a record with too many values as UTF-8; where it is not, it prints that and refuses the list.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@given(NAMES, TEXTS, st.booleans(), st.sampled_from(((), ("n",))))
@bounded(250)
@example("l.jsonl", b'{"uri": ' + b"[" * 100_000, False, ())
@example("m_manifest.json", b"[" * 100_000, False, ())
def test_lists(tmp_path: Path, name: str, content: bytes, packed: bool, carried: tuple[str, ...]) -> None:
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    read_all(tmp_path / name, carried)


@given(mutated(PARQUET), st.sampled_from(((), ("n",))))
@bounded(200)
@example(PARQUET.replace(b"a.jpg", b"\xff.jpg"), ())
def test_damaged_parquet_lists(tmp_path: Path, content: bytes, carried: tuple[str, ...]) -> None:
    (tmp_path / "l.parquet").write_bytes(content)
    read_all(tmp_path / "l.parquet", carried)


@pytest.fixture(scope="module")
def damaged(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("fuzz") / "bundle"))


@given(st.data(), st.sampled_from(("config.json", "vocabulary.txt", "SHA256SUMS", "weights.safetensors")))
@bounded(12)
def test_bundles(tiny_bundle: Path, damaged: Path, data: st.DataObject, name: str) -> None:
    """One file is damaged, and the checksums fit. (The network is built where the damage hurts nothing.)"""
    for path in tiny_bundle.iterdir():
        if not (damaged / path.name).exists() or (damaged / path.name).read_bytes() != path.read_bytes():
            shutil.copy(path, damaged / path.name)
    content = (tiny_bundle / name).read_bytes()
    # Of the weights the header, which says where everything is.
    changeable = content[:4096] if name == "weights.safetensors" else content
    (damaged / name).write_bytes(data.draw(mutated(changeable)) + content[len(changeable) :])
    if name != "SHA256SUMS":
        reseal(damaged)
    said = ""
    try:
        check_bundle(damaged)
        if name != "SHA256SUMS":
            load_captioner(damaged)
    except BundleError as error:
        said = str(error)
    assert "\n" not in said
