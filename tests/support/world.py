"""Servers that are attacked, and requests to them written by hand."""

import base64
import json
import re
import socket
import time
from collections.abc import Callable
from functools import cached_property
from ipaddress import ip_network
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support.running_server import LOOPBACK, RunningServer

KEY = "the-key-of-the-house"
# Long enough for every HMAC.
SECRET = "a secret of at least thirty-two bytes" * 2
WAIT_S = 45.0


def pem(key: Any) -> str:
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    return str(key.public_key().public_bytes(serialization.Encoding.PEM, kind).decode())


class World:
    """The servers that are attacked, by name, and what their owner knows."""

    def __init__(self, start: Callable[..., RunningServer]) -> None:
        self._start = start
        self._servers: dict[str, RunningServer] = {}

    @cached_property
    def rsa(self) -> rsa.RSAPrivateKey:
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)

    @cached_property
    def ec(self) -> ec.EllipticCurvePrivateKey:
        return ec.generate_private_key(ec.SECP256R1())

    def server(self, name: str) -> RunningServer:
        if name not in self._servers:
            self._servers[name] = self._start(**self._settings(name))
        return self._servers[name]

    def _settings(self, name: str) -> dict[str, Any]:
        tens = (ip_network("10.0.0.0/8"),)
        made: dict[str, Callable[[], dict[str, Any]]] = {
            "key": lambda: {"api_keys": ("another-key", KEY)},
            "secret": lambda: {"jwt_secret": SECRET, "jwt_audience": "voices"},
            "rsa": lambda: {"jwt_public_key": pem(self.rsa)},
            "ec": lambda: {"jwt_public_key": pem(self.ec)},
            "address": lambda: {"api_keys": (KEY,), "allowed_ips": tens},
            "proxied": lambda: {
                "api_keys": (KEY,), "allowed_ips": tens, "trusted_proxies": LOOPBACK,
            },
            "limited": lambda: {"rate_limit_enabled": True},
            "limited behind a proxy": lambda: {
                "rate_limit_enabled": True, "trusted_proxies": LOOPBACK,
            },
            "origin": lambda: {"api_keys": (KEY,), "allowed_origins": ("https://good.example",)},
        }  # fmt: skip
        return made[name]()

    def good_token(self, name: str) -> str:
        keys: dict[str, tuple[Any, str]] = {
            "secret": (SECRET, "HS256"), "rsa": (self.rsa, "RS256"), "ec": (self.ec, "ES256"),
        }  # fmt: skip
        key, algorithm = keys[name]
        return jwt.encode(claims(), key, algorithm=algorithm)

    @cached_property
    def sessions(self) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
        """Of the server "key": two that live, and one that was ended."""
        made = [self.json("POST", "/session/create", bearer(KEY)) for _ in range(3)]
        self.json("DELETE", f"/session/{made[2]['session_id']}", bearer(KEY))
        return made[0], made[1], made[2]

    def as_subject(self, subject: str) -> bytes:
        """A good JWT of the server "secret"."""
        return bearer(jwt.encode(claims(sub=subject), SECRET, algorithm="HS256"))

    @cached_property
    def owned_id(self) -> str:
        """Of the server "secret": a session that the subject alice has made."""
        mine = (self.as_subject("alice"),)
        answer = exchange(self.server("secret"), "POST", "/session/create", mine)
        return str(json.loads(answer.partition(b"\r\n\r\n")[2])["session_id"])

    def json(self, method: str, path: str, *lines: bytes) -> dict[str, str]:
        answer = exchange(self.server("key"), method, path, lines)
        found: dict[str, str] = json.loads(answer.partition(b"\r\n\r\n")[2])
        return found


def claims(**changes: Any) -> dict[str, Any]:
    return {"exp": time.time() + 60, "aud": "voices"} | changes


def bearer(credential: str) -> bytes:
    return b"Authorization: Bearer " + credential.encode()


def exchange(
    server: RunningServer, method: str, path: str, lines: tuple[bytes, ...], body: bytes = b""
) -> bytes:
    """The whole answer to a request written by hand."""
    head = [f"{method} {path} HTTP/1.1".encode(), b"Host: worker", b"Connection: close", *lines]
    if method == "WS":
        key = b"Sec-WebSocket-Key: " + base64.b64encode(bytes(16))
        upgrade = [b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", key]
        head = [f"GET {path} HTTP/1.1".encode(), b"Host: worker", b"Connection: Upgrade", *upgrade]
        head += lines
    with socket.create_connection(("127.0.0.1", server.settings.port), WAIT_S) as raw:
        raw.sendall(b"\r\n".join([*head, b"", body]))
        answer = b""
        while not (method == "WS" and _is_whole(answer)) and (chunk := raw.recv(65536)):
            answer += chunk
        return answer


def _is_whole(answer: bytes) -> bool:
    """Whether all of an answer is there; after a request for a socket the line stays open."""
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return bool(end) and len(body) >= (int(length[1]) if length else 0)
