"""Web servers by their addresses: what is not public is refused, however it is spelt and whatever leads there."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import HTTPServer
from pathlib import Path

import pytest

from beam_job.storage import Allowed, HttpStorage, NotAllowedError, StorageError, connections
from beam_job.storage.allow import check_addresses
from tests.fault_server import FaultServer, Handler, ok, serve, status

PUBLIC = "93.184.216.34"
WEB = Allowed(("http", "https"))
DATA = b"photograph"


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.9.10", "0.0.0.0", "0.1.2.3", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1"),
        *("169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192", "192.88.99.1", "198.18.0.1"),
        *("192.0.2.1", "224.0.0.251", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "fe80::1", "fe80::1%2", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1"),
        *("64:ff9b:1::1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "100::1"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    with pytest.raises(NotAllowedError, match="which is not public; add --allow_private_addresses"):
        check_addresses("host", [PUBLIC, address])


@pytest.mark.parametrize(
    "address", [PUBLIC, "2606:2800:220:1::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::"]
)
def test_addresses_that_are_public(address: str) -> None:
    check_addresses("host", [address])


class Network:
    """A name service whose answers change, and connections that all end at one port of this machine."""

    def __init__(self, port: int) -> None:
        self.names: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []
        self.connected: list[str] = []
        self._port = port
        self._getaddrinfo, self._connect = socket.getaddrinfo, connections.create_connection

    def getaddrinfo(self, host: str, port: int | None, *args: object, **kwargs: object) -> list:
        if host not in self.names:
            return self._getaddrinfo(host, port, *args, **kwargs)  # type: ignore[arg-type]
        self.asked.append(host)
        answers = self.names[host]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port or 0)) for address in addresses]

    def create_connection(self, address: tuple[str, int], *args: object, **kwargs: object) -> socket.socket:
        self.connected.append(address[0])
        return self._connect(("127.0.0.1", self._port), *args, **kwargs)  # type: ignore[arg-type]


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serve() as faults:
        yield faults


@pytest.fixture
def network(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> Network:
    made = Network(int(server.address.rpartition(":")[2]))
    monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
    monkeypatch.setattr(connections, "create_connection", made.create_connection)
    return made


@pytest.fixture
def web() -> Iterator[HttpStorage]:
    storage = HttpStorage(allowed=WEB)
    yield storage
    storage.close()


def refused_read(web: HttpStorage, uri: str) -> str:
    with pytest.raises(NotAllowedError) as caught:
        web.read(uri, timeout=10.0)
    return str(caught.value)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "0177.0.0.1", "[::ffff:127.0.0.1]", "0"],
)
def test_this_machine_in_any_spelling(server: FaultServer, web: HttpStorage, host: str) -> None:
    server.script("x.jpg", ok(DATA))
    port = server.address.rpartition(":")[2]
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except OSError:
        pytest.skip("this system takes it for no address")
    uri = f"http://{host}:{port}/x.jpg"
    assert refused_read(web, uri).startswith(f"{uri}: ")
    with pytest.raises(NotAllowedError):
        web.stat(uri)
    assert server.connections == 0
    private = HttpStorage(allowed=Allowed(("http",), private_addresses=True))
    assert private.read(f"{server.address}/x.jpg")[0] == DATA
    private.close()


def test_a_name_with_one_private_address_among_others(network: Network, web: HttpStorage) -> None:
    network.names["photos.example"] = [[PUBLIC, "10.0.0.1"]]
    assert "photos.example has the address 10.0.0.1" in refused_read(web, "http://photos.example/x.jpg")
    assert network.connected == []


def test_the_connection_goes_to_the_address_that_was_checked(
    server: FaultServer, network: Network, web: HttpStorage
) -> None:
    """A name that answers with a public address when it is checked, and with a private one when it is asked again."""
    network.names["photos.example"] = [[PUBLIC], ["127.0.0.1"]]
    server.script("x.jpg", ok(DATA))
    assert web.read("http://photos.example/x.jpg")[0] == DATA
    assert (network.asked, network.connected) == (["photos.example"], [PUBLIC])
    assert server.asked[0][2]["host"] == "photos.example"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("http://169.254.169.254/computeMetadata/v1/", "169.254.169.254 has the address"),
        ("http://inside.example/", "inside.example has the address 10.0.0.1"),
        ("//127.0.0.1/", "127.0.0.1 has the address"),
        ("https://photos.example/x.jpg?sig=1", "https://photos.example/x.jpg: https:// is not among the allowed"),
        ("file:///etc/passwd", "local paths are not among the allowed schemes (http)"),
        ("gs://bucket/x.jpg", "gs:// is not among the allowed schemes"),
    ],
)
def test_each_redirect_is_asked_for(server: FaultServer, network: Network, target: str, said: str) -> None:
    network.names |= {"photos.example": [[PUBLIC]], "inside.example": [["10.0.0.1"]]}
    server.script("x.jpg", status(302, {"Location": target}))
    web = HttpStorage(allowed=Allowed(("http",)))
    message = refused_read(web, "http://photos.example/x.jpg")
    web.close()
    assert message.startswith("http://photos.example/x.jpg: ")
    assert said in message
    assert len(server.asked) == 1


def test_a_redirect_to_what_is_no_url(server: FaultServer, network: Network, web: HttpStorage) -> None:
    network.names["photos.example"] = [[PUBLIC]]
    server.script("x.jpg", status(302, {"Location": "http://[::1/"}))
    with pytest.raises(StorageError, match="redirected to an invalid URL") as caught:
        web.read("http://photos.example/x.jpg")
    assert not caught.value.transient


def test_the_body_of_a_redirect_is_not_read(server: FaultServer, network: Network, web: HttpStorage) -> None:
    network.names["photos.example"] = [[PUBLIC]]
    endless = {"Location": "/y.jpg", "Content-Length": str(1 << 50)}
    server.script("x.jpg", status(302, endless, b"the first of many bytes"))
    server.script("y.jpg", ok(DATA))
    assert web.read("http://photos.example/x.jpg", timeout=10.0)[0] == DATA


def test_the_environments_proxy_may_be_private_and_what_is_known_to_be_private_is_not_asked_of_it(
    server: FaultServer, web: HttpStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.address)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", server.address)
    server.script("x.jpg", ok(DATA))
    assert web.read("http://known-to-the-proxy.invalid/x.jpg")[0] == DATA
    assert server.asked[0][1] == "http://known-to-the-proxy.invalid/x.jpg"
    refused_read(web, "http://169.254.169.254/x.jpg")
    assert len(server.asked) == 1


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[tuple[HTTPServer, Path]]:
    """A TLS server of this machine that calls itself photos.example, and its certificate."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "test")])
    now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("photos.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (tmp_path / "key.pem").write_bytes(key.private_bytes(pem, private, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    faults = FaultServer("")
    faults.script("x.jpg", ok(DATA))
    handler = type("TlsHandler", (Handler,), {"faults": faults})

    class Server(HTTPServer):
        def get_request(self) -> tuple:
            plain, address = super().get_request()
            return context.wrap_socket(plain, server_side=True), address

    with Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server, tmp_path / "cert.pem"
        finally:
            server.shutdown()
            thread.join()


def test_certificates_are_those_of_the_name(
    tls: tuple[HTTPServer, Path], network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, certificate = tls
    network._port = server.server_port
    network.names |= {"photos.example": [[PUBLIC]], "other.example": [[PUBLIC]]}
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    for name, good in (("photos.example", True), ("other.example", False)):
        web = HttpStorage(allowed=WEB)
        if good:
            assert web.read(f"https://{name}/x.jpg")[0] == DATA
        else:
            with pytest.raises(StorageError, match="SSLCertVerificationError"):
                web.read(f"https://{name}/x.jpg", timeout=5.0)
        web.close()
    assert set(network.connected) == {PUBLIC}
