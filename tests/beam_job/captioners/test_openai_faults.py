"""What the captioner of endpoints makes of answers without a caption and of servers that fail, are busy or gone."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from model import CaptionerError
from tests.endpoint_captioner import KEY, failed, only, opened, picture
from tests.openai_server import OpenAiServer

BUSY = {"status": 429, "error": {"message": "Rate limit reached"}}
NO_CREDIT = {"status": 429, "error": {"message": "No credit", "code": "insufficient_quota"}}
MOVED = {"status": 307, "headers": {"Location": "http://x/v1?key=1"}}


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        pytest.param({"refusal": "I cannot\nhelp."}, "RefusedAnswer", "refused: I cannot help.", id="refused"),
        pytest.param({"text": " \n"}, "EmptyAnswer", "empty (finish_reason stop)", id="empty"),
        pytest.param({"text": None}, "EmptyAnswer", "empty", id="null"),
        pytest.param({"finish": "length"}, "CutAnswer", "cut off at --max_new_tokens: it begins 'a red pict", id="cut"),
        pytest.param({"finish": "length", "text": ""}, "CutAnswer", "no words yet", id="still thinking"),
        pytest.param({"finish": "content_filter"}, "FilteredAnswer", "content filter", id="filtered answer"),
        pytest.param(
            {"status": 400, "error": {"message": "Not allowed.", "code": "content_filter"}},
            "FilteredAnswer",
            "the endpoint answered 400 Bad Request: Not allowed.",
            id="filtered picture",
        ),
        pytest.param({"status": 400, "error": "image too small"}, "EndpointFailure", "image too small", id="400"),
        pytest.param({"status": 413, "body": "<html>no</html>"}, "EndpointFailure", "answered 413 ", id="413"),
        pytest.param({"size": 5 * 2**20}, "EndpointFailure", "an answer of more than 4,194,304 bytes", id="too long"),
    ],
)
def test_a_picture_without_a_caption_is_a_failure_of_its_content(
    server: OpenAiServer, answer: dict[str, Any], kind: str, said: str
) -> None:
    server.set(by_colour={"red": answer})
    captioner = opened(server)
    name, retry_when, message = failed(only(captioner))
    assert (name, retry_when) == (kind, "content")
    assert said in message
    assert "\n" not in message
    assert only(captioner, picture("blue")).text == "a blue picture of 40x30"


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(BUSY, id="429"),
        pytest.param(BUSY | {"headers": {"Retry-After": "1"}}, id="429 with Retry-After"),
        pytest.param({"status": 500, "error": {"message": "CUDA error"}}, id="500"),
        pytest.param({"status": 503, "body": "loading"}, id="503"),
        pytest.param({"cut": 40}, id="cut JSON"),
        pytest.param({"cut": 0}, id="no body"),
        pytest.param({"drop": True}, id="a broken connection"),
        pytest.param({"body": "{}"}, id="no choices"),
        pytest.param({"body": '{"error": {"code": 502, "message": "Provider returned error"}}'}, id="502 in a 200"),
    ],
)
def test_temporary_faults_are_retried(server: OpenAiServer, fault: dict[str, Any]) -> None:
    server.set(steps=[fault, fault])
    captioner = opened(server)
    started = time.monotonic()
    assert only(captioner).text == "a red picture of 40x30"
    assert time.monotonic() - started >= 2 * int(fault.get("headers", {}).get("Retry-After", 0))
    counts = captioner.take_counts()
    assert (counts["requests"], counts["retries"]) == (3, 2)


def test_a_stall_is_given_up_and_the_request_repeated(server: OpenAiServer) -> None:
    server.set(steps=[{"stall": True}])
    assert only(opened(server, request_timeout=6.0)).text == "a red picture of 40x30"
    assert len(server.asked) == 2


def test_a_picture_that_fails_each_time_is_tried_again_by_the_next_run(server: OpenAiServer) -> None:
    server.set(by_colour={"red": {"status": 500, "error": {"message": "assertion failed"}}})
    captioner = opened(server, request_timeout=3.0)
    name, retry_when, message = failed(only(captioner))
    assert (name, retry_when) == ("EndpointFailure", "later")
    assert "the endpoint answered 500 Internal Server Error: assertion failed (" in message
    assert server.asked[-1]["colour"] == "grey"  # the captioner's own picture, which had a caption
    assert only(captioner, picture("blue")).text == "a blue picture of 40x30"


@pytest.mark.parametrize(
    ("others", "state", "said"),
    [
        pytest.param({"model": "typo"}, {}, "404 Not Found: The model `typo` .*; check --model=typo", id="model"),
        pytest.param({}, {"key": KEY}, "answered 401 .*; set OPENAI_API_KEY to the server's key", id="no key"),
        pytest.param({}, {"steps": [NO_CREDIT] * 2}, "429 .*: No credit$", id="no credit"),
        pytest.param({}, {"steps": [MOVED] * 2}, "redirects to http://x/v1, which", id="redirect"),
        pytest.param({}, {"steps": [{"body": "<html>"}] * 99}, "no JSON: '<html>'$", id="a web page"),
    ],
)
def test_what_hits_every_picture_stops_the_run(
    server: OpenAiServer, others: dict[str, Any], state: dict[str, Any], said: str
) -> None:
    server.set(**state)
    with pytest.raises(CaptionerError, match=rf"^--endpoint={server.url} .*{said}"):
        opened(server, **others).check()
    server.set(**state)
    with pytest.raises(CaptionerError, match=rf"^--endpoint={server.url} .*{said}"):
        opened(server, **others, request_timeout=3.0).caption_pictures([picture()])


def test_a_server_that_is_gone_stops_the_run(server: OpenAiServer) -> None:
    gone = opened(server, url="http://127.0.0.1:1/v1", request_timeout=0.5)
    said = "^--endpoint=http://127.0.0.1:1/v1 did not answer: Connection refused .*; check that the server is running"
    with pytest.raises(CaptionerError, match=said):
        gone.check()
    with pytest.raises(CaptionerError, match=said):
        gone.caption_pictures([picture()])


def test_requests_are_sent_side_by_side_and_fewer_to_a_busy_server(server: OpenAiServer) -> None:
    captioner = opened(server, concurrency=4)
    assert captioner.batches_at_once == 4
    server.set(steps=[BUSY] * 4, delay=0.1)
    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(lambda _: only(captioner), range(12)))
    assert [outcome.text for outcome in outcomes] == ["a red picture of 40x30"] * 12
    together = [asked["side_by_side"] for asked in server.asked]
    assert max(together) <= 4
    assert min(together[4:8]) < 4


def test_when_the_server_dies_all_threads_say_so_once_each(server: OpenAiServer) -> None:
    server.set(steps=[{"status": 500}] * 100)
    captioner = opened(server, concurrency=4, request_timeout=2.0)
    errors: list[str] = []

    def ask() -> None:
        with pytest.raises(CaptionerError) as raised:
            only(captioner)
        errors.append(str(raised.value))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [f"--endpoint={server.url} answered 500 Internal Server Error"] * 4
