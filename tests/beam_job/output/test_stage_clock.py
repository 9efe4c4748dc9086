"""Where the model's time goes, by a clock that the test moves."""

from __future__ import annotations

import pytest

from beam_job.output.stage_clock import StageClock, format_model_time

THREADS = 2


@pytest.mark.parametrize(
    ("held", "stage"),
    [
        pytest.param([], None, id="nothing under way"),
        pytest.param(["fetch"], "fetch", id="all are being fetched"),
        pytest.param(["fetch", "decode"], "fetch", id="a decoding thread has nothing to do"),
        pytest.param(["fetch", "decode", "decode"], "decode", id="no decoding thread is free"),
        pytest.param(["decode"], "decode", id="the last one is being decoded"),
        pytest.param(["fetch", "decode", "decode", "model"], "model", id="a batch runs"),
        pytest.param(["fetch", "write"], "fetch", id="an earlier shard is being written"),
        pytest.param(["write"], "write", id="the last shard is being written"),
        pytest.param(["write", "model"], "model", id="a batch runs while a shard is written"),
    ],
)
def test_each_moment_is_on_one_account(held: list[str], stage: str | None) -> None:
    now = [100.0]
    spent = StageClock(THREADS, clock=lambda: now[0])
    now[0] += 50  # before the first image
    for place in held:
        spent.transition(to=place)
    now[0] += 3
    assert {name: seconds for name, seconds in spent.seconds().items() if seconds} == ({stage: 3.0} if stage else {})


def test_an_image_on_its_way() -> None:
    now = [0.0]
    spent = StageClock(THREADS, clock=lambda: now[0])
    taken = []
    for seconds, move in (
        (0, {"to": "fetch"}),
        (4, {"from_": "fetch", "to": "decode"}),
        (3, {"from_": "decode"}),
        (0, {"to": "model"}),
        (2, {"from_": "model"}),
        (0, {"to": "write"}),
        (1, {"from_": "write"}),
        (7, {"to": "fetch"}),
    ):
        now[0] += seconds
        spent.transition(**move)
    taken.append(spent.take())
    now[0] += 5
    taken.append(spent.take())
    assert taken == [
        {"model": 2, "fetch": 4, "decode": 3, "write": 1},
        {"model": 0, "fetch": 5, "decode": 0, "write": 0},
    ]
    assert spent.seconds() == {"model": 2, "fetch": 9, "decode": 3, "write": 1}


@pytest.mark.parametrize(
    ("seconds", "line"),
    [
        pytest.param({}, "", id="no worker yet"),
        pytest.param({"model": 0, "fetch": 0, "decode": 0, "write": 0}, "", id="no image yet"),
        pytest.param({"model": 97, "fetch": 1, "decode": 1, "write": 1}, "model busy 97 %", id="nothing to speak of"),
        pytest.param(
            {"model": 57, "fetch": 40, "decode": 2, "write": 1},
            "model busy 57 %, waiting for fetch 40 %",
            id="slow storage",
        ),
        pytest.param(
            {"model": 0.25, "fetch": 0, "decode": 0.75, "write": 0},
            "model busy 25 %, waiting for decode 75 %",
            id="large pictures",
        ),
    ],
)
def test_told(seconds: dict[str, float], line: str) -> None:
    assert format_model_time(seconds) == line
