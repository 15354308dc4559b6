"""Fetching: only public addresses, the very address that was checked, text of a size and in a time."""

import asyncio
import datetime
import ipaddress
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic_ai import ModelRetry

from hetero_agents.tools import fetch as module
from hetero_agents.tools.fetch import Fetch, Page, is_public

Answer = Callable[[str], bytes]


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111"])
def test_a_public_address_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "192.168.1.1",
        ),
        *(
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "198.18.0.1",
            "168.63.129.16",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
        ),
        *("255.255.255.255", "::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::7f00:1", "64:ff9b::7f00:1"),
        *(
            "64:ff9b::808:808",
            "64:ff9b:1::a00:1",
            "2002:7f00:1::",
            "2001:0:7f00:1::",
            "2001:db8::1",
            "100::1",
            "fc00::1",
        ),
        *("fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "3fff::1", "no address", ""),
    ],
)
def test_any_other_address_is_not(address: str) -> None:
    assert not is_public(address)


# -- a server on this machine ----------------------------------------------------------------------


class Web:
    """A server, the names that lead to it, and what was looked up and asked."""

    def __init__(self) -> None:
        self.answer: Answer = lambda path: page(path.encode())
        self.names: dict[str, list[list[str]]] = {"example.test": [["127.0.0.1"]]}
        """What each look-up of a name gives; the last goes on."""
        self.looked_up: list[str] = []
        self.asked: list[str] = []
        self.port = 0
        self.tls: ssl.SSLContext | None = None

    async def look_up(self, host: str) -> list[str]:
        self.looked_up.append(host)
        try:
            return [str(ipaddress.ip_address(host))]
        except ValueError:
            answers = self.names[host]
            return answers.pop(0) if len(answers) > 1 else answers[0]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split()[1]
        host = next(line.split(": ", 1)[1] for line in head.splitlines() if line.lower().startswith("host:"))
        self.asked.append(f"{host.split(':')[0]}{path}")
        try:
            writer.write(self.answer(path))
            await writer.drain()
            if path == "/silent":
                await reader.read()
        except ConnectionError:
            pass  # the client had enough
        finally:
            writer.close()

    def get(self, url: str, fetch: Fetch | None = None) -> Page:
        async def get() -> Page:
            server = await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=self.tls)
            self.port = server.sockets[0].getsockname()[1]
            try:
                return await (fetch or Fetch(seconds=5)).fetch(url.replace("PORT", str(self.port)))
            finally:
                server.close()

        return asyncio.run(get())


def page(body: bytes, *, kind: str = "text/plain", status: str = "200 OK", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Web:
    """127.0.0.1 counts as public here, and nothing else of this machine does."""
    web, really = Web(), is_public

    async def getaddrinfo(self: object, host: str, port: object, **_: object) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in await web.look_up(host)]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(module, "is_public", lambda address: address == "127.0.0.1" or really(address))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    return web


def test_text_comes_back_with_its_type_and_its_address(web: Web) -> None:
    web.answer = lambda _: page("grüße".encode("latin-1"), kind="text/html; charset=iso-8859-1")
    got = web.get("http://example.test:PORT/x?y=1#z")
    assert (got.content_type, got.text) == ("text/html", "grüße")
    assert got.url.startswith(f"http://example.test:{web.port}/x?y=1")
    assert web.asked == ["example.test/x?y=1"]


@pytest.mark.parametrize("charset", ["utf8mb4", "hex", "utf-16-x\\0"])
def test_a_charset_that_is_none_is_read_as_utf8(web: Web, charset: str) -> None:
    web.answer = lambda _: page("grüße".encode(), kind=f"text/html; charset={charset}")
    assert web.get("http://example.test:PORT/").text == "grüße"


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "169.254.169.254", "[::1]", "[::ffff:10.0.0.1]", "localhost", "mixed.test"]
)
def test_what_is_not_public_is_not_asked(web: Web, host: str) -> None:
    web.names |= {"localhost": [["127.0.0.2"]], "mixed.test": [["127.0.0.1", "10.0.0.1"]]}
    with pytest.raises(ModelRetry, match="is not a public address"):
        web.get(f"http://{host}:PORT/")
    assert web.asked == []


def test_numbers_that_mean_an_address_are_resolved_before_they_are_checked(web: Web) -> None:
    web.names |= {"2130706433": [["10.0.0.1"]], "0x7f.1": [["10.0.0.1"]]}
    for host in ("2130706433", "0x7f.1"):
        with pytest.raises(ModelRetry, match="is not a public address"):
            web.get(f"http://{host}:PORT/")
    assert web.asked == []


def test_each_redirect_is_checked(web: Web) -> None:
    web.names["inside.test"] = [["10.0.0.1"]]
    web.answer = lambda path: page(b"", status="302 Found", more="Location: http://inside.test/secret\r\n")
    with pytest.raises(ModelRetry, match=r"'inside\.test' is at 10\.0\.0\.1"):
        web.get("http://example.test:PORT/")
    assert web.asked == ["example.test/"]


def test_a_redirect_to_a_public_address_is_followed_and_told(web: Web) -> None:
    moved = "Location: /new\r\n"
    web.answer = lambda path: page(b"here") if path == "/new" else page(b"", status="301 Moved", more=moved)
    assert web.get("http://example.test:PORT/old").url.endswith("/new")


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://example.test/x"])
def test_a_redirect_to_another_protocol_is_refused(web: Web, location: str) -> None:
    web.answer = lambda path: page(b"", status="302 Found", more=f"Location: {location}\r\n")
    with pytest.raises(ModelRetry):
        web.get("http://example.test:PORT/")


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://example.test/", "no address", "http://", "data:text/plain,x"]
)
def test_an_address_of_another_kind_is_refused(web: Web, url: str) -> None:
    with pytest.raises(ModelRetry):
        web.get(url)


def test_a_name_that_changes_its_address_is_asked_where_it_was_checked(web: Web) -> None:
    web.names["rebind.test"] = [["127.0.0.1"], ["10.0.0.1"]]
    assert web.get("http://rebind.test:PORT/x").text == "/x"
    assert web.looked_up.count("rebind.test") == 1


def test_the_next_address_is_taken_where_one_does_not_answer(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    web.names["two.test"] = [["127.0.0.3", "127.0.0.1"]]
    monkeypatch.setattr(module, "is_public", lambda address: address.startswith("127."))  # pyright: ignore[reportUnknownLambdaType, reportUnknownMemberType, reportUnknownArgumentType]
    assert web.get("http://two.test:PORT/x").text == "/x"


def test_proxies_of_the_environment_are_not_used(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert web.get("http://example.test:PORT/x").text == "/x"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (page(b"x", kind="image/png"), "not text but image/png"),
        (page(b"x", status="404 Not Found"), "answered 404 Not Found"),
        (page(b"x" * 2000), "larger than 1,000 bytes"),
        (page(b"x", more="Content-Encoding: gzip\r\n"), "compressed"),
        (b"nonsense\r\n\r\n", "cannot be fetched"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n" + b"x" * 200_000, "larger than 1,000 bytes"),
    ],
    ids=["another type", "an error", "too large", "compressed", "no HTTP", "too large without saying"],
)
def test_what_cannot_be_read_is_told(web: Web, answer: bytes, said: str) -> None:
    web.answer = lambda _: answer
    with pytest.raises(ModelRetry, match=said):
        web.get("http://example.test:PORT/", Fetch(max_bytes=1000, seconds=5))


def test_an_answer_that_does_not_end_takes_no_longer_than_allowed(web: Web) -> None:
    web.answer = lambda _: b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\nx"
    with pytest.raises(ModelRetry, match=r"did not answer within 0\.2 seconds"):
        web.get("http://example.test:PORT/silent", Fetch(seconds=0.2))


# -- TLS -------------------------------------------------------------------------------------------


def certificate(folder: Path, name: str) -> Path:
    """Write a key and a certificate of its own for a name."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / f"{name}.pem"
    path.write_bytes(secret + made.public_bytes(pem))
    return path


@pytest.fixture
def trusting(web: Web, tmp_path: Path) -> Fetch:
    path = certificate(tmp_path, "example.test")
    web.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    web.tls.load_cert_chain(path)
    return Fetch(seconds=5, tls=ssl.create_default_context(cafile=path))


def test_tls_is_checked_for_the_name_though_the_address_is_asked(web: Web, trusting: Fetch) -> None:
    assert web.get("https://example.test:PORT/x", trusting).text == "/x"


def test_a_certificate_of_another_name_is_refused(web: Web, trusting: Fetch) -> None:
    web.names["other.test"] = [["127.0.0.1"]]
    with pytest.raises(ModelRetry, match=r"(?i)hostname|certificate"):
        web.get("https://other.test:PORT/x", trusting)
    assert web.asked == []


def test_a_certificate_that_nobody_trusts_is_refused(web: Web, trusting: Fetch) -> None:
    with pytest.raises(ModelRetry, match=r"(?i)certificate"):
        web.get("https://example.test:PORT/x")
    assert web.asked == []
