"""Credentials go only where the user named them; proxies and certificates of the environment still apply."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from beam_job import storage as storage_module
from beam_job.storage import OPTIONS, GoogleCloudStorage, HttpStorage, StorageError, storage_for
from tests.fault_server import FaultServer, ok, serve, status

BASIC = "Basic " + base64.b64encode(b"user:password").decode()
SECRETS = ("authorization", "proxy-authorization", "cookie")


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serve() as faults:
        yield faults


@pytest.fixture
def other() -> Iterator[FaultServer]:
    """Another host: by its name, not only by its port."""
    with serve() as faults:
        faults.address = faults.address.replace("127.0.0.1", "localhost")
        yield faults


@pytest.fixture
def web() -> Iterator[HttpStorage]:
    made = HttpStorage()
    yield made
    made.close()


@pytest.fixture(autouse=True, params=["NETRC", "home"])
def _netrc(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords for every host, where requests looks for them."""
    machines = "".join(f"machine {host} login user password password\n" for host in ("127.0.0.1", "localhost"))
    (tmp_path / ".netrc").write_text(machines + "default login user password password\n")
    (tmp_path / ".netrc").chmod(0o600)
    if request.param == "NETRC":
        monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    else:
        monkeypatch.delenv("NETRC", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))


def sent(*servers: FaultServer) -> list[str]:
    """The secrets that servers got."""
    return [
        headers[name] for server in servers for _, _, headers in server.asked for name in SECRETS if name in headers
    ]


def test_requests_would_send_them(server: FaultServer) -> None:
    """Otherwise the tests below prove nothing."""
    import requests

    requests.get(f"{server.address}/x.jpg", timeout=30)
    assert sent(server) == [BASIC]


@pytest.mark.parametrize("call", ["read", "stat", "open", "exists"])
def test_a_web_server_gets_no_password(server: FaultServer, web: HttpStorage, call: str) -> None:
    server.script("x.jpg", ok(b"photograph"))
    getattr(web, call)(f"{server.address}/x.jpg")
    assert server.asked
    assert sent(server) == []


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_nor_after_a_redirect(server: FaultServer, other: FaultServer, web: HttpStorage, code: int) -> None:
    server.script("x.jpg", status(code, {"Location": f"{other.address}/y.jpg"}))
    other.script("y.jpg", status(code, {"Location": f"{server.address}/z.jpg"}))
    server.script("z.jpg", ok(b"photograph"))
    assert web.read(f"{server.address}/x.jpg")[0] == b"photograph"
    assert sent(server, other) == []


def test_a_password_in_the_url_is_for_its_host_alone(server: FaultServer, other: FaultServer, web: HttpStorage) -> None:
    server.script("x.jpg", status(302, {"Location": "/same.jpg"}))
    server.script("same.jpg", status(302, {"Location": f"{other.address}/y.jpg"}))
    other.script("y.jpg", ok(b"photograph"))
    assert web.read(server.address.replace("//", "//user:password@") + "/x.jpg")[0] == b"photograph"
    assert sent(server) == [BASIC, BASIC]
    assert sent(other) == []


@pytest.mark.parametrize("call", ["read", "stat", "list", "exists", "create", "write", "delete", "is_folder", "open"])
def test_google_cloud_storage_gets_none_and_follows_no_redirect(
    server: FaultServer, other: FaultServer, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    server.otherwise = status(302, {"Location": f"{other.address}/y.jpg"})
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.address)
    google = GoogleCloudStorage()
    arguments = ("gs://bucket/x/", b"data") if call in ("create", "write") else ("gs://bucket/x/",)
    with pytest.raises(StorageError, match="302"):
        list(getattr(google, call)(*arguments))
    google.close()
    assert server.asked
    assert sent(server) == []
    assert other.asked == []


def test_a_token_for_google_stays_with_google(
    server: FaultServer, other: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from google.cloud import storage as gcs
    from google.oauth2.credentials import Credentials

    client = gcs.Client("project", Credentials("secret-token"), client_options={"api_endpoint": server.address})
    monkeypatch.setattr(gcs, "Client", lambda: client)
    server.otherwise = status(302, {"Location": f"{other.address}/y.jpg"})
    google = GoogleCloudStorage()
    for call in (google.read, google.stat):
        with pytest.raises(StorageError, match="302"):
            call("gs://bucket/x")
    google.close()
    assert set(sent(server)) == {"Bearer secret-token"}  # and not what ~/.netrc has
    assert other.asked == []


def test_proxies_of_the_environment_are_used(
    server: FaultServer, web: HttpStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.address.replace("//", "//user:password@"))
    monkeypatch.setenv("http_proxy", server.address.replace("//", "//user:password@"))
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    server.script("x.jpg", ok(b"photograph"))
    assert web.read("http://photos.example/x.jpg")[0] == b"photograph"
    [(_, path, headers)] = server.asked
    assert path == "http://photos.example/x.jpg"
    assert headers["proxy-authorization"] == BASIC  # the user named it, for the proxy
    assert "authorization" not in headers


def test_certificates_of_the_environment_are_used(
    web: HttpStorage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    with pytest.raises(StorageError, match=r"missing\.pem") as caught:
        web.read("https://127.0.0.1:9/x.jpg")
    assert (caught.value.transient, caught.value.retry_when) == (False, OPTIONS)


def test_storages_of_lists_are_the_same(server: FaultServer) -> None:
    server.script("x.jpg", ok(b"photograph"))
    allowed = storage_module.Allowed(schemes=("http",), private_addresses=True)
    uri = f"{server.address}/x.jpg"
    storage_for(uri, allowed).read(uri)
    assert sent(server) == []
