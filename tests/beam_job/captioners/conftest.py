"""Fixtures: a server that speaks OpenAI's protocol, in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.openai_server import OpenAiServer, serve_openai


@pytest.fixture(scope="session")
def openai_process() -> Iterator[OpenAiServer]:
    with serve_openai() as server:
        yield server


@pytest.fixture
def server(openai_process: OpenAiServer, monkeypatch: pytest.MonkeyPatch) -> OpenAiServer:
    """The server without faults, and an environment without a key."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    openai_process.set()
    return openai_process
