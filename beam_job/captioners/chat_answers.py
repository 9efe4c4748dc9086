"""Reads a chat completion: captions with scores, or the reason why there are none."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from model import Caption, CaptionFailure

_SHOWN = 80  # characters of an answer in a message
_THOUGHTS = re.compile(
    r"\s*<think>.*?</think>", re.DOTALL
)  # that servers without a parser for them leave in the answer


class RefusedAnswer(CaptionFailure):
    """The model refused to describe the picture."""


class FilteredAnswer(CaptionFailure):
    """The endpoint's content filter stopped the request or the answer."""


class CutAnswer(CaptionFailure):
    """The answer was longer than --max_new_tokens."""


class EmptyAnswer(CaptionFailure):
    """The answer has no words."""


def captions_in(answer: Mapping[str, Any], num_captions: int) -> list[Caption]:
    """The captions of a chat completion, best first where their scores are known.

    Args:
      answer: with a list `choices` that is not empty.
      num_captions: that were asked for.

    Raises:
      CaptionFailure: there are fewer; the reason is that of the first choice without a caption.
    """
    found: list[Caption] = []
    failures: list[CaptionFailure] = []
    for choice in answer["choices"]:
        try:
            found.append(_caption(choice if isinstance(choice, dict) else {}))
        except CaptionFailure as failure:
            failures.append(failure)
    if len(found) < num_captions:
        raise failures[0] if failures else EmptyAnswer(f"the endpoint returned {len(found)} of {num_captions} captions")
    if all(caption.score is not None for caption in found):
        found.sort(key=lambda caption: -(caption.score or 0.0))
    return found


def tokens_in(answer: Mapping[str, Any]) -> tuple[int, int] | None:
    """Tokens of the request and of the answer; None where the server does not say."""
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return None
    given, generated = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if isinstance(given, int) and isinstance(generated, int) and min(given, generated) >= 0:
        return given, generated
    return None


def _caption(choice: Mapping[str, Any]) -> Caption:
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    reason = choice.get("finish_reason")
    text = _text(message.get("content"))
    if reason == "content_filter":
        raise FilteredAnswer("the endpoint's content filter stopped the answer")
    if refusal := message.get("refusal"):
        raise RefusedAnswer(f"the model refused: {' '.join(str(refusal).split())[:300]}")
    if reason == "length":
        shown = f"it begins {text[:_SHOWN]!r}" if text else "it has no words yet, as with a model that reasons first"
        raise CutAnswer(
            f"the answer was cut off at --max_new_tokens: {shown}; allow more tokens, or ask for a shorter answer with "
            "--prompt"
        )
    if not text:
        raise EmptyAnswer(f"the answer is empty (finish_reason {reason!s:.40})")
    return Caption(text, _score(choice.get("logprobs")))


def _text(content: object) -> str:
    """The words of a message, whose content is a text or a list of parts, without the thoughts before them."""
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        content = "".join(part for part in parts if isinstance(part, str))
    if not isinstance(content, str):
        return ""
    thoughts = _THOUGHTS.match(content)
    return content[thoughts.end() if thoughts else 0 :].strip()


def _score(logprobs: object) -> float | None:
    """The mean log-probability of the answer's tokens; None where it is not known."""
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(tokens, list) or not tokens:
        return None
    values = [token.get("logprob") for token in tokens if isinstance(token, dict)]
    numbers = [float(value) for value in values if isinstance(value, (int, float)) and math.isfinite(value)]
    return min(0.0, sum(numbers) / len(numbers)) if len(numbers) == len(tokens) else None
