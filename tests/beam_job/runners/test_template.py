"""Nights of a flex template: deploy/launch.py as Dataflow's launcher starts it, and the job that it leaves.

The launcher gives the template's parameters and options of its own, and looks at the exit code and at the file that
--template_location names. Each night's job is then run from that file, as Dataflow would.
"""

from __future__ import annotations

import io
import json
import os
import runpy
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT, has_package

if not (has_package("google.cloud") and has_package("google.cloud.dataflow")):
    pytest.skip("needs the extra dataflow", allow_module_level=True)

from beam_job.captioning import caption_shards
from beam_job.storage import storage_for
from tests.dataflow_service import DataflowService, log_in, private_key, run_staged, serving
from tests.fakes import FakeCaptioner
from tests.leases import is_released
from tests.planned import grey

LAUNCH = ROOT / "deploy" / "launch.py"


class Nights:
    """A template over a bucket."""

    def __init__(self, root: str, address: str, variables: dict[str, str]) -> None:
        self.root = root
        self._address = address
        self._variables = variables
        self._launched = 0

    def upload(self, brightness: int) -> None:
        uri = f"{self.root}/photos/{brightness}.png"
        storage_for(uri).write(uri, grey(brightness))

    def parameters(self) -> tuple[list[str], str]:
        """The arguments that the launcher gives, and where it looks for the job."""
        self._launched += 1
        job = f"{self.root}/staging/template_launches/{self._launched}/job_object"
        own = [f"--input={self.root}/photos/", f"--output={self.root}/out", "--sdk_container_image=r/worker:1"]
        own += ["--recaption=false", "--model=", "--gpu=", "--shard_size=2"]
        launcher_s = ["--runner=DataflowRunner", "--project=p", "--region=us-central1", "--job_name=nightly"]
        launcher_s += [f"--temp_location={self.root}/temp", f"--staging_location={self.root}/staging"]
        launcher_s += ["--max_num_workers=3", "--labels=goog-dataflow-provided-template-type=flex"]
        return [*own, *launcher_s, f"--dataflow_endpoint={self._address}", f"--template_location={job}"], job

    def launch_in_a_process(self) -> dict[str, Any]:
        parameters, job = self.parameters()
        command = [sys.executable, str(LAUNCH), *parameters]
        environment = os.environ | self._variables | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        assert f"template written to {job}; launch it to caption what run" in done.stderr
        return stored_json(job)

    def launch(self) -> dict[str, Any]:
        """The same in this process, which has Beam loaded already."""
        parameters, job = self.parameters()
        assert runpy.run_path(str(LAUNCH))["launch"](parameters) == 0
        return stored_json(job)

    def files(self) -> list[str]:
        return [each.uri for each in storage_for(self.root).list(f"{self.root}/out/")]

    def captions(self) -> Counter[str]:
        """Rows by the image's name."""
        parts = [uri for uri in self.files() if "/captions/" in uri]
        tables = [pq.read_table(io.BytesIO(storage_for(uri).read(uri)[0])) for uri in parts]
        return Counter(uri.rsplit("/", 1)[1] for table in tables for uri in table["uri"].to_pylist())

    def summaries(self) -> list[dict[str, Any]]:
        return [stored_json(uri) for uri in self.files() if uri.endswith("/summary.json")]


def stored_json(uri: str) -> dict[str, Any]:
    return json.loads(storage_for(uri).read(uri)[0])


@pytest.fixture
def nights(bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nights]:
    monkeypatch.setattr(caption_shards, "load_captioner", lambda *_: FakeCaptioner())
    with serving(DataflowService()) as address:
        variables = log_in(tmp_path, private_key(), address)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield Nights(f"gs://{bucket.name}", address, variables)
    socket.setdefaulttimeout(None)  # Beam has set one in this process


def without_lease(files: list[str]) -> list[str]:
    """A lease that was given back leaves a file, whose number grows."""
    return [uri for uri in files if "/_LEASE/" not in uri]


def test_nights_of_a_template(nights: Nights) -> None:
    for brightness in (10, 20, 30):
        nights.upload(brightness)
    first = nights.launch_in_a_process()
    assert first["name"] == "nightly"
    assert not nights.summaries()  # nothing has run yet
    assert is_released(f"{nights.root}/out")

    # A second launch before the first one's job has ended continues its run: both jobs do the same shards.
    again = nights.launch()
    run_staged(first)
    run_staged(again)
    assert nights.captions() == Counter({"10.png": 1, "20.png": 1, "30.png": 1})
    [summary] = nights.summaries()
    assert (summary["captions"], summary["failures"]) == (3, 0)
    assert len([uri for uri in nights.files() if uri.endswith("/_SUCCESS")]) == 1

    # The next night plans anew.
    nights.upload(40)
    run_staged(nights.launch())
    assert nights.captions() == Counter({"10.png": 1, "20.png": 1, "30.png": 1, "40.png": 1})
    assert [(each["inputs"], each["skipped"]) for each in nights.summaries()] == [(3, 0), (1, 3)]

    # A night without news has a job too, since a launch without one counts as failed.
    before = nights.files()
    idle = nights.launch()
    assert idle["name"] == "nightly"
    run_staged(idle)
    assert without_lease(nights.files()) == without_lease(before)


def test_a_launch_that_is_refused_leaves_no_job(nights: Nights) -> None:
    parameters, job = nights.parameters()
    done = runpy.run_path(str(LAUNCH))["launch"]([*parameters, "--limit=0"])
    assert done == 2
    assert not storage_for(job).exists(job)


def test_parameters_become_options() -> None:
    as_options = runpy.run_path(str(LAUNCH))["as_options"]
    given = ["--recaption=true", "--gpu=", "--input=gs://b/a=b", "--retry=all", "--no_use_public_ips"]
    assert as_options(given) == ["--recaption", "--input=gs://b/a=b", "--retry=all", "--no_use_public_ips"]
    assert as_options(["--recaption=false", "--no_report=true", "--require_gpu=False"]) == ["--no_report"]
    assert as_options(["--recaption=maybe"]) == ["--recaption=maybe"]  # which the command refuses
