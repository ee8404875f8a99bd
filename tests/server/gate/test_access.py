"""Who may call, by key, JWT, session token, address and origin."""

import hmac
import time
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import aiohttp
import jwt
import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import make_mocked_request
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.running_server import RunningServer
from tests.support.talker import create
from voxtral_worker.errors import WrongCredentials
from voxtral_worker.server.gate.access import Caller, ClientAddresses, Credentials
from voxtral_worker.settings import Settings

Start = Callable[..., RunningServer]
SECRET = "a secret of at least thirty-two bytes"
KEY, OTHER, GUESSED = "a-key-of-16-byte", "another-of-these", "hunter2-hunter2-"


async def health(server: RunningServer, query: str = "", **headers: str) -> int:
    async with (
        ClientSession() as http,
        http.get(f"{server.url}/health{query}", headers=headers) as response,
    ):
        return response.status


def token(key: Any = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    return jwt.encode({"exp": time.time() + 60, **claims}, key, algorithm=algorithm)


async def test_an_api_key_opens_the_api_in_each_place(start_server: Start) -> None:
    server = start_server(api_keys=("first", "second"))
    assert await health(server) == 401
    assert await health(server, **{"X-API-Key": "wrong"}) == 401
    assert await health(server, **{"X-API-Key": "second"}) == 200
    assert await health(server, Authorization="Bearer first") == 200
    assert await health(server, "?token=first") == 200


async def test_what_is_open_stays_open(start_server: Start) -> None:
    server = start_server(api_keys=("key",))
    async with ClientSession() as http:
        for path, status in {
            "/ping": 200,
            "/": 200,
            "/openapi.json": 200,
            "/asyncapi.json": 200,
            "/metrics": 401,
        }.items():
            async with http.get(server.url + path) as response:
                assert response.status == status, path
    public = start_server(api_keys=("key",), metrics_public=True)
    async with ClientSession() as http, http.get(f"{public.url}/metrics") as response:
        assert response.status == 200


async def test_a_jwt_needs_an_expiry_a_good_signature_and_its_algorithm(
    start_server: Start,
) -> None:
    server = start_server(jwt_secret=SECRET)
    good = token()
    assert await health(server, Authorization=f"Bearer {good}") == 200
    bad = [
        token(exp=time.time() - 1),
        jwt.encode({"sub": "me"}, SECRET, algorithm="HS256"),
        token("another secret of thirty-two bytes!"),
        token(algorithm="HS512", key=SECRET * 2),
        jwt.encode({"exp": time.time() + 60}, "", algorithm="none"),
        good[:-2],
        "a.b.c",
    ]
    for credential in bad:
        assert await health(server, Authorization=f"Bearer {credential}") == 401


async def test_a_jwt_of_another_audience_is_refused(start_server: Start) -> None:
    server = start_server(jwt_secret=SECRET, jwt_audience="voices")
    assert await health(server, Authorization=f"Bearer {token(aud='voices')}") == 200
    assert await health(server, Authorization=f"Bearer {token(aud='others')}") == 401
    assert await health(server, Authorization=f"Bearer {token()}") == 401


async def test_a_public_key_is_never_taken_for_a_secret(start_server: Start) -> None:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    server = start_server(jwt_public_key=public.decode())
    assert await health(server, Authorization=f"Bearer {token(private, 'RS256')}") == 200
    import base64
    import hashlib
    import hmac
    import json

    def part(value: Any) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    head = part({"alg": "HS256", "typ": "JWT"}) + b"." + part({"exp": time.time() + 60})
    signature = hmac.new(public, head, hashlib.sha256).digest()
    forged = (head + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()
    assert await health(server, Authorization=f"Bearer {forged}") == 401


async def test_a_session_token_is_good_for_its_session_alone(start_server: Start) -> None:
    server = start_server(api_keys=("key",))
    mine = await create(server.url, headers={"X-API-Key": "key"})
    other = await create(server.url, headers={"X-API-Key": "key"})
    headers = {"Authorization": f"Bearer {mine['token']}"}
    async with ClientSession() as http:
        async with http.get(f"{server.url}/session/{mine['session_id']}", headers=headers) as got:
            assert got.status == 200
        async with http.get(f"{server.url}/session/{other['session_id']}", headers=headers) as got:
            assert got.status == 403
        async with http.get(f"{server.url}/health", headers=headers) as got:
            assert got.status == 403
        address = f"{server.ws_url}/ws/audio/{mine['session_id']}"
        async with http.ws_connect(f"{address}?token={mine['token']}") as socket:
            assert (await socket.receive_json())["status"] == "connected"
        with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
            await http.ws_connect(address)
        async with http.delete(f"{server.url}/session/{mine['session_id']}", headers=headers):
            pass
        async with http.get(f"{server.url}/session/{mine['session_id']}", headers=headers) as got:
            assert got.status == 401


def of(credentials: Credentials, presented: str) -> Caller:
    headers = {"Authorization": f"Bearer {presented}"}
    return credentials.check(make_mocked_request("GET", "/session/s1", headers=headers), "s1")


def test_a_session_token_ends_after_a_day() -> None:
    credentials = Credentials(Settings(token_secret=SECRET, api_keys=(KEY,)))
    issued = credentials.issue("s1")
    assert of(credentials, issued) == Caller(token_of="s1")
    claims = jwt.decode(issued, options={"verify_signature": False})
    assert claims["exp"] == pytest.approx(time.time() + 24 * 3600, abs=60)
    for changed in ({"exp": time.time() - 1}, {"exp": None}):
        left = {name: value for name, value in {**claims, **changed}.items() if value is not None}
        with pytest.raises(WrongCredentials):
            of(credentials, jwt.encode(left, credentials._token_key, algorithm="HS256"))


def test_tokens_are_good_wherever_the_secret_is_the_same() -> None:
    def opens(one: Settings, other: Settings) -> bool:
        try:
            return of(Credentials(other), Credentials(one).issue("s1")).token_of == "s1"
        except WrongCredentials:
            return False

    keys, jwts = Settings(api_keys=(KEY, OTHER)), Settings(jwt_secret=SECRET)
    assert opens(keys, Settings(api_keys=(OTHER, KEY)))
    assert not opens(keys, Settings(api_keys=(KEY,)))
    assert opens(jwts, Settings(jwt_secret=SECRET, api_keys=(KEY,)))
    # A secret of their own goes before the others.
    own = Settings(api_keys=(KEY,), token_secret=SECRET * 2)
    assert opens(own, Settings(jwt_secret=SECRET, token_secret=SECRET * 2))
    assert not opens(own, Settings(api_keys=(KEY,), token_secret=SECRET))
    # Anyone may know a public key.
    public = Settings(jwt_public_key="PEM")
    assert opens(public, public) is False


def test_a_token_is_no_quick_check_of_a_guessed_key() -> None:
    issued = Credentials(Settings(api_keys=(GUESSED,))).issue("s1")
    quick = hmac.digest(GUESSED.encode(), b"voxtral-worker session", "sha256")
    for key in (GUESSED.encode(), quick):
        with pytest.raises(jwt.InvalidSignatureError):
            jwt.decode(
                issued,
                key.ljust(32, b"\0"),
                algorithms=["HS256"],
                audience="voxtral-worker session",
            )


async def test_only_allowed_addresses_are_let_in(start_server: Start) -> None:
    server = start_server(allowed_ips=(ip_network("10.0.0.0/8"),))
    assert await health(server) == 403
    assert await health(server, **{"X-Forwarded-For": "10.1.1.1"}) == 403


async def test_a_trusted_proxy_says_who_the_client_is(start_server: Start) -> None:
    server = start_server(
        allowed_ips=(ip_network("10.0.0.0/8"),), trusted_proxies=(ip_network("127.0.0.0/8"),)
    )
    assert await health(server, **{"X-Forwarded-For": "9.9.9.9, 10.1.1.1, 127.0.0.1"}) == 200
    assert await health(server, **{"X-Forwarded-For": "10.1.1.1, 9.9.9.9"}) == 403
    assert await health(server, **{"X-Forwarded-For": "10.1.1.1, nonsense"}) == 403
    assert await health(server, **{"CF-Connecting-IP": "10.2.2.2"}) == 200
    assert await health(server) == 403


def told(settings: Settings, peer: str, **headers: str) -> str:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = make_mocked_request("GET", "/health", headers=named).clone(remote=peer)
    return ClientAddresses(settings).of(request)


def test_on_runpod_the_platforms_proxy_says_who_the_client_is() -> None:
    pod = Settings(runpod_pod_id="pod")
    assert told(pod, "100.64.1.2", CF_Connecting_IP="9.9.9.9") == "9.9.9.9"
    assert told(pod, "100.64.1.2", X_Forwarded_For="9.9.9.9") == "100.64.1.2"
    # On the direct TCP port anybody can send a header.
    assert told(pod, "8.8.8.8", CF_Connecting_IP="9.9.9.9") == "8.8.8.8"
    assert told(pod, "10.0.0.1", CF_Connecting_IP="9.9.9.9") == "10.0.0.1"


def test_elsewhere_and_by_setting_the_platforms_proxy_is_a_stranger() -> None:
    assert told(Settings(), "100.64.1.2", CF_Connecting_IP="9.9.9.9") == "100.64.1.2"
    own = Settings(runpod_pod_id="pod", trusted_proxies=(ip_network("10.0.0.0/8"),))
    assert told(own, "100.64.1.2", CF_Connecting_IP="9.9.9.9") == "100.64.1.2"
    assert told(own, "10.0.0.1", CF_Connecting_IP="9.9.9.9") == "9.9.9.9"


def test_a_proxy_that_nobody_named_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    addresses = ClientAddresses(Settings())
    for peer in ("8.8.8.8", "10.0.0.1", "10.0.0.1"):
        headers = {"X-Forwarded-For": "9.9.9.9"}
        addresses.of(make_mocked_request("GET", "/", headers=headers).clone(remote=peer))
    (record,) = caplog.records
    assert "10.0.0.1" in record.getMessage()
    assert "TRUSTED_PROXIES" in record.getMessage()
    addresses.of(make_mocked_request("GET", "/").clone(remote="10.0.0.2"))
    assert len(caplog.records) == 1
