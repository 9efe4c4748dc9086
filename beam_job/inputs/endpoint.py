"""The endpoint of `--captioner=openai`: its address and how it is called, validated when the record is created."""

from __future__ import annotations

import math
import re
import urllib.parse
from dataclasses import dataclass

from beam_job.storage import WEB, public_name

_COMPLETIONS = "/chat/completions"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LARGEST = {"concurrency": 256, "jpeg_quality": 100, "max_tokens_total": 10**15}
_LONGEST_TIMEOUT = 86_400  # seconds; a day


@dataclass(frozen=True)
class Endpoint:
    """A server with OpenAI's chat completions API; an invalid value raises ValueError with the option and the value.

    Attributes:
      url: its base URL, as for OpenAI's clients (`http://localhost:8000/v1`); a query is kept and never shown.
      concurrency: concurrent requests of each process; fewer while the server is overloaded.
      request_timeout: seconds per image, including retries; a single attempt gets half of them.
      max_tokens_total: input and output tokens after which the run leaves the remaining images for the next one.
      jpeg_quality: JPEG quality of the images that are sent.
      logprobs: request log-probabilities, whose mean becomes the score.
      api_key_env: name of the environment variable that contains the key, in each process that captions; the key itself
        is in no record.
    """

    url: str
    concurrency: int = 8
    request_timeout: float = 300.0
    max_tokens_total: int | None = None
    jpeg_quality: int = 85
    logprobs: bool = False
    api_key_env: str = "OPENAI_API_KEY"

    def __post_init__(self) -> None:
        self._check_url()
        for name, largest in _LARGEST.items():
            value = getattr(self, name)
            if value is None and name == "max_tokens_total":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"--{name} must be a whole number from 1, not {value!r:.40}")
            if value > largest:
                raise ValueError(f"--{name} must be at most {largest}, not {value!r:.40}")
        seconds = self.request_timeout
        is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and math.isfinite(seconds)
        if not (is_number and 0 < seconds <= _LONGEST_TIMEOUT):
            raise ValueError(
                f"--request_timeout must be above 0 and at most {_LONGEST_TIMEOUT} seconds, not {seconds!r}"
            )
        if not _VARIABLE.fullmatch(self.api_key_env):  # it may be the key itself, so it is not shown
            raise ValueError("--api_key_env must be the name of an environment variable, such as OPENAI_API_KEY")

    def _check_url(self) -> None:
        name = public_name(self.url)
        try:
            parts = urllib.parse.urlsplit(self.url)
            _ = parts.port
        except ValueError as error:
            raise ValueError(f"--endpoint={name} is not a URL: {error}") from None
        if parts.scheme.lower() not in WEB or not parts.hostname or re.search(r"[\s\x00-\x1f]", self.url):
            raise ValueError(f"--endpoint must be a URL such as http://localhost:8000/v1, not {name!r:.200}")
        if parts.username is not None:
            raise ValueError(f"--endpoint={name} must not contain a user or password; the key belongs in --api_key_env")

    @property
    def name(self) -> str:
        """The URL for people, without its query."""
        return public_name(self.url)

    @property
    def completions_url(self) -> str:
        """Where requests go. An address without a path gets the usual `/v1`."""
        parts = urllib.parse.urlsplit(self.url)
        path = parts.path.rstrip("/") or "/v1"
        if not path.endswith(_COMPLETIONS):
            path += _COMPLETIONS
        return urllib.parse.urlunsplit(parts._replace(path=path, fragment=""))
