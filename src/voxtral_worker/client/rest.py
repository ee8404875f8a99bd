"""The worker's REST calls, as the client makes them."""

import functools
import json
import ssl
import urllib.parse
from collections.abc import Mapping
from typing import Any

import httpx2

from voxtral_worker.client.errors import VoxtralError

TIMEOUT_S = 30.0
# What these say may be otherwise in a moment.
PASSING = {429, 502, 503, 504}
# What a call raises that gets no answer.
UNREACHABLE = (httpx2.RequestError, httpx2.InvalidURL)


def checked_url(url: str) -> str:
    """The address of a worker without a slash at its end. Raises VoxtralError."""
    try:
        parts = urllib.parse.urlsplit(url)
        is_good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good or any(character.isspace() for character in url):
        raise VoxtralError(f"{url!r} is no address of a worker, like http://localhost:8000")
    return url.rstrip("/")


def checked_token(token: str) -> str:
    """A credential that fits in a header. Raises VoxtralError, without the credential in it."""
    if not (token.isascii() and token.isprintable()):
        raise VoxtralError("the token must be printable ASCII characters")
    return token


@functools.cache
def tls() -> ssl.SSLContext:
    """Whom a client trusts: made once, as reading the system's certificates takes long."""
    return httpx2.create_ssl_context()


class Rest:
    """The calls of one worker, with one caller's credentials.

    Each call has a connection of its own: calls are few, and come from several event loops.
    """

    def __init__(self, url: str, token: str | None) -> None:
        self.url = checked_url(url)
        self.headers = {"Authorization": f"Bearer {checked_token(token)}"} if token else {}

    async def call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """The answer of a call. Raises VoxtralError."""
        return read_object(await self.fetch(method, path, body))

    async def fetch(self, method: str, path: str, body: object = None) -> bytes:
        """The bytes of an answer. Raises VoxtralError."""
        response = await self._exchange(method, path, body)
        if not response.is_success:
            raise refusal(response.status_code, response.headers, response.content)
        return response.content

    async def speak(
        self, text: str, voice: str | None = None, response_format: str = "wav", speed: float = 1.0
    ) -> bytes:
        """A text as a file of speech: wav, pcm, mp3, opus or flac. Raises VoxtralError."""
        asked = {"input": text, "response_format": response_format, "speed": speed}
        return await self.fetch("POST", "/v1/audio/speech", {**asked, "voice": voice})

    async def health(self) -> dict[str, Any]:
        """The worker's `GET /health`, also of one that is not healthy."""
        response = await self._exchange("GET", "/health", None)
        answer = read_object(response.content)
        if "status" not in answer:
            raise refusal(response.status_code, response.headers, response.content)
        return answer

    async def _exchange(self, method: str, path: str, body: object) -> httpx2.Response:
        try:
            async with httpx2.AsyncClient(
                headers=self.headers, timeout=TIMEOUT_S, verify=tls(), follow_redirects=True
            ) as http:
                return await http.request(method, self.url + path, json=body)
        except UNREACHABLE as error:
            raise unreachable(error) from error


def unreachable(error: Exception) -> VoxtralError:
    """What a call or a connection that got no answer is told."""
    reason = str(error) or type(error).__name__
    return VoxtralError(f"the worker cannot be reached: {reason}", may_pass=True)


def refusal(status: int, headers: Mapping[str, str], body: bytes | bytearray) -> VoxtralError:
    """A refusal in the worker's own words, where it has some."""
    told = read_object(body)
    if isinstance(told.get("error"), dict):
        # Under /v1 an error is an object, as OpenAI has it.
        told = {"error": told["error"].get("message"), "code": told["error"].get("code") or ""}
    seconds = headers.get("Retry-After", "")
    return VoxtralError(
        str(told.get("error") or f"the worker refused with status {status}"),
        code=str(told.get("code", "")),
        may_pass=status in PASSING,
        retry_after_s=float(seconds) if seconds.isdecimal() else None,
    )


def read_object(body: bytes | bytearray) -> dict[str, Any]:
    """A JSON object; an empty one where there is none."""
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
