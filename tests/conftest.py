"""Fixtures: real photographs, a small bundle with random weights, an emulator of Google Cloud Storage."""

from __future__ import annotations

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # before anything imports TensorFlow

import contextlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from model import CaptionerConfig
from tests.gcs_http import serve_gcs
from tests.gcs_server import GcsServer

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"

WORDS = ("a", "dog", "cat", "runs", "sits", "on", "grass", "the", "red")
TINY = CaptionerConfig("efficientnet_lite0", input_size=64, units=13, embedding_units=11, max_words=5)


def shared(name: str) -> Path:
    """A folder beside the project that holds large test data; the test is skipped where it is absent."""
    if not (SHARED / name).exists():
        pytest.skip(f"needs {name} in a folder named shared beside the project")
    return SHARED / name


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is written into the home of whoever runs the tests, by commands they start neither.

    The processes of pytest-xdist share the cache, so that each model is converted once.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield


@pytest.fixture(scope="session")
def photographs() -> dict[str, Path]:
    """Photographs of scikit-image and scikit-learn by name, found as the demo finds them."""
    from beam_job.cli.demo import sample_photographs

    return {path.name: path for path in sample_photographs()}


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the smallest shape, random weights; its encoder is converted, which each process would do anew."""
    import keras

    from model.bundle import load_captioner
    from model.bundle_writer import save_bundle
    from model.captioner import Captioner
    from model.network import build_network
    from model.vocabulary import SPECIAL_WORDS, Vocabulary

    keras.utils.set_random_seed(3)
    vocabulary = Vocabulary((*SPECIAL_WORDS, *WORDS))
    captioner = Captioner(TINY, vocabulary, *build_network(TINY, len(vocabulary)))
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    save_bundle(folder, captioner, card="# Random weights\n")
    load_captioner(folder, engine="auto", log=lambda line: None)
    return folder


_EMULATOR = """
import threading
from gcp_storage_emulator.server import create_server

server = create_server("127.0.0.1", 0, in_memory=True)
server.start()
print(server._api._httpd.server_port, flush=True)
threading.Event().wait()
"""  # its command takes no port that the system chooses; one chosen before may be another process's by then


@contextlib.contextmanager
def emulator(log: Path) -> Iterator[str]:
    """A storage emulator in a process of its own, on a free port; yields its address."""
    with (
        log.open("wb") as errors,
        subprocess.Popen([sys.executable, "-c", _EMULATOR], stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        assert process.stdout is not None
        try:
            port = process.stdout.readline().decode().strip()
            if not port:
                raise RuntimeError(f"the storage emulator has not started: {log.read_text()}")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()  # it has nothing to save, and may not heed SIGTERM while a request hangs


@pytest.fixture(scope="session")
def gcs_emulator_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A storage emulator for all tests; yields its address."""
    with emulator(tmp_path_factory.mktemp("emulator") / "log") as address:
        yield address


@pytest.fixture(scope="module")
def gcs_emulator(gcs_emulator_process: str) -> Iterator[str]:
    """The storage emulator, to which STORAGE_EMULATOR_HOST leads the module's tests; yields its address."""
    from beam_job import storage

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", gcs_emulator_process)
        storage._storage.cache_clear()  # a client remembers the address that it was made with
        yield gcs_emulator_process
    storage._storage.cache_clear()


@pytest.fixture
def bucket(gcs_emulator: str, request: pytest.FixtureRequest):
    """A new bucket of the emulator, as the client's object."""
    from google.cloud import storage as gcs

    from beam_job import storage

    storage._storage.cache_clear()  # the client remembers the emulator of its making
    name = request.node.name.lower().replace("_", "-").replace("[", "-").replace("]", "")[:50].strip("-")
    client = gcs.Client()
    yield client.create_bucket(name)
    client.close()
    storage._storage("gs")._client.close()
    storage._storage.cache_clear()


@pytest.fixture
def gcs_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[GcsServer]:
    """A server with the bucket `gs://bucket` that honours preconditions and fails on request."""
    from beam_job import storage

    with serve_gcs("bucket") as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.address)
        storage._storage.cache_clear()
        yield server
        storage.storage_for("gs://bucket").close()  # type: ignore[attr-defined]
    storage._storage.cache_clear()


@pytest.fixture(scope="session")
def s3_server_thread() -> Iterator[str]:
    """Moto's server, for all tests; yields its address."""
    if not (has_package("moto") and has_package("s3fs")):
        pytest.skip("needs moto[server] and s3fs")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture(scope="module")
def s3_server(s3_server_thread: str) -> Iterator[str]:
    """Moto's server, to which variables of the environment lead s3fs in the module's tests; yields its address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", s3_server_thread)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        _forget_s3()
        yield s3_server_thread
    _forget_s3()


def _forget_s3() -> None:
    """Drops the file systems of s3fs: they remember the variables that they were made with."""
    from s3fs import S3FileSystem

    from beam_job import storage

    S3FileSystem.clear_instance_cache()
    storage._storage.cache_clear()


def has_package(name: str) -> bool:
    """Whether an optional package is installed."""
    return importlib.util.find_spec(name) is not None
