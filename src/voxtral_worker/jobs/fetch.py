"""Fetches the audio at the address in a job.

The address is untrusted: it must not reach the worker's own network. Its name is resolved once,
addresses that are not public are refused, and the connection goes to exactly the addresses that
were checked. The same is done again for each redirect.
"""

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.cookiejar import DummyCookieJar
from yarl import URL

from voxtral_worker.errors import BadInput, TooLarge

if TYPE_CHECKING:
    from voxtral_worker.settings import Network

MAX_BYTES = 50 * 1024 * 1024
MAX_SECONDS = 60.0
# A server that sends nothing for so long is given up.
SILENCE_S = 10
MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
# `MAX_BYTES` is compared with the bytes that arrive, so they must not be compressed.
_HEADERS = {"Accept-Encoding": "identity"}
# Python counts these as public, but they may lead into a private network: 6to4 addresses contain
# any IPv4 address, and go through relays (RFC 7526); site-local addresses stay near (RFC 3879).
_DISGUISES: "tuple[Network, ...]" = tuple(
    ipaddress.ip_network(text) for text in ("2002::/16", "192.88.99.0/24", "fec0::/10")
)


class _NotPublic(BadInput):
    """The address is in a private network, or cannot be resolved.

    One sentence for both: the caller must not learn which names exist in the worker's network.
    """

    def __init__(self) -> None:
        super().__init__("the address is not a public one, or cannot be resolved")


def fetch(url: str, is_over: threading.Event) -> bytes:
    """The bytes at an address. Blocks for up to a minute, or until `is_over` is set.

    Raises BadInput or TooLarge, with a reason that shows nothing of the worker's network.
    """
    # A loop of its own, so that one deadline ends everything, headers included.
    return asyncio.run(_in_time(url, is_over))


async def _in_time(url: str, is_over: threading.Event) -> bytes:
    deadline = asyncio.timeout(MAX_SECONDS)
    try:
        async with deadline:
            return await _follow(url, is_over)
    except (OSError, ValueError, ClientError) as error:
        # A malformed name is a ValueError. A silent server is a TimeoutError, which is an OSError.
        if deadline.expired():
            raise _late() from error
        raise BadInput("the address cannot be fetched") from None


async def _follow(url: str, is_over: threading.Event) -> bytes:
    at = URL(url)
    for _ in range(MOST_REDIRECTS + 1):
        async with _asked(at) as response:
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                return await _body(response, is_over)
            at = at.join(URL(location))
    raise BadInput(f"the address leads on more than {MOST_REDIRECTS} times")


@contextlib.asynccontextmanager
async def _asked(at: URL) -> AsyncIterator[ClientResponse]:
    """The response of one address, before its body is read."""
    if at.scheme not in ("http", "https") or at.host is None or at.port is None:
        raise _NotPublic
    connector = TCPConnector(resolver=_Checked(_addresses(at.host, at.port)), force_close=True)
    async with (
        ClientSession(
            connector=connector,
            timeout=ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S),
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
        ) as http,
        http.get(at, headers=_HEADERS, allow_redirects=False) as response,
    ):
        yield response


async def _body(response: ClientResponse, is_over: threading.Event) -> bytes:
    if response.status != 200:
        raise BadInput(f"the address answered with status {response.status}")
    data = bytearray()
    while chunk := await response.content.readany():
        data += chunk
        if len(data) > MAX_BYTES:
            raise TooLarge(f"the file is larger than {MAX_BYTES >> 20} MiB")
        if is_over.is_set():
            raise _late()
    return bytes(data)


def _late() -> BadInput:
    return BadInput(f"the file did not come within {MAX_SECONDS:g} s")


def _addresses(host: str, port: int) -> list[str]:
    """All addresses of a host. Raises _NotPublic if one of them is not public."""
    # Imported here: the SDK takes 1.4 s, and most processes never fetch anything.
    from runpod.serverless.utils.rp_ssrf import SSRFError, resolve_and_validate

    try:
        found: list[str] = resolve_and_validate(host, port)
    except SSRFError:
        raise _NotPublic from None
    for address in found:
        parsed = ipaddress.ip_address(address)
        if any(parsed in network for network in _DISGUISES):
            raise _NotPublic
    return found


class _Checked(AbstractResolver):
    """Returns the addresses that were checked. It makes no DNS query of its own.

    With a second query, an attacker's DNS server could answer with a private address.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses that were checked."""
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        """Do nothing: it holds nothing open."""
