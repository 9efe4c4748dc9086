"""Options for requests to storages: those of a run that apply to all reads of a process."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from beam_job import __version__

PROJECT_URL = "https://pypi.org/project/caption-images/"
USER_AGENT = f"caption-images/{__version__} (+{PROJECT_URL})"
REQUESTS_PER_HOST = 4
_HEADER_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")


@dataclass(frozen=True)
class Access:
    """Options for requests; a user agent that is not valid in a header raises ValueError.

    Attributes:
      user_agent: sent to web servers.
      respect_noai: whether to skip images whose web server forbids use by AI.
      requests_per_host: concurrent requests to one web server.
      billing_project: Google Cloud project that is billed for reading requester-pays buckets; "" for none.
    """

    user_agent: str = USER_AGENT
    respect_noai: bool = False
    requests_per_host: int = REQUESTS_PER_HOST
    billing_project: str = ""

    def __post_init__(self) -> None:
        if not _HEADER_VALUE.fullmatch(self.user_agent):
            raise ValueError(
                f"--user_agent must be one line of printable ASCII characters, not {self.user_agent!r:.80}"
            )

    def shared_by(self, processes: int) -> Access:
        """The same for each of several processes, with its share of the requests, which is one at least."""
        return dataclasses.replace(self, requests_per_host=-(-self.requests_per_host // processes))


_access = Access()


def use_access(access: Access) -> None:
    """From now on, all storages of this process ask like this."""
    global _access
    _access = access


def current_access() -> Access:
    """What `use_access` was last given, or the defaults."""
    return _access
