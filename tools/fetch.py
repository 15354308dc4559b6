"""Text from the web, for a model that chose the address: nothing in this machine's own networks is reached.

A name is resolved here, all its addresses have to be public, and the connection goes to the address that was looked at, so that
a name cannot mean something else a moment later (DNS rebinding). TLS is still checked for the name. Each redirect takes the
same way. Proxies of the environment are not used: they would resolve the name anew.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from dataclasses import dataclass

import httpx2
from pydantic_ai import ModelRetry

_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            "192.0.0.0/24",  # IETF protocols; one cloud keeps credentials there
            "192.88.99.0/24",  # 6to4 relays, RFC 7526
            "168.63.129.16/32",  # Azure's own services
            "2001::/23",  # Teredo among them, which carries an IPv4 address
            "2002::/16",  # 6to4, likewise
            "3fff::/20",  # documentation, RFC 9637
        ),
    )
)
"""What `ipaddress` calls global and what is not for a model all the same, RFC 6890 and its registries."""
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
"""The IPv6 addresses that are given out; NAT64, IPv4-mapped and other forms that carry an IPv4 address lie outside."""
_TEXT = ("json", "xml", "javascript", "ecmascript", "yaml", "toml", "x-sh", "x-www-form-urlencoded", "sql", "graphql")
_MAX_REDIRECTS = 5


@dataclass(frozen=True)
class Page:
    """What was found at an address."""

    url: str
    """Where it was, after redirects."""
    content_type: str
    text: str


@dataclass(frozen=True)
class Fetch:
    """Gets text by HTTP: `Agent(tools=[Fetch().fetch])`."""

    max_bytes: int = 1_000_000
    """Size of an answer; a larger one is refused before it is read to its end."""
    seconds: float = 20
    """Time for all of it: names, redirects, the answer."""
    tls: ssl.SSLContext | None = None
    """Whom to trust; the system's certificates where nothing is given."""

    async def fetch(self, url: str) -> Page:
        """Get the text at a public web address: HTML, JSON and other text, as it is.

        Args:
            url: beginning with http:// or https://.

        Raises:
            ModelRetry: the address is not public, does not answer in time, or has no text of a size that can be read.
        """
        try:
            async with asyncio.timeout(self.seconds), self._client() as client, client.stream("GET", url) as answer:
                return await self._page(answer)
        except TimeoutError as error:
            raise ModelRetry(f"{url} did not answer within {self.seconds:g} seconds.") from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise ModelRetry(f"{url} cannot be fetched: {str(error) or type(error).__name__}.") from error

    def _client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            transport=_Public(httpx2.AsyncHTTPTransport(verify=self.tls or True, trust_env=False)),
            headers={"Accept": "text/*, application/json, */*;q=0.1", "Accept-Encoding": "identity"},
            timeout=self.seconds,
            follow_redirects=True,
            max_redirects=_MAX_REDIRECTS,
            trust_env=False,
        )

    async def _page(self, answer: httpx2.Response) -> Page:
        url, kind = str(answer.url), answer.headers.get("content-type", "").split(";")[0].strip().lower()
        if not answer.is_success:
            raise ModelRetry(f"{url} answered {answer.status_code} {answer.reason_phrase}.")
        if not (kind.startswith("text/") or any(word in kind for word in _TEXT)):
            raise ModelRetry(f"{url} is not text but {kind or 'of no known type'}.")
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise ModelRetry(f"{url} is compressed, though that was not asked for; what it grows to cannot be known.")
        content = bytearray()
        async for block in answer.aiter_raw():
            content += block
            if len(content) > self.max_bytes:
                raise ModelRetry(f"{url} is larger than {self.max_bytes:,} bytes.")
        try:
            text = content.decode(answer.charset_encoding or "utf-8", "replace")
        except (LookupError, ValueError):  # the server names a charset that is none, or none of texts
            text = content.decode("utf-8", "replace")
        return Page(url, kind, text)


def is_public(address: str) -> bool:
    """Whether an address belongs to nobody's own network.

    Args:
        address: IPv4 or IPv6, as text; one with a scope (`%eth0`) is not public.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if not ip.is_global or ip.is_multicast or ip.is_reserved or any(ip in network for network in _NOT_PUBLIC):
        return False
    return ip.version == 4 or ip in _GLOBAL_UNICAST


class _Public(httpx2.AsyncBaseTransport):
    """Connects to public addresses alone, by the address and not by the name."""

    def __init__(self, wrapped: httpx2.AsyncBaseTransport) -> None:
        self._wrapped = wrapped

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.scheme not in ("http", "https") or not request.url.host:
            raise ModelRetry(f"{str(request.url)!r} is no web address; give one that begins with http:// or https://.")
        *others, last = await _addresses(request.url.host)
        for address in others:
            try:
                return await self._wrapped.handle_async_request(_to(address, request))
            except httpx2.ConnectError:
                continue
        return await self._wrapped.handle_async_request(_to(last, request))

    async def aclose(self) -> None:
        await self._wrapped.aclose()


async def _addresses(host: str) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ModelRetry(f"There is no address for the name {host!r}.") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if private := [address for address in addresses if not is_public(address)]:
        raise ModelRetry(f"{host!r} is at {private[0]}, which is not a public address; only those may be fetched.")
    return addresses


def _to(address: str, request: httpx2.Request) -> httpx2.Request:
    # The headers name the host already; TLS takes the name from the extension.
    extensions = {**request.extensions, "sni_hostname": request.url.host}
    return httpx2.Request(
        request.method, request.url.copy_with(host=address), headers=request.headers, extensions=extensions
    )
