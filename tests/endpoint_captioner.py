"""The captioner of endpoints, opened for a server of the tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from beam_job.captioners.openai_endpoint import OpenAiCaptioner, open_captioner
from beam_job.config import JobConfig
from beam_job.inputs.endpoint import Endpoint
from model import CaptionFailure, Picture
from tests.openai_server import COLOURS, MODEL, OpenAiServer

KEY = "sk-proj-0123456789abcdefghij"


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
