"""What is tried on authentication and on addresses, and how it is refused."""

import time
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import jwt
import pytest
from aiohttp import ClientSession
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from yarl import URL

from tests.server.running import RunningServer

Start = Callable[..., RunningServer]
LOOPBACK = (ip_network("127.0.0.0/8"),)


async def health(server: RunningServer, headers: Any) -> int:
    async with (
        ClientSession() as http,
        http.get(f"{server.url}/health", headers=headers) as response,
    ):
        return response.status


async def creations(server: RunningServer, headers: list[dict[str, str]]) -> list[int]:
    statuses = []
    async with ClientSession() as http:
        for sent in headers:
            async with http.post(f"{server.url}/session/create", headers=sent) as response:
                statuses.append(response.status)
    return statuses


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "key"},
        {"Authorization": "Basic key"},
        {"Authorization": "Bearer"},
        {"X-API-Key": "ke"},
        {"X-API-Key": "key, wrong"},
        {"X-Api-Key-": "key"},
        {"X_API_KEY": "key"},
        {"X-Original-URL": "/ping", "X-Rewrite-URL": "/ping"},
        {"X-HTTP-Method-Override": "OPTIONS"},
    ],
)
async def test_a_header_that_is_no_credential_opens_nothing(
    start_server: Start, headers: dict[str, str]
) -> None:
    assert await health(start_server(api_keys=("key",)), headers) == 401


@pytest.mark.parametrize("path", ["/ping/../health", "//health", "/ping%2f..%2fhealth"])
async def test_a_path_that_resembles_an_open_one_opens_nothing(
    start_server: Start, path: str
) -> None:
    server = start_server(api_keys=("key",))
    async with ClientSession() as http, http.get(URL(server.url + path, encoded=True)) as answer:
        assert answer.status in (401, 404)


async def test_an_es256_token_is_good_and_its_key_is_pinned(start_server: Start) -> None:
    mine, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    public = mine.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    server = start_server(jwt_public_key=public.decode())
    claims = {"exp": time.time() + 60}
    good = jwt.encode(claims, mine, algorithm="ES256")
    forged = jwt.encode(claims, other, algorithm="ES256")
    unsigned = jwt.encode(claims, "", algorithm="none")
    assert await health(server, {"Authorization": f"Bearer {good}"}) == 200
    assert await health(server, {"Authorization": f"Bearer {forged}"}) == 401
    assert await health(server, {"Authorization": f"Bearer {unsigned}"}) == 401


@pytest.mark.parametrize("header", ["X-Forwarded-For", "CF-Connecting-IP"])
async def test_a_forged_address_does_not_escape_a_limit(start_server: Start, header: str) -> None:
    server = start_server(rate_limit_enabled=True)
    sent = [{header: f"10.0.0.{number}"} for number in range(6)]
    assert [status < 300 for status in await creations(server, sent)] == [True] * 5 + [False]


async def test_behind_a_trusted_proxy_what_a_client_prepends_is_not_believed(
    start_server: Start,
) -> None:
    server = start_server(rate_limit_enabled=True, trusted_proxies=LOOPBACK)
    sent = [{"X-Forwarded-For": f"10.0.0.{number}, 9.9.9.9"} for number in range(6)]
    assert [status < 300 for status in await creations(server, sent)] == [True] * 5 + [False]
    assert await creations(server, [{"X-Forwarded-For": "9.9.9.8"}]) != [429]
