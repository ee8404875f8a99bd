"""Decides who may call, by address, origin and credentials."""

import hashlib
import hmac
import ipaddress
import logging
import secrets
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import jwt
from aiohttp import hdrs, web

from voxtral_worker.errors import Forbidden, Unauthorized, WrongCredentials
from voxtral_worker.settings import RUNPOD_PROXIES, Network, Settings

log = logging.getLogger(__name__)

_TOKEN_AUDIENCE = "voxtral-worker session"
TOKEN_LIFE_S = 24 * 3600
# Parameters of scrypt (RFC 7914). Anyone who has a token could try keys against it offline, a
# thousand million a second with a plain hash. With these, each try takes 16 MiB and about 50 ms.
_STRETCHING = {"n": 1 << 14, "r": 8, "p": 1}
KEY_PROTOCOL = "openai-insecure-api-key."
# Each credential costs a check of its signature.
MOST_CREDENTIALS = 4
# A call with one of these headers came through a proxy, trusted or not.
_FORWARDING = ("CF-Connecting-IP", "X-Forwarded-For", "Forwarded", "X-Real-IP")


@dataclass(frozen=True)
class Caller:
    """The caller of a request, by its credentials.

    `subject`: of its JWT. `token_of`: the session whose token it has. `holder`: the name under
    which its sessions are counted; None: they are not counted.
    """

    is_by_jwt: bool = False
    subject: str | None = None
    token_of: str | None = None
    holder: str | None = None

    def may_open(self, owner: str | None) -> bool:
        """Whether the caller may open a session of this owner. Without an owner, all may."""
        return owner is None or not self.is_by_jwt or owner == self.subject


class ClientAddresses:
    """Finds the address of a client: the socket's peer, or what a trusted proxy reports.

    The same address is always written in the same way, because limits are counted by it. On
    RunPod every call comes from the platform's proxy, so its header is trusted by default:
    otherwise all users together would have the limits of one address.
    """

    def __init__(self, settings: Settings) -> None:
        self._trusted = settings.trusted_proxies
        by_default = settings.runs_on_runpod and not settings.trusted_proxies
        self._trusted_for_cloudflare = RUNPOD_PROXIES if by_default else settings.trusted_proxies
        self._has_warned = False

    def of(self, request: web.Request) -> str:
        """The address of the client that sent a request."""
        address = self._told(request)
        return str(_parsed(address) or address)

    def is_proxy(self, peer: str) -> bool:
        """Whether a peer is a trusted proxy."""
        return _is_in(peer, self._trusted) or _is_in(peer, self._trusted_for_cloudflare)

    def is_local(self, request: web.Request) -> bool:
        """Whether a call comes from this machine itself and not through a proxy on it."""
        peer = request.remote or ""
        is_forwarded = any(name in request.headers for name in _FORWARDING)
        return is_loopback(peer) and not is_forwarded and not self.is_proxy(peer)

    def _told(self, request: web.Request) -> str:
        peer = request.remote or ""
        from_cloudflare = request.headers.get("CF-Connecting-IP", "").strip()
        if _is_in(peer, self._trusted_for_cloudflare) and _parsed(from_cloudflare) is not None:
            return from_cloudflare
        if not _is_in(peer, self._trusted):
            self._warn_of_unknown_proxy(request, peer)
            return peer
        # Each proxy appends the address that it got the call from. Read from the end, the first
        # one that is not a trusted proxy is the client. Entries before it may be forged.
        forwarded = ",".join(request.headers.getall("X-Forwarded-For", []))
        for address in reversed([part.strip() for part in forwarded.split(",")]):
            if _parsed(address) is None:
                break
            if not _is_in(address, self._trusted):
                return address
        return peer

    def _warn_of_unknown_proxy(self, request: web.Request, peer: str) -> None:
        """Warn once: behind a proxy that is not trusted, all users count as one address."""
        is_forwarded = {"CF-Connecting-IP", "X-Forwarded-For"} & set(request.headers)
        parsed = _parsed(peer)
        if self._has_warned or not is_forwarded or parsed is None or parsed.is_global:
            return
        self._has_warned = True
        log.warning(
            "a proxy at %s forwards calls, but TRUSTED_PROXIES does not name it: limits count "
            "all its clients as one address",
            peer,
        )


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    mapped = getattr(parsed, "ipv4_mapped", None)
    return mapped or parsed


def counted_as(address: str) -> str:
    """The key under which limits count an address: itself, or the /64 network of an IPv6 one.

    The holder of one IPv6 address usually has all 2**64 addresses of its network.
    """
    parsed = _parsed(address)
    if not isinstance(parsed, ipaddress.IPv6Address):
        return str(parsed or address)
    return str(ipaddress.ip_network((int(parsed), 64), strict=False))


def is_loopback(address: str) -> bool:
    """Whether an address is this machine's own."""
    parsed = _parsed(address)
    return parsed is not None and parsed.is_loopback


def _is_in(address: str, networks: tuple[Network, ...]) -> bool:
    parsed = _parsed(address)
    return parsed is not None and any(parsed in network for network in networks)


def check_address(address: str, allowed: tuple[Network, ...]) -> None:
    """Raises Forbidden for an address that is not allowed. Without any network, all are."""
    if allowed and not _is_in(address, allowed):
        raise Forbidden("this address may not use the API")


def is_allowed_origin(request: web.Request, allowed: tuple[str, ...]) -> bool:
    """Whether no page makes the call, or a page of this server or of an allowed origin."""
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is None or "*" in allowed:
        return True
    return origin in allowed or urlsplit(origin).netloc == request.host


class Credentials:
    """Checks credentials.

    An API key opens everything, a JWT opens all but the sessions of other subjects, and a session
    token opens its own session.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._token_key = _token_key(settings)

    @property
    def are_needed(self) -> bool:
        """Whether calls must carry credentials."""
        return self._settings.needs_credentials

    def issue(self, session_id: str) -> str:
        """A token that opens one session, for as long as that exists but at most a day."""
        ends_s = int(time.time()) + TOKEN_LIFE_S
        claims = {"sub": session_id, "aud": _TOKEN_AUDIENCE, "exp": ends_s}
        return jwt.encode(claims, self._token_key, algorithm="HS256")

    def check(self, request: web.Request, session_id: str | None) -> Caller:
        """The caller of a request.

        For a session token the caller of this function must still check that the session exists.
        Raises Unauthorized without credentials, WrongCredentials if none is valid, and Forbidden
        for the token of another session.
        """
        if not self.are_needed:
            return Caller()
        _require_one_of_each(request)
        presented = _presented(request)
        if not presented:
            raise Unauthorized("credentials are needed: an API key, a JWT or a session token")
        if len(presented) > MOST_CREDENTIALS:
            raise WrongCredentials(f"a call may carry at most {MOST_CREDENTIALS} credentials")
        # The first valid credential decides. A call may carry several, such as a header set by a
        # proxy and a token in the address.
        for credential in presented:
            if self._is_api_key(credential):
                return Caller()
            claims = self._claims_of_jwt(credential)
            if claims is not None:
                return Caller(is_by_jwt=True, subject=claims.get("sub") or None)
            token_of = self._session_of(credential)
            if token_of is not None:
                if token_of != session_id:
                    raise Forbidden("this token is for another session")
                return Caller(token_of=token_of)
        raise WrongCredentials("the credentials are not good")

    def _session_of(self, token: str) -> str | None:
        required = ["sub", "aud", "exp"]
        claims = _verified(token, self._token_key, ["HS256"], _TOKEN_AUDIENCE, required)
        return None if claims is None else str(claims["sub"])

    def _is_api_key(self, credential: str) -> bool:
        given = credential.encode()
        # Compare all keys, in constant time each: the time must not show which key nearly matched.
        matches = [hmac.compare_digest(given, key.encode()) for key in self._settings.api_keys]
        return any(matches)

    def _claims_of_jwt(self, credential: str) -> dict[str, Any] | None:
        settings = self._settings
        audience = settings.jwt_audience
        required = ["exp"] if audience is None else ["exp", "aud"]
        # Each key has its own algorithms. Otherwise an attacker could sign with the public key as
        # if it were an HS256 secret.
        keys = [(settings.jwt_secret, ["HS256"]), (settings.jwt_public_key, ["RS256", "ES256"])]
        for key, names in keys:
            if key and (claims := _verified(credential, key, names, audience, required)):
                return claims
        return None


def _verified(
    token: str, key: str | bytes, algorithms: list[str], audience: str | None, required: list[str]
) -> dict[str, Any] | None:
    """The claims of a JWT; None if it is not valid for any reason."""
    try:
        return jwt.decode(
            token,
            key,
            algorithms=algorithms,
            audience=audience,
            options={"require": required, "verify_aud": audience is not None},
        )
    except (jwt.PyJWTError, ValueError, TypeError):
        return None


def _token_key(settings: Settings) -> bytes:
    """The key that signs session tokens: the same on all workers with the same secrets.

    It is derived from the secrets, so that a token does not reveal them.
    """
    shared = settings.token_secret or settings.jwt_secret or ",".join(sorted(settings.api_keys))
    # Workers share no secret (a JWT's public key is not secret): a token is then valid only on the
    # worker that issued it.
    if not shared or not settings.needs_credentials:
        return secrets.token_bytes(32)
    salt = _TOKEN_AUDIENCE.encode()
    return hashlib.scrypt(shared.encode(), salt=salt, dklen=32, **_STRETCHING)


def _require_one_of_each(request: web.Request) -> None:
    # With two such headers, a proxy before the worker may have checked the other one.
    for header in (hdrs.AUTHORIZATION, "X-API-Key"):
        if len(request.headers.getall(header, [])) > 1:
            raise Unauthorized(f"more than one {header} header")


def _presented(request: web.Request) -> list[str]:
    found = []
    scheme, _, bearer = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme.lower() == "bearer":
        found.append(bearer.strip())
    found.append(request.headers.get("X-API-Key", "").strip())
    found.append(request.query.get("token", "").strip())
    if request.path == "/v1/realtime":
        # Browsers cannot send headers with a WebSocket. OpenAI's clients put the key into the name
        # of a subprotocol.
        protocols = request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "").split(",")
        found += [
            name.strip().removeprefix(KEY_PROTOCOL)
            for name in protocols
            if name.strip().startswith(KEY_PROTOCOL)
        ]
    return [credential for credential in found if credential and credential.isascii()]
