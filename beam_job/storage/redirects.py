"""Requests with several hops: redirects, the cookies that they set, and the request limit of each server."""

from __future__ import annotations

import contextlib
import http
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import requests
from requests.cookies import RequestsCookieJar, extract_cookies_to_jar

from beam_job.storage.allow import Allowed
from beam_job.storage.base import CONTENT
from beam_job.storage.connections import STALL_S
from beam_job.storage.hosts import BUSY, HOSTS, host_of
from beam_job.storage.responses import DownloadError, status_error
from beam_job.storage.retry import Deadline

_CONNECT_S = 10.0
_REDIRECTS = (301, 302, 303, 307, 308)
_SUCCESS = (200, 203, 206)
_NO_AI = frozenset(("noai", "noimageai"))
_OWN_NAME = "caption-images"
# Directives that a colon and a value follow, where in others the name of a robot comes first.
_WITH_VALUES = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")


@dataclass(frozen=True)
class Route:
    """Rules for the redirects and responses of a request.

    Attributes:
      redirects: how many to follow.
      allowed: checks the target of each redirect; None allows all.
      respect_noai: whether to refuse answers whose `X-Robots-Tag` forbids use by AI.
      takes_turns: whether the number of concurrent requests per server is limited.
    """

    redirects: int = 0
    allowed: Allowed | None = None
    respect_noai: bool = False
    takes_turns: bool = False


@dataclass(frozen=True)
class Request:
    """One GET or HEAD, with all that its hops have in common; cookies set by a hop are sent to the next ones."""

    session: requests.Session
    method: str
    headers: Mapping[str, str]
    deadline: Deadline
    route: Route
    name: str
    cookies: RequestsCookieJar = field(default_factory=RequestsCookieJar)

    @contextlib.contextmanager
    def open(self, url: str) -> Iterator[requests.Response]:
        """The successful response of the last hop, its body unread.

        Raises:
          DownloadError: another status, too many redirects, or a server that does not want it.
          NotAllowedError: a redirect is not allowed.
        """
        for _ in range(self.route.redirects + 1):
            with self._turn(url), contextlib.closing(self._sent(url)) as response:
                extract_cookies_to_jar(self.cookies, response.request, response.raw)
                if self.route.respect_noai:
                    self._check_noai(response)
                if response.status_code in _SUCCESS:
                    yield response
                    return
                target = response.headers.get("Location") if response.status_code in _REDIRECTS else None
                if target is None or not self.route.redirects:
                    raise self._status_error(url, response)
            url = self._target(url, target)
        raise DownloadError(f"{self.name}: more than {self.route.redirects} redirects", "TooManyRedirects")

    def _turn(self, url: str) -> contextlib.AbstractContextManager[None]:
        host = host_of(url)
        if host is None or not self.route.takes_turns:
            return contextlib.nullcontext()
        return HOSTS.request(host, self.deadline, self.name)

    def _sent(self, url: str) -> requests.Response:
        left = max(self.deadline.left(), 0.001)  # 0 would mean no timeout, or an error
        return self.session.request(
            self.method,
            url,
            headers={"Accept-Encoding": "identity", **self.headers},
            cookies=self.cookies,
            stream=True,
            allow_redirects=False,
            timeout=(min(left, _CONNECT_S), min(left, STALL_S)),
        )

    def _status_error(self, url: str, response: requests.Response) -> DownloadError:
        error = status_error(response, self.name)
        host = host_of(url)
        if host is not None and self.route.takes_turns and error.status in BUSY:
            HOSTS.refused(host, error.retry_after)
            error.retry_after = max(error.retry_after or 0.0, HOSTS.pause(host))
        return error

    def _check_noai(self, response: requests.Response) -> None:
        if found := forbids_ai(response.raw.headers.getlist("X-Robots-Tag")):
            raise DownloadError(
                f"{self.name}: the server forbids its use by AI (X-Robots-Tag: {found})",
                "NoAI",
                retry_when=CONTENT,
            )

    def _target(self, url: str, location: str) -> str:
        """The target of a redirect, which is allowed."""
        try:
            target = urllib.parse.urljoin(url, _as_sent(location))
        except ValueError as error:  # brackets that are no IPv6 address
            reason = f"{self.name}: is redirected to an invalid URL"
            raise DownloadError(reason, type(error).__name__) from None
        if self.route.allowed is not None:
            self.route.allowed.check(target)
        return target


def forbids_ai(headers: Iterable[str]) -> str:
    """The directive of `X-Robots-Tag` headers that forbids use by AI; "" if none does.

    A header may be for one robot, as in `otherbot: noai`; it counts if it is for all or for this one.
    """
    for header in headers:
        robot, colon, directives = header.lower().partition(":")
        if not colon or "," in robot or robot.strip() in _WITH_VALUES:
            directives = header.lower()
        elif robot.strip() not in ("*", _OWN_NAME):
            continue
        for directive in directives.split(","):
            if directive.strip() in _NO_AI:
                return directive.strip()
    return ""


def _as_sent(location: str) -> str:
    """A Location as the server meant it: http.client has read its bytes as Latin-1, but servers send UTF-8."""
    try:
        data = location.encode("latin-1")
    except UnicodeEncodeError:
        return location
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return urllib.parse.quote(data, safe="!#$%&'()*+,/:;=?@[]~")


def is_part(response: requests.Response) -> bool:
    """Whether the response holds a part of the file only."""
    return response.status_code == http.HTTPStatus.PARTIAL_CONTENT
