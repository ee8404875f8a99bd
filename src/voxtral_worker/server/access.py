"""Who may call: addresses, origins and credentials."""

import hmac
import ipaddress
import secrets
from urllib.parse import urlsplit

import jwt
from aiohttp import hdrs, web

from voxtral_worker.errors import Forbidden, Unauthorized
from voxtral_worker.settings import Network, Settings

_TOKEN_AUDIENCE = "voxtral-worker session"
KEY_PROTOCOL = "openai-insecure-api-key."


def client_address(request: web.Request, trusted: tuple[Network, ...]) -> str:
    """The client's address: the socket's, or what a trusted proxy says of it.

    One address is always written in one way, as limits are counted by it.
    """
    address = _told_address(request, trusted)
    return str(_parsed(address) or address)


def _told_address(request: web.Request, trusted: tuple[Network, ...]) -> str:
    peer = request.remote or ""
    if not _is_in(peer, trusted):
        return peer
    from_cloudflare = request.headers.get("CF-Connecting-IP", "").strip()
    if _parsed(from_cloudflare) is not None:
        return from_cloudflare
    forwarded = ",".join(request.headers.getall("X-Forwarded-For", []))
    for address in reversed([part.strip() for part in forwarded.split(",")]):
        if _parsed(address) is None:
            break
        if not _is_in(address, trusted):
            return address
    return peer


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    mapped = getattr(parsed, "ipv4_mapped", None)
    return mapped or parsed


def _is_in(address: str, networks: tuple[Network, ...]) -> bool:
    parsed = _parsed(address)
    return parsed is not None and any(parsed in network for network in networks)


def check_address(address: str, settings: Settings) -> None:
    """Raises Forbidden for an address that is not allowed."""
    if settings.allowed_ips and not _is_in(address, settings.allowed_ips):
        raise Forbidden("this address may not use the API")


def is_allowed_origin(request: web.Request, settings: Settings) -> bool:
    """Whether the page that calls may: none, the server's own, or one by setting."""
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is None or "*" in settings.allowed_origins:
        return True
    return origin in settings.allowed_origins or urlsplit(origin).netloc == request.host


class Credentials:
    """API keys and JWTs open everything; a session's token opens that session alone."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._token_key = _token_key(settings)

    @property
    def are_needed(self) -> bool:
        """Whether calls must carry credentials."""
        return self._settings.needs_credentials

    def issue(self, session_id: str) -> str:
        """A token that opens one session, for as long as that exists."""
        claims = {"sub": session_id, "aud": _TOKEN_AUDIENCE}
        return jwt.encode(claims, self._token_key, algorithm="HS256")

    def check(self, request: web.Request, session_id: str | None) -> bool:
        """Whether all is good; False: only if the session exists whose token this is.

        Raises Unauthorized without good credentials, Forbidden for another session's.
        """
        if not self.are_needed:
            return True
        _require_one_of_each(request)
        presented = _presented(request)
        if not presented:
            raise Unauthorized("credentials are needed: an API key, a JWT or a session token")
        for credential in presented:
            if self._is_api_key(credential) or self._is_jwt(credential):
                return True
            owner = self._session_of(credential)
            if owner is not None:
                if owner != session_id:
                    raise Forbidden("this token is good for another session")
                return False
        raise Unauthorized("the credentials are not good")

    def _session_of(self, token: str) -> str | None:
        try:
            claims = jwt.decode(
                token,
                self._token_key,
                algorithms=["HS256"],
                audience=_TOKEN_AUDIENCE,
                options={"require": ["sub", "aud"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError):
            return None
        return str(claims["sub"])

    def _is_api_key(self, credential: str) -> bool:
        given = credential.encode()
        # Every key is compared, so that the time says nothing about which one is close.
        matches = [hmac.compare_digest(given, key.encode()) for key in self._settings.api_keys]
        return any(matches)

    def _is_jwt(self, credential: str) -> bool:
        settings = self._settings
        # Each key goes with its own algorithms: a public key is never taken for a secret.
        keys = [(settings.jwt_secret, ["HS256"]), (settings.jwt_public_key, ["RS256", "ES256"])]
        return any(key and self._verifies(credential, key, names) for key, names in keys)

    def _verifies(self, credential: str, key: str, algorithms: list[str]) -> bool:
        audience = self._settings.jwt_audience
        required = ["exp"] if audience is None else ["exp", "aud"]
        try:
            jwt.decode(
                credential,
                key,
                algorithms=algorithms,
                audience=audience,
                options={"require": required, "verify_aud": audience is not None},
            )
        except (jwt.PyJWTError, ValueError, TypeError):
            return False
        return True


def _token_key(settings: Settings) -> bytes:
    """The same at every worker with the same secrets, and none of them."""
    shared = settings.jwt_secret or ",".join(sorted(settings.api_keys))
    # A public key makes no secret: tokens are then good at the worker that gave them.
    secret = shared.encode() if shared else secrets.token_bytes(32)
    return hmac.digest(secret, _TOKEN_AUDIENCE.encode(), "sha256")


def _require_one_of_each(request: web.Request) -> None:
    # Of two, a proxy before the worker may have read the other one.
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
        # Browsers can send no headers with a WebSocket, so OpenAI's clients name the key there.
        protocols = request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "").split(",")
        found += [
            name.strip().removeprefix(KEY_PROTOCOL)
            for name in protocols
            if name.strip().startswith(KEY_PROTOCOL)
        ]
    return [credential for credential in found if credential and credential.isascii()]
