"""A worker that sends to the page what a test wants, and notes what it gets."""

import asyncio
import json
from typing import Any

from playwright.async_api import Page, Route, WebSocketRoute

SESSION = "11111111-2222-4333-8444-555555555555"
METRICS = {
    "speech_ms": 1500,
    "endpoint_ms": 500,
    "queue_ms": 10,
    "encode_ms": 60,
    "prefill_ms": 30,
    "first_token_ms": 100,
    "total_ms": 1000,
    "tokens": 8,
    "cached_tokens": 0,
    "speculative": False,
}
WAIT_S = 30
HEALTH = {"status": "healthy", "model": {"id": "fake"}, "uptime_seconds": 12.3}


class FakeWorker:
    """Stands before one page. `refusal` (status, headers, body) answers requests for a session."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.refusal: tuple[int, dict[str, str], dict[str, Any]] | None = None
        self.health: dict[str, Any] = HEALTH
        # Options that the description of the session's config has in addition to today's.
        self.options: dict[str, Any] = {}
        self.created: list[dict[str, Any]] = []
        self.connections: list[WebSocketRoute] = []
        # Whether connections are let in.
        self.is_reachable = True
        self.heard: list[dict[str, Any]] = []
        self.audio_bytes = 0
        self._seq = 0

    async def stand_in(self, url: str) -> None:
        """Take the page's calls, and open it."""
        await self.page.route("**/session/create", self.create)
        await self.page.route("**/health", self._health)
        await self.page.route("**/openapi.json", self._describe)
        await self.page.route_web_socket("**/ws/audio/**", self._connect)
        await self.page.goto(url)

    def say(self, type_: str, **fields: Any) -> None:
        """Send one message of the conversation."""
        self._seq += 1
        self._send({"type": type_, **fields, "seq": self._seq})

    def status(self, status: str, **fields: Any) -> None:
        """Send one status of the conversation."""
        self.say("status", status=status, **fields)

    def send_sound(self, data: bytes) -> None:
        """Send one binary frame."""
        self.connections[-1].send(data)

    def answer(self, turn_id: str, text: str, source: str = "audio", **fields: Any) -> None:
        """Send the whole response of a turn."""
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "cached_tokens": 0}
        fields = {"finish_reason": "stop", "metrics": METRICS, "usage": usage, **fields}
        self.say("text_response", turn_id=turn_id, text=text, source=source, **fields)

    def spoken(self, turn_id: str) -> None:
        """Send what comes before the answer to a spoken turn."""
        for status in ("speech_started", "speech_ended", "processing"):
            self.status(status, turn_id=turn_id)

    async def cut(self) -> None:
        """Lose the connection."""
        await self.connections[-1].close(code=1012)

    async def until_heard(self, **wanted: Any) -> dict[str, Any]:
        """The first message of the page that has these fields."""
        async with asyncio.timeout(WAIT_S):
            while True:
                for message in self.heard:
                    if wanted.items() <= message.items():
                        return message
                await asyncio.sleep(0.02)

    async def connect(self) -> None:
        """Let the page open its session, as a person who types does."""
        await self.page.get_by_label("Text to send").fill("hello")
        await self.page.get_by_role("button", name="Send").click()
        await self.until_heard(type="text_input")

    def _send(self, message: dict[str, Any]) -> None:
        self.connections[-1].send(json.dumps(message))

    async def create(self, route: Route) -> None:
        """Answer a call that creates a session."""
        if self.refusal is not None:
            status, headers, body = self.refusal
            await route.fulfill(status=status, headers=headers, json=body)
            return
        body = json.loads(route.request.post_data or "{}")
        self.created.append(body)
        await route.fulfill(json={"session_id": SESSION, "expires_in": 300, "config": {}})

    async def _health(self, route: Route) -> None:
        status = 200 if self.health["status"] == "healthy" else 503
        await route.fulfill(status=status, json=self.health)

    async def _describe(self, route: Route) -> None:
        described = await (await route.fetch()).json()
        described["components"]["schemas"]["SessionConfig"]["properties"] |= self.options
        await route.fulfill(json=described)

    async def _connect(self, connection: WebSocketRoute) -> None:
        if not self.is_reachable:
            await connection.close(code=1012)
            return
        connection.on_message(self._hear)
        self.connections.append(connection)
        self._send({"type": "status", "status": "connected", "session_id": SESSION})
        if "last_seq" in connection.url:
            resumed = {"audio_bytes_received": self.audio_bytes, "missed": 0}
            self._send({"type": "status", "status": "resumed", **resumed})

    def _hear(self, frame: str | bytes) -> None:
        if isinstance(frame, bytes):
            self.audio_bytes += len(frame)
            return
        message = json.loads(frame)
        self.heard.append(message)
        if message["type"] == "config_update":
            self._send({"type": "status", "status": "config_updated", "config": message["config"]})
        if message.get("control_type") == "clear_history":
            self._send({"type": "status", "status": "history_cleared"})
