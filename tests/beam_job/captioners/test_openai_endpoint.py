"""The captioner of endpoints against a real server: what it sends, what it makes of answers, and of faults."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from beam_job.captioners.openai_endpoint import DEFAULT_PROMPT, OpenAiCaptioner, open_captioner
from beam_job.config import JobConfig
from beam_job.inputs.endpoint import Endpoint
from model import Caption, CaptionerError, CaptionFailure, Decoding, EndRun, Picture
from tests.openai_server import COLOURS, MODEL, OpenAiServer

KEY = "sk-proj-0123456789abcdefghij"
BUSY = {"status": 429, "error": {"message": "Rate limit reached"}}
NO_CREDIT = {"status": 429, "error": {"message": "No credit", "code": "insufficient_quota"}}
MOVED = {"status": 307, "headers": {"Location": "http://x/v1?key=1"}}


def config(server: OpenAiServer, model: str = MODEL, **others: Any) -> JobConfig:
    names = Endpoint.__dataclass_fields__.keys() & others.keys()
    options = {name: others.pop(name) for name in names}
    endpoint = Endpoint(options.pop("url", server.url), **options)
    return JobConfig(("photos",), "out", model=model, captioner="openai", endpoint=endpoint, **others)


def opened(server: OpenAiServer, model: str = MODEL, **others: Any) -> OpenAiCaptioner:
    return open_captioner(config(server, model, **others), None)


def picture(colour: str = "red", width: int = 40, height: int = 30, prompt: str | None = None) -> Picture:
    pixels = np.broadcast_to(np.array(COLOURS.get(colour, (90, 90, 90)), np.uint8), (height, width, 3))
    return Picture(np.ascontiguousarray(pixels), f"{colour}.jpg", prompt=prompt)


def only(captioner: OpenAiCaptioner, given: Picture | None = None) -> Any:
    """The first caption of a picture, or its failure."""
    [outcome] = captioner.caption_pictures([given or picture()])
    return outcome if isinstance(outcome, CaptionFailure) else outcome[0]


def failed(outcome: object) -> tuple[str, str, str]:
    assert isinstance(outcome, CaptionFailure), outcome
    return type(outcome).__name__, outcome.retry_when, str(outcome)


def test_a_request_has_picture_prompt_and_parameters(server: OpenAiServer) -> None:
    captioner = opened(server, max_new_tokens=60)
    assert only(captioner, picture("blue", 64, 48, "Name the colour.")) == Caption("a blue picture of 64x48", None)
    [asked] = server.asked
    assert (asked["prompt"], asked["size"]) == ("Name the colour.", [64, 48])
    assert {name: value for name, value in asked["body"].items() if name != "messages"} == {
        "model": MODEL,
        "max_tokens": 60,
        "temperature": 0,
    }
    assert "authorization" not in asked["headers"]
    counts = dict(captioner.take_counts())
    assert counts.pop("request_seconds") >= 0
    assert counts == {"requests": 1, "retries": 0, "tokens_in": 100, "tokens_out": 10}
    assert not captioner.take_counts()


def test_without_a_prompt_it_asks_for_a_sentence(server: OpenAiServer) -> None:
    only(opened(server))
    assert server.asked[0]["prompt"] == DEFAULT_PROMPT


@pytest.mark.parametrize(
    ("decoding", "sent"),
    [
        pytest.param(Decoding(), {"temperature": 0}, id="default"),
        pytest.param(Decoding("greedy"), {"temperature": 0}, id="greedy"),
        pytest.param(Decoding(temperature=0.5, seed=3), {"temperature": 0.5, "seed": 3}, id="temperature alone"),
        pytest.param(Decoding("sample", num_captions=2, seed=7), {"temperature": 1.0, "seed": 7, "n": 2}, id="several"),
    ],
)
def test_decoding_becomes_parameters(server: OpenAiServer, decoding: Decoding, sent: dict[str, Any]) -> None:
    [captions] = opened(server, decoding=decoding).caption_pictures([picture()])
    assert not isinstance(captions, CaptionFailure)
    assert len(captions) == decoding.num_captions
    body = server.asked[0]["body"]
    assert {name: body[name] for name in ("temperature", "seed", "n") if name in body} == sent


def test_log_probabilities_become_the_score(server: OpenAiServer) -> None:
    assert only(opened(server, logprobs=True)).score == -1.0
    server.set(logprobs=False)
    assert only(opened(server, logprobs=True)).score is None
    with pytest.raises(CaptionerError, match="does not return log-probabilities; leave out --logprobs"):
        opened(server, logprobs=True).check()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("\n<think>Is it red?\nYes.</think>\n\nA red picture.\n", id="thoughts"),
        pytest.param([{"type": "text", "text": "A red "}, {"type": "text", "text": "picture."}], id="parts"),
    ],
)
def test_a_caption_is_the_answer_alone(server: OpenAiServer, content: object) -> None:
    server.set(by_colour={"red": {"text": content}})
    assert only(opened(server)).text == "A red picture."


def test_quality_makes_pictures_smaller(server: OpenAiServer) -> None:
    noise = Picture(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8), "noise.jpg")
    for quality in (90, 20):
        only(opened(server, jpeg_quality=quality), noise)
    good, bad = (asked["bytes"] for asked in server.asked)
    assert bad < good / 2


def test_the_version_covers_what_captions_depend_on(server: OpenAiServer) -> None:
    version = opened(server).version
    assert version.startswith(f"openai:{MODEL}-")
    assert opened(server, concurrency=3, logprobs=True, url="http://other:1/v1").version == version
    others = [
        opened(server, "another"),
        opened(server, jpeg_quality=50),
        opened(server, max_side=100),
        opened(server, max_new_tokens=50),
        opened(server, decoding=Decoding(temperature=0.5)),
    ]
    assert len({other.version for other in others} | {version}) == 6


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


def test_newer_models_that_take_other_parameters(server: OpenAiServer) -> None:
    tokens = "Unsupported parameter: 'max_tokens' is not supported; use 'max_completion_tokens' instead."
    temperature = "Unsupported value: 'temperature' does not support 0 with this model."
    refusals = [{"status": 400, "error": {"message": message}} for message in (tokens, temperature)]
    server.set(steps=list(refusals))
    captioner = opened(server)
    assert [only(captioner).text, only(captioner).text] == ["a red picture of 40x30"] * 2
    assert [sorted(asked["body"]) for asked in server.asked][2:] == [["max_completion_tokens", "messages", "model"]] * 2
    server.set(steps=[refusals[1], refusals[1]])
    with pytest.raises(CaptionerError, match="'temperature' does not support 0"):
        opened(server, decoding=Decoding(temperature=0.5)).check()  # asked for, so not left out


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


def test_a_key_is_sent_and_never_shown(server: OpenAiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY + "\n")
    server.set(key=KEY)
    captioner = opened(server, api_key_env="MY_KEY")
    assert only(captioner).text == "a red picture of 40x30"
    server.set(key="another")  # the server's error quotes what was sent
    with pytest.raises(CaptionerError, match=r"provided: Bearer \.\.\.\.; check the key in MY_KEY$") as refused:
        only(captioner)
    shown = f"{refused.value!r} {refused.value.__cause__!r} {config(server).options} {vars(config(server).endpoint)}"
    assert KEY not in shown
    server.set(key=KEY, by_colour={"red": {"text": f"a card that says {KEY}"}})
    assert only(captioner).text == "a card that says ..."


def test_a_key_of_blanks_or_line_breaks_is_refused_unseen(
    server: OpenAiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret\nvalue")
    with pytest.raises(CaptionerError, match="OPENAI_API_KEY contains blanks") as refused:
        opened(server)
    assert "secret" not in str(refused.value)


def test_a_query_is_sent_and_never_shown(server: OpenAiServer) -> None:
    job = config(server, "typo", url=f"{server.url}?token=abcdef123")
    with pytest.raises(CaptionerError) as refused:
        open_captioner(job, None).check()
    assert server.asked[0]["path"] == "/v1/chat/completions?token=abcdef123"
    assert "abcdef123" not in f"{refused.value} {job.options}"


def test_a_budget_of_tokens_leaves_the_rest_for_the_next_run(server: OpenAiServer) -> None:
    captioner = opened(server, max_tokens_total=200)  # a picture takes 110
    outcomes = [only(captioner) for _ in range(3)]
    assert [isinstance(outcome, EndRun) for outcome in outcomes] == [False, False, True]
    assert str(outcomes[-1]) == "--max_tokens_total is spent (220 tokens in this process)"
    assert len(server.asked) == 2


def test_each_process_has_its_share_of_the_budget(server: OpenAiServer) -> None:
    captioner = opened(server, max_tokens_total=200, workers=2)
    assert [isinstance(only(captioner), EndRun) for _ in range(2)] == [False, True]


def test_a_budget_needs_a_server_that_counts(server: OpenAiServer) -> None:
    server.set(usage=None)
    assert only(opened(server)).text == "a red picture of 40x30"
    with pytest.raises(CaptionerError, match="does not report the tokens that it uses, which --max_tokens_total needs"):
        opened(server, max_tokens_total=200).check()


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
