"""The worker's REST calls, as the client makes them."""

import asyncio
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from voxtral_worker.client.errors import VoxtralError

TIMEOUT_S = 30.0
# What these say may be otherwise in a moment.
PASSING = {429, 502, 503, 504}


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


class Rest:
    """The calls of one worker, with one caller's credentials."""

    def __init__(self, url: str, token: str | None) -> None:
        self.url = checked_url(url)
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """The answer of a call. Raises VoxtralError."""
        answer = await self.fetch(method, path, body)
        return read_object(answer)

    async def fetch(self, method: str, path: str, body: object = None) -> bytes:
        """The bytes of an answer. Raises VoxtralError."""
        return await asyncio.to_thread(self._request, method, path, body)

    async def health(self) -> dict[str, Any]:
        """The worker's `GET /health`, also of one that is not healthy."""
        return await asyncio.to_thread(self._health)

    def _health(self) -> dict[str, Any]:
        status, _, body = self._exchange("GET", "/health", None)
        answer = read_object(body)
        if "status" not in answer:
            raise refusal(status, {}, body)
        return answer

    def _request(self, method: str, path: str, body: object) -> bytes:
        status, headers, answer = self._exchange(method, path, body)
        if status >= 400:
            raise refusal(status, headers, answer)
        return answer

    def _exchange(
        self, method: str, path: str, body: object
    ) -> tuple[int, Mapping[str, str], bytes]:
        request = urllib.request.Request(
            self.url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={**self.headers, "Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                return response.status, dict(response.headers), response.read()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, dict(refused.headers), refused.read()
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise unreachable(error) from error


def unreachable(error: Exception) -> VoxtralError:
    """What a call or a connection that got no answer is told."""
    reason = getattr(error, "reason", None) or error
    return VoxtralError(
        f"the worker cannot be reached: {str(reason) or type(reason).__name__}", may_pass=True
    )


def refusal(status: int, headers: Mapping[str, str], body: bytes | bytearray) -> VoxtralError:
    """A refusal in the worker's own words, where it has some."""
    told = read_object(body)
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
