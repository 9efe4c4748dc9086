"""What the captioner of endpoints sends, what it takes from the answer, its budget, and its secrets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from beam_job.captioners.openai_endpoint import DEFAULT_PROMPT, open_captioner
from beam_job.planning.recorded_config import public_options
from model import Caption, CaptionerError, CaptionFailure, Decoding, EndRun, Picture
from tests.endpoint_captioner import KEY, config, only, opened, picture
from tests.openai_server import MODEL, OpenAiServer


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


def test_a_key_is_sent_and_never_shown(server: OpenAiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY + "\n")
    server.set(key=KEY)
    captioner = opened(server, api_key_env="MY_KEY")
    assert only(captioner).text == "a red picture of 40x30"
    server.set(key="another")  # the server's error quotes what was sent
    with pytest.raises(CaptionerError, match=r"provided: Bearer \.\.\.\.; check the key in MY_KEY$") as refused:
        only(captioner)
    job = config(server)
    shown = f"{refused.value!r} {refused.value.__cause__!r} {public_options(job)} {vars(job.endpoint)}"
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
    assert "abcdef123" not in f"{refused.value} {public_options(job)}"


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
