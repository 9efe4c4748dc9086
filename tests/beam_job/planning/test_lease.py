"""The lease of an output: held, refused, taken over, and not fought for."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from beam_job.planning import lease as lease_module
from beam_job.planning.lease import Holder, LeaseError, lease
from beam_job.storage import join, storage_for


def write_lease(output: Path, holder: Holder) -> None:
    uri = join(str(output), "runs", "_LEASE.json")
    storage_for(uri).write(uri, holder.to_json())


@pytest.mark.parametrize(
    ("holder", "taken"),
    [
        pytest.param(Holder("t", "elsewhere", 1, 0.0, 950.0), False, id="heard of 50 s ago"),
        pytest.param(Holder("t", "elsewhere", 1, 0.0, 930.0), True, id="not heard of for 70 s"),
        pytest.param(Holder("t", lease_module.socket.gethostname(), 2**22 + 1, 0.0, 999.0), True, id="process gone"),
        pytest.param(
            Holder("t", lease_module.socket.gethostname(), os.getpid(), 0.0, 999.0), False, id="process lives"
        ),
    ],
)
def test_a_dead_holders_lease_is_taken_over(tmp_path: Path, holder: Holder, taken: bool) -> None:
    write_lease(tmp_path, holder)
    if taken:
        with lease(str(tmp_path), clock=lambda: 1000.0):
            pass
        assert not (tmp_path / "runs" / "_LEASE.json").exists()
    else:
        with (
            pytest.raises(LeaseError, match=f"process {holder.pid} on {holder.host}"),
            lease(str(tmp_path), lambda: 1000.0),
        ):
            pass


def test_the_heartbeat_goes_on_while_the_lease_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_S", 0.01)
    beaten, now = threading.Event(), iter(range(1000, 10_000_000))

    def clock() -> float:
        time = float(next(now))
        if time > 1005:
            beaten.set()
        return time

    with lease(str(tmp_path), clock):
        assert beaten.wait(60)
        present = Holder(**json.loads((tmp_path / "runs" / "_LEASE.json").read_text()))
    assert present.heartbeat > present.since == 1000


def test_a_holder_that_was_taken_for_dead_leaves_the_new_one_alone(tmp_path: Path) -> None:
    other = Holder("another", "elsewhere", 1, 0.0, 999.0)
    with lease(str(tmp_path), clock=lambda: 1000.0):
        write_lease(tmp_path, other)
    assert Holder(**json.loads((tmp_path / "runs" / "_LEASE.json").read_text())) == other
