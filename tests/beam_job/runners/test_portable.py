"""What travels to workers suffices: the package that Beam stages, alone in an environment, does a job's shards.

The job goes through Beam's portable job server to a worker pool outside of it. The pool's Python has the built package
and its dependencies, but neither this checkout nor its working directory.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from apache_beam.runners.portability.stager import Stager

from beam_job.cli.command import main
from model import DEFAULT_BUNDLE, check_bundle
from tests.conftest import ROOT

NOT_SHIPPED = shutil.ignore_patterns(".*", "tests", "shared", "build", "dist", "*.egg-info", "__pycache__")
# The system chooses the port, which the pool then logs; one chosen before may be another process's by then.
POOL = """
import logging
from apache_beam.runners.worker.worker_pool_main import main

logging.basicConfig()
main(["--service_port=0"])
"""
POOL_STARTED = re.compile(r"Started worker pool servicer at port: (localhost:\d+) with")


@pytest.fixture(scope="module")
def worker_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment that has the package as `--setup_file` stages it, and borrowed dependencies."""
    folder = tmp_path_factory.mktemp("package")
    source = shutil.copytree(ROOT, folder / "source", ignore=NOT_SHIPPED)
    (folder / "staged").mkdir()
    package = Stager._build_setup_package(str(source / "setup.py"), str(folder / "staged"))
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    packages = subprocess.check_output(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    ).strip()
    # A folder named in a .pth file is searched, but the .pth files in it are not read: an editable install of this
    # checkout among the dependencies stays out of sight.
    Path(packages, "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([str(python), "-m", "pip", "install", *options, package], check=True)
    return python


@pytest.fixture
def job_endpoint(tmp_path: Path) -> Iterator[str]:
    """Beam's own job server."""
    port = tmp_path / "port"
    command = [sys.executable, "-m", "apache_beam.runners.portability.local_job_service_main", f"--port_file={port}"]
    with server(tmp_path / "job_server.log", [*command, f"--staging_dir={tmp_path}/staging"]) as process:
        wait_until(port.exists, process)
        yield f"localhost:{port.read_text()}"


@pytest.fixture
def worker_pool(tmp_path: Path, worker_python: Path) -> Iterator[str]:
    """A pool that starts workers with `worker_python`, in an empty folder."""
    (tmp_path / "elsewhere").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = f"{worker_python.parent}{os.pathsep}{environment['PATH']}"  # the pool runs `python`
    log = tmp_path / "pool.log"
    with server(log, [str(worker_python), "-c", POOL], cwd=tmp_path / "elsewhere", env=environment) as process:
        wait_until(lambda: POOL_STARTED.search(log.read_text()), process)
        started = POOL_STARTED.search(log.read_text())
        assert started is not None
        yield started[1]


@contextlib.contextmanager
def server(log: Path, command: list[str], **options: object) -> Iterator[subprocess.Popen]:
    """A process and its children, until the block ends."""
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, **options) as process,
    ):
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_until(ready, process: subprocess.Popen, limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not ready():
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        assert time.monotonic() < deadline, f"{process.args} is not ready"
        time.sleep(0.05)


def test_the_package_holds_the_job_and_its_model(worker_python: Path, tmp_path: Path) -> None:
    code = "import beam_job, model; bundle = model.DEFAULT_BUNDLE; print(beam_job.__file__, bundle, sep='\\n')"
    code += "; print(model.check_bundle(bundle))"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    told = subprocess.check_output([str(worker_python), "-c", code], text=True, cwd=tmp_path, env=environment)
    package, bundle, version = told.splitlines()
    assert Path(package).is_relative_to(worker_python.parent.parent)
    assert Path(bundle).is_relative_to(worker_python.parent.parent)
    assert version == check_bundle(DEFAULT_BUNDLE)


def test_workers_with_nothing_but_the_package_write_the_same_rows(
    photographs, tiny_bundle: Path, job_endpoint: str, worker_pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths are those of the command, whatever folder the workers are in."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for name in ("rocket.jpg", "coffee.png", "china.jpg"):
        shutil.copy(photographs[name], "photos")
    Path("photos", "text.jpg").write_text("no picture")
    options = ["--input=photos", "--shard_size=2", f"--model={tiny_bundle}"]
    portable = ["--runner=PortableRunner", f"--job_endpoint={job_endpoint}"]
    external = ["--environment_type=EXTERNAL", f"--environment_config={worker_pool}"]
    assert main([*options, "--output=portable", *portable, *external]) == 0
    assert main([*options, "--output=here"]) == 0
    assert rows("portable", "captions") == rows("here", "captions")
    assert rows("portable", "failures") == rows("here", "failures")
    assert len(rows("portable", "captions")) == 3


def test_a_job_server_that_is_not_there_is_one_line(
    photographs, tiny_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as closed:
        closed.bind(("localhost", 0))  # and does not listen
        endpoint = f"localhost:{closed.getsockname()[1]}"
        portable = ["--runner=PortableRunner", f"--job_endpoint={endpoint}", "--job_server_timeout=1"]
        options = [f"--input={photographs['rocket.jpg']}", f"--model={tiny_bundle}", f"--output={tmp_path}/out"]
        assert main([*options, *portable]) == 1
    told = capfd.readouterr().err
    assert "Traceback" not in told
    assert (
        f"no job server answers at --job_endpoint={endpoint}; fix that, then repeat the command to resume"
        in told.splitlines()[-1]
    )


def rows(output: str, table: str) -> list[dict]:
    """All rows by URI, without what tells the time."""
    found = ds.dataset(f"{output}/{table}").to_table().to_pylist()
    return sorted(
        ({name: value for name, value in row.items() if not name.endswith("_at")} for row in found),
        key=lambda row: row["uri"],
    )
