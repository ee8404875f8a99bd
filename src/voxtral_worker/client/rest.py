"""The client's REST calls."""

import functools
import json
import ssl
import urllib.parse
from collections.abc import Mapping
from typing import Any

import httpx2

from voxtral_worker.client.errors import VoxtralError

TIMEOUT_S = 30.0
# The statuses after which trying again may help.
PASSING = {429, 502, 503, 504}
# The exceptions of a call that got no answer.
UNREACHABLE = (httpx2.RequestError, httpx2.InvalidURL)


def checked_url(url: str) -> str:
    """The address of a worker without a slash at its end. Raises VoxtralError."""
    try:
        parts = urllib.parse.urlsplit(url)
        is_good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good or any(character.isspace() for character in url):
        raise VoxtralError(f"{url!r} is not the address of a worker, such as http://localhost:8000")
    return url.rstrip("/")


def checked_token(token: str) -> str:
    """A credential that fits in a header. Raises VoxtralError, which does not quote it."""
    if not (token.isascii() and token.isprintable()):
        raise VoxtralError("the token must be printable ASCII characters")
    return token


@functools.cache
def tls() -> ssl.SSLContext:
    """The trusted certificates. Made once, because reading the system's certificates is slow."""
    return httpx2.create_ssl_context()


class Rest:
    """Calls one worker with one credential.

    Each call opens a connection of its own: calls are few, and they come from several event
    loops, which cannot share a connection.
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
        """Turn a text into a file of speech: wav, pcm, mp3, opus or flac. Raises VoxtralError."""
        body = {"input": text, "response_format": response_format, "speed": speed}
        return await self.fetch("POST", "/v1/audio/speech", {**body, "voice": voice})

    async def health(self) -> dict[str, Any]:
        """The answer to `GET /health`, also from a worker that is not healthy (status 503)."""
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
    """The error for a call or a connection that got no answer."""
    reason = str(error) or type(error).__name__
    return VoxtralError(f"the worker cannot be reached: {reason}", may_pass=True)


def refusal(status: int, headers: Mapping[str, str], body: bytes | bytearray) -> VoxtralError:
    """The error for a refusal, in the worker's own words if the body has some."""
    answer = read_object(body)
    if isinstance(answer.get("error"), dict):
        # Under /v1 an error is an object, as OpenAI has it.
        answer = {
            "error": answer["error"].get("message"),
            "code": answer["error"].get("code") or "",
        }
    seconds = headers.get("Retry-After", "")
    return VoxtralError(
        str(answer.get("error") or f"the worker refused with status {status}"),
        code=str(answer.get("code", "")),
        may_pass=status in PASSING,
        retry_after_s=float(seconds) if seconds.isdecimal() else None,
    )


def read_object(body: bytes | bytearray) -> dict[str, Any]:
    """Read a JSON object; an empty one if the body is something else."""
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
