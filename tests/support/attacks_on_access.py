"""What is tried on authentication, each as the bytes on the wire, with the answer it gets.

`docs/security.md` shows this list; a test compares them row by row.
"""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support.world import KEY, SECRET, World, bearer, claims, exchange, pem


@dataclass(frozen=True)
class Attack:
    """`lines` are header lines; `path` and `lines` may be made from the world."""

    name: str
    lines: Callable[[World], list[bytes]] | list[bytes] = field(default_factory=list)
    server: str = "key"
    method: str = "GET"
    path: Callable[[World], str] | str = "/health"
    body: bytes = b""
    answer: int = 401
    repeated: int = 1

    def carry_out(self, world: World) -> bytes:
        """The last answer; what is repeated differs in each `%d` of its lines."""
        server = world.server(self.server)
        path = self.path if isinstance(self.path, str) else self.path(world)
        answer = b""
        for number in range(self.repeated):
            lines = self.lines if isinstance(self.lines, list) else self.lines(world)
            numbered = tuple(line.replace(b"%d", str(number).encode()) for line in lines)
            answer = exchange(server, self.method, path, numbered, self.body)
        return answer


def _part(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _hs256(payload: object, key: bytes) -> bytes:
    """A token signed by hand, as a library would refuse to."""
    head = f"{_part({'alg': 'HS256'})}.{_part(payload)}"
    return bearer(f"{head}.{_part(hmac.new(key, head.encode(), hashlib.sha256).digest())}")


def _jwt(
    name: str, *, key: Any = SECRET, algorithm: str = "HS256", **changes: float | str | None
) -> Attack:
    """A token made by a library; times are from now on, and None leaves a claim out."""

    def lines(_: World) -> list[bytes]:
        # By now, a while after this list was made, its times would be over.
        later = {n: time.time() + v if isinstance(v, float) else v for n, v in changes.items()}
        made = {name: value for name, value in claims(**later).items() if value is not None}
        return [bearer(jwt.encode(made, key, algorithm=algorithm))]

    return Attack(name, lines, "secret")


def _from(name: str, server: str, *lines: bytes) -> Attack:
    return Attack(name, [_RIGHT, *lines], server, answer=403)


def _page(name: str, origin: bytes) -> Attack:
    return Attack(name, [_RIGHT, origin], "origin", "WS", "/ws/audio/any", answer=403)


def _endless(_: World) -> list[bytes]:
    return [_hs256(b'{"exp": 1e999, "aud": "voices"}', SECRET.encode())]


def _other_ec(_: World) -> list[bytes]:
    mine = ec.generate_private_key(ec.SECP256R1())
    return [bearer(jwt.encode(claims(), mine, algorithm="ES256"))]


def _pem(key: Any) -> bytes:
    return pem(key).encode()


def _unsigned(algorithm: str, signature: str = "") -> Callable[[World], list[bytes]]:
    head = _part({"alg": algorithm, "typ": "JWT"})
    return lambda _: [bearer(f"{head}.{_part(claims())}.{signature}")]


def _own_key(world: World) -> list[bytes]:
    mine = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(mine.public_key()))
    headers = {"jwk": public, "jku": "http://127.0.0.1/keys", "kid": "../../../dev/null"}
    return [bearer(jwt.encode(claims(), mine, algorithm="RS256", headers=headers))]


def _changed(world: World) -> list[bytes]:
    head, _, signature = world.good_token("secret").split(".")
    return [bearer(f"{head}.{_part(claims(exp=time.time() + 10**6))}.{signature}")]


def _without(count: int) -> Callable[[World], list[bytes]]:
    return lambda world: [bearer(world.good_token("secret")[:-count])]


def _session(index: int, place: str = "") -> Callable[[World], str]:
    return lambda world: place + world.sessions[index]["session_id"]


def _token(index: int) -> Callable[[World], list[bytes]]:
    return lambda world: [bearer(world.sessions[index]["token"])]


_KEY = KEY.encode()
_WRONG, _RIGHT = bearer("wrong"), bearer(KEY)
_SIZED = b"Content-Length: "
_CHUNKED = b"Transfer-Encoding: chunked"
_CREATE = "/session/create"
_CONFUSED = "key confusion: HS256 whose secret is the"
_ANOTHER = b"GET /health HTTP/1.1\r\nHost: worker\r\n\r\n"

ATTACKS = [
    # Keys.
    Attack("no credential"),
    Attack("no credential on the audio socket", method="WS", path=_session(0, "/ws/audio/")),
    Attack("no credential on the control socket", method="WS", path=_session(0, "/ws/control/")),
    Attack("no credential on a socket that would open a session", method="WS", path="/ws/audio"),
    Attack("a wrong key", [b"X-API-Key: wrong"]),
    Attack("a wrong key in the address", path="/health?token=wrong"),
    Attack("a key without its last character", [b"X-API-Key: " + KEY[:-1].encode()]),
    Attack("a key with one character more", [b"X-API-Key: " + _KEY + b"x"]),
    Attack("a key in capitals", [b"X-API-Key: " + KEY.upper().encode()]),
    Attack(
        "an empty key in each place",
        [b"X-API-Key:", b"Authorization: Bearer "],
        path="/health?token=",
    ),
    Attack("two keys in one header", [b"X-API-Key: wrong, " + _KEY]),
    Attack("a wildcard for a key", [b"X-API-Key: *"]),
    Attack("a key in look-alike Unicode", ["X-API-Key: ｔｈｅ-key-of-the-house".encode()]),
    Attack("a key with bytes that are not UTF-8", [b"X-API-Key: " + _KEY + b"\xff\xfe"]),
    Attack("a key in Unicode in the address", path="/health?token=%EF%BD%94he-key-of-the-house"),
    Attack("the scheme Basic", [b"Authorization: Basic " + base64.b64encode(_KEY)]),
    Attack("a key without a scheme", [b"Authorization: " + _KEY]),
    Attack("Bearer without a credential", [b"Authorization: Bearer"]),
    Attack("Bearer twice", [b"Authorization: Bearer Bearer " + _KEY]),
    Attack("a key in a cookie", [b"Cookie: X-API-Key=" + _KEY]),
    Attack("a key under a name alike", [b"X_API_Key: " + _KEY, b"X-API-Key-: " + _KEY]),
    # JWTs.
    _jwt("a JWT that has expired", exp=-1.0),
    _jwt("a JWT without exp", exp=None),
    _jwt("a JWT whose exp is not a number", exp="never"),
    Attack("a JWT that never expires", _endless, "secret"),
    _jwt("a JWT from the future (nbf)", nbf=600.0),
    _jwt("a JWT from the future (iat)", iat=600.0),
    _jwt("a JWT for another audience", aud="others"),
    _jwt("a JWT without an audience", aud=None),
    _jwt("a JWT signed with another secret", key=SECRET[::-1]),
    Attack("a JWT signed with an empty secret", lambda _: [_hs256(claims(), b"")], "secret"),
    Attack("alg none", _unsigned("none"), "secret"),
    Attack("alg none, spelled nOnE", _unsigned("nOnE"), "secret"),
    Attack("alg none to a server with a public key", _unsigned("none"), "rsa"),
    _jwt("another algorithm with the right secret", algorithm="HS512"),
    Attack(f"{_CONFUSED} RSA public key", lambda world: [_hs256(claims(), _pem(world.rsa))], "rsa"),
    Attack(f"{_CONFUSED} EC public key", lambda world: [_hs256(claims(), _pem(world.ec))], "ec"),
    Attack("RS256 by another key, brought along as jwk, jku and kid", _own_key, "rsa"),
    Attack("ES256 by another key", _other_ec, "ec"),
    Attack("ES256 with a signature of zeros", _unsigned("ES256", _part(bytes(64))), "ec"),
    Attack("a signature cut short", _without(2), "secret"),
    Attack("a signature cut off", _without(43), "secret"),
    Attack("claims changed after signing", _changed, "secret"),
    Attack("a text that is not a JWT", [bearer("a.b.c")], "secret"),
    Attack(
        "a JWT whose header is nested 4,000 deep",
        [bearer(_part(b"[" * 4000) + ".e30.e30")],
        "secret",
    ),
    *(
        Attack(
            f"a JWT of another subject to {verb} a session",
            lambda world: [world.as_subject("mallory")],
            "secret",
            method,
            lambda world: f"/session/{world.owned_id}",
            answer=404,
        )
        for verb, method in (("see", "GET"), ("delete", "DELETE"))
    ),
    Attack(
        "a JWT without a subject to see a session",
        lambda world: [bearer(world.good_token("secret"))],
        "secret",
        path=lambda world: f"/session/{world.owned_id}",
        answer=404,
    ),
    # Session tokens.
    Attack("the token of another session", _token(0), path=_session(1, "/session/"), answer=403),
    Attack(
        "the token of another session on a socket",
        _token(0),
        method="WS",
        path=_session(1, "/ws/audio/"),
        answer=403,
    ),
    Attack(
        "the token of another session to delete one",
        _token(0),
        method="DELETE",
        path=_session(1, "/session/"),
        answer=403,
    ),
    Attack(
        "a session's token to make more sessions",
        _token(0),
        method="POST",
        path=_CREATE,
        answer=403,
    ),
    Attack("the token of a session that has ended", _token(2), path=_session(2, "/session/")),
    # Headers and requests that two readers understand differently.
    Attack("two Authorization headers, the second one good", [_WRONG, _RIGHT]),
    Attack("two Authorization headers, the first one good", [_RIGHT, _WRONG]),
    Attack(
        "two X-API-Key headers, the first one good", [b"X-API-Key: " + _KEY, b"X-API-Key: wrong"]
    ),
    Attack("a null byte behind the key", [b"X-API-Key: " + _KEY + b"\0"], answer=400),
    Attack("a bare CR within a header", [b"X-Other: a\rX-API-Key: " + _KEY], answer=400),
    Attack(
        "a header folded over two lines",
        [b"Authorization: Bearer", b" " + _KEY],
        answer=400,
    ),
    Attack("a space before the colon", [b"Authorization : Bearer " + _KEY], answer=400),
    Attack("CR and LF, escaped, in the address", path=f"/health?a=%0d%0aX-API-Key:%20{KEY}"),
    Attack(
        "Content-Length together with Transfer-Encoding",
        [_SIZED + b"4", _CHUNKED],
        method="POST",
        path=_CREATE,
        body=b"0\r\n\r\n" + _ANOTHER,
        answer=400,
    ),
    Attack(
        "two Content-Lengths",
        [_SIZED + b"0", _SIZED + str(len(_ANOTHER)).encode()],
        method="POST",
        path=_CREATE,
        body=_ANOTHER,
        answer=400,
    ),
    Attack("headers that override the path", [b"X-Original-URL: /ping", b"X-Rewrite-URL: /ping"]),
    Attack("a header that overrides the method", [b"X-HTTP-Method-Override: OPTIONS"]),
    Attack("an open path with .. behind it", path="/ping/../health"),
    Attack("an open path with .. behind it, escaped", path="/ping%2f..%2fhealth"),
    Attack("an open folder with .. behind it", path="/console/../health", answer=404),
    Attack("a file outside the open folder", path="/console/..%2f..%2fsettings.py", answer=404),
    Attack("two slashes", path="//health"),
    Attack("an open path in capitals", path="/PING"),
    Attack("a whole address for a path", path="http://worker/health"),
    # Addresses and origins.
    _from("a forged X-Forwarded-For", "address", b"X-Forwarded-For: 10.1.1.1"),
    _from("a forged CF-Connecting-IP", "address", b"CF-Connecting-IP: 10.1.1.1"),
    _from(
        "a forged Forwarded and X-Real-IP",
        "address",
        b"Forwarded: for=10.1.1.1",
        b"X-Real-IP: 10.1.1.1",
    ),
    _from(
        "an address put before what a trusted proxy forwards",
        "proxied",
        b"X-Forwarded-For: 10.1.1.1, 9.9.9.9",
    ),
    _from(
        "a forged address and the real one in two headers",
        "proxied",
        b"X-Forwarded-For: 10.1.1.1",
        b"X-Forwarded-For: 9.9.9.9",
    ),
    _from("a proxy's address alone", "proxied", b"X-Forwarded-For: 127.0.0.1"),
    _from(
        "a forwarded value that is not an address",
        "proxied",
        b"X-Forwarded-For: 10.1.1.1, nonsense",
    ),
    Attack(
        "a forged address for each call over a limit",
        [b"X-Forwarded-For: 10.0.0.%d", b"CF-Connecting-IP: not an address"],
        "limited",
        "POST",
        _CREATE,
        answer=429,
        repeated=6,
    ),
    Attack(
        "a forged address before the real one for each call over a limit",
        [b"X-Forwarded-For: 10.0.0.%d, 9.9.9.9"],
        "limited behind a proxy",
        "POST",
        _CREATE,
        answer=429,
        repeated=6,
    ),
    _page("a page of another origin opens a socket", b"Origin: https://evil.example"),
    _page(
        "an origin that begins like an allowed one", b"Origin: https://good.example.evil.example"
    ),
    _page("the origin null", b"Origin: null"),
]
