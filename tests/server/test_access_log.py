"""Every call, socket and refusal has its line in the log, and no line a credential."""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.support.running_server import RunningServer
from tests.support.talker import create, talk
from voxtral_worker.errors import EngineFailure
from voxtral_worker.logs import TextFormatter, add_ids, session_mark
from voxtral_worker.server import sockets
from voxtral_worker.sessions.registry import Registry

Start = Callable[..., RunningServer]
KEY = "the-key-of-the-house"
WAIT_S = 15.0


class Lines(logging.Handler):
    """The lines of the worker as fields, and as all that a formatter could make of them."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.addFilter(add_ids)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def text(self) -> str:
        return "\n".join(self._as_text(record) for record in self.records)

    @staticmethod
    def _as_text(record: logging.LogRecord) -> str:
        # Another formatter has left its own here.
        record.exc_text = None
        fields = {name: value for name, value in vars(record).items() if name != "exc_info"}
        return f"{TextFormatter().format(record)} {fields}"

    async def first(self, message: str, **fields: Any) -> dict[str, Any]:
        """Wait for a line; a call is over for its client before it is in the log."""
        async with asyncio.timeout(WAIT_S):
            while True:
                for record in self.records:
                    is_meant = record.getMessage() == message
                    if is_meant and fields.items() <= vars(record).items():
                        return vars(record)
                await asyncio.sleep(0.01)


@pytest.fixture
def lines() -> Iterator[Lines]:
    heard = Lines()
    root = logging.getLogger()
    level = root.level
    root.addHandler(heard)
    root.setLevel(logging.DEBUG)
    yield heard
    root.setLevel(level)
    root.removeHandler(heard)


async def test_a_call_has_its_line_and_its_id(start_server: Start, lines: Lines) -> None:
    server = start_server()
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{server.url}/session/create?token=secret") as answer:
            made = answer.headers["X-Request-Id"]
        async with http.get(f"{server.url}/health", headers={"X-Request-Id": "mine-1"}) as answer:
            assert answer.headers["X-Request-Id"] == "mine-1"
    line = await lines.first("access", path="/session/create", status=200)
    assert (line["method"], line["client"], line["request_id"]) == ("POST", "127.0.0.1", made)
    assert line["bytes_sent"] > 100
    assert line["duration_ms"] >= 0
    assert (await lines.first("session created"))["request_id"] == made
    assert (await lines.first("access", path="/health"))["request_id"] == "mine-1"
    assert "secret" not in lines.text


@pytest.mark.parametrize("given", ["", "two words", "x" * 65, "a=b", "é"])
async def test_an_id_that_is_none_is_replaced(
    start_server: Start, lines: Lines, given: str
) -> None:
    server = start_server()
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{server.url}/nowhere", headers={"X-Request-Id": given}) as answer,
    ):
        made = answer.headers["X-Request-Id"]
    assert made != given
    assert (await lines.first("access", path="/nowhere", status=404))["request_id"] == made


async def test_every_refusal_has_its_line_and_none_a_credential(
    start_server: Start, lines: Lines
) -> None:
    server = start_server(api_keys=(KEY,))
    session = await create(server.url, headers={"X-API-Key": KEY})
    sent: list[dict[str, Any]] = [
        {"headers": {"X-API-Key": "wrong-key-of-somebody"}},
        {"headers": {"Authorization": "Bearer wrong-key-of-somebody"}},
        {"params": {"token": "wrong-key-of-somebody"}},
        {"headers": {"Expect": "wrong-key-of-somebody"}},
    ]
    async with aiohttp.ClientSession() as http:
        for options in sent:
            async with http.get(f"{server.url}/health", **options) as answer:
                assert "X-Request-Id" in answer.headers
                await lines.first(
                    "access", request_id=answer.headers["X-Request-Id"], status=answer.status
                )
        with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
            await http.ws_connect(f"{server.ws_url}/ws/audio/{session['session_id']}?token=wrong")
        address = f"{server.ws_url}/ws/audio/{session['session_id']}?token={session['token']}"
        async with http.ws_connect(address) as talker:
            await talker.send_str("{}")
            await talker.receive()
    mark = session_mark(session["session_id"])
    refused = await lines.first("access", path=f"/ws/audio/{mark}", status=401)
    assert refused["session"] == mark
    await lines.first("access", close_code=1000)
    for secret in (
        KEY,
        session["token"],
        session["session_id"],
        "wrong-key-of-somebody",
        "token=wrong",
    ):
        assert secret not in lines.text


async def test_a_socket_has_a_line_when_it_opens_and_one_when_it_closes(
    start_server: Start, lines: Lines
) -> None:
    server = start_server()
    async with talk(server) as talker:
        mark = session_mark((await talker.status("connected"))["session_id"])
        opened = await lines.first("socket opened", session=mark)
        await talker.send(bytes(640))
        await talker.text("hello")
        await talker.until("text_response")
    closed = await lines.first("access", session=mark, close_code=1000)
    assert closed["request_id"] == opened["request_id"]
    assert closed["bytes_received"] > 640
    assert closed["bytes_sent"] > 300
    answered = await lines.first("turn answered", session=mark)
    assert (answered["source"], answered["finish_reason"]) == ("text", "stop")
    # The turn is the session's, not that of the call that opened the socket.
    assert "request_id" not in answered
    async with talk(server, "no-such-session") as talker:
        assert await talker.closed() == 4404
    assert (await lines.first("access", close_code=4404))["session"] == session_mark(
        "no-such-session"
    )


async def test_no_line_has_the_id_of_a_session_whatever_is_done_with_it(
    start_server: Start, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_server(session_idle_timeout_seconds=1.0)
    sessions = [(await create(server.url))["session_id"] for _ in range(3)]

    def fail(_: object, session_id: str) -> None:
        raise KeyError(session_id)

    async with aiohttp.ClientSession() as http:
        async with talk(server, sessions[0]) as talker, talk(server, sessions[0], "control"):
            await talker.text("hello")
            await talker.until("text_response")
            await talker.send("no JSON")
            await talker.until("error")
            server.engine.refuses = EngineFailure("broken")
            await talker.text("hello")
            await talker.until("error")
        for path in (
            f"/session/{sessions[1]}",
            f"/session/{sessions[1]}/more",
            f"/ws/audio/{sessions[1].upper()}",
            f"/{sessions[1]}{sessions[2]}",
        ):
            await http.get(server.url + path)
        await http.delete(f"{server.url}/session/{sessions[1]}")
        with monkeypatch.context() as broken:
            broken.setattr(Registry, "get", fail)
            async with http.get(f"{server.url}/session/{sessions[2]}") as answer:
                assert answer.status == 500
    mark = session_mark(sessions[2])
    failed = await lines.first("a call failed")
    assert (failed["path"], failed["session"]) == (f"/session/{mark}", mark)
    for session_id in sessions:
        await lines.first("session ended", session=session_mark(session_id))
    # The client under test logs as well.
    lines.records = [r for r in lines.records if not r.name.startswith("websockets")]
    text = lines.text.lower()
    assert "keyerror" in text
    assert [session_id for session_id in sessions if session_id in text] == []


@pytest.mark.parametrize("path", ["/v1/realtime", "/ws/audio/some-session"])
async def test_a_client_that_leaves_during_the_handshake_has_one_line_and_no_traceback(
    start_server: Start, lines: Lines, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    async def leave(request: web.Request) -> dict[str, str]:
        asked.set()
        while request.transport is not None:
            await asyncio.sleep(0.005)
        return {}

    asked = threading.Event()
    monkeypatch.setattr(sockets, "count_call", leave)
    server = start_server()
    upgrade = (
        f"GET {path} HTTP/1.1\r\nHost: worker\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.settings.port), WAIT_S) as raw:
        raw.sendall(upgrade.encode())
        assert await asyncio.to_thread(asked.wait, WAIT_S)
    line = await lines.first("access", path=path, status=499)
    assert line["levelno"] == logging.INFO
    assert [r for r in lines.records if getattr(r, "path", None) == path] == [
        r for r in lines.records if r.getMessage() == "access"
    ]
    assert not [r for r in lines.records if r.levelno > logging.INFO or r.exc_info]


async def test_what_is_no_http_has_a_line_and_no_traceback(
    start_server: Start, lines: Lines
) -> None:
    server = start_server()
    for sent in (b"\x16\x03\x01 hello\r\n\r\n", b"GET / HTTP/9.9 what\r\nA\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.settings.port), WAIT_S) as raw:
            raw.sendall(sent)
            answer = await asyncio.to_thread(raw.recv, 4096)
        assert answer.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
    await lines.first("access", status=400)
    assert not [record for record in lines.records if record.levelno > logging.INFO]


async def test_what_people_say_is_logged_only_for_debug(start_server: Start, lines: Lines) -> None:
    server = start_server()
    async with talk(server) as talker:
        await talker.text("my-secret-question")
        await talker.until("text_response")
    await lines.first("text answered", text="You said so.")
    told = [r for r in lines.records if r.levelno > logging.DEBUG]
    assert told
    assert not [r for r in told if "my-secret" in str(vars(r)) or "You said" in str(vars(r))]
    await lines.first("text received", text="my-secret-question")
