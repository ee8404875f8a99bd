"""Measures how long the event loop stands still while it takes the largest input of each entry.

The server runs in this process and its clients in another one. A task of the loop notes how late it
runs. The result is the smaller of wall time and the processor time of this process, so that other
programs do not count; and the best of a few tries, so that other threads count as little as
possible.
"""

import asyncio
import base64
import json
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import aiohttp

from bench.load_guard import attackers
from tests.support import attack_bodies as bodies
from tests.support.ports import free_port
from tests.support.stranger import Stranger
from voxtral_worker.engine.core import EngineCore
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.model import load_model
from voxtral_worker.jobs.handler import JobHandler
from voxtral_worker.json_text import MAX_CONTAINERS
from voxtral_worker.server.lifecycle import Parts
from voxtral_worker.server.thread import ServerThread
from voxtral_worker.settings import EMBEDDED_MODEL, Settings
from voxtral_worker.turns.vad import Vad

TRIES = 5
LOOK_S = 0.001
ANSWER_S = 60.0
LIMIT_MS = 50.0
LONGEST_TEXT = "word " * 6553
TALK = 499_000

Act: TypeAlias = Callable[[Stranger], Awaitable[None]]


class Lag:
    """The longest standstill of a loop since the last `take`, in seconds."""

    def __init__(self) -> None:
        self._longest_s = 0.0

    async def watch(self) -> None:
        """Measure until cancelled."""
        while True:
            began_s, used_s = time.monotonic(), time.process_time()
            await asyncio.sleep(LOOK_S)
            late_s = time.monotonic() - began_s - LOOK_S
            self._longest_s = max(self._longest_s, min(late_s, time.process_time() - used_s))

    def take(self) -> float:
        """The longest standstill; the next measurement starts here."""
        longest_s, self._longest_s = self._longest_s, 0.0
        return longest_s


@dataclass(frozen=True)
class Entry:
    """An entry of the worker, its largest input in words, and its sender: a client or RunPod."""

    name: str
    largest: str
    act: Act | None = None
    job: Callable[[], dict[str, Any]] | None = None


def _post(path: str, make: Callable[[str], bytes], kind: str = "application/json") -> Act:
    async def act(stranger: Stranger) -> None:
        headers = {"Content-Type": kind}
        await stranger.call("POST", path, data=make(stranger.model), headers=headers)

    return act


def _send(*frames: str | bytes, **config: Any) -> Act:
    async def act(stranger: Stranger) -> None:
        async with stranger.socket(**config) as socket:
            await _say(socket, *frames, json.dumps({"type": "control", "control_type": "ping"}))
            await _until(socket, "control")

    return act


def _realtime(*events: dict[str, Any]) -> Act:
    async def act(stranger: Stranger) -> None:
        async with stranger.realtime() as socket:
            # The error for this unknown event shows that all events before it are done.
            await _say(socket, *map(json.dumps, events), json.dumps({"type": "last"}))
            await _until(socket, "error")

    return act


async def _say(socket: aiohttp.ClientWebSocketResponse, *frames: str | bytes) -> None:
    for frame in frames:
        if isinstance(frame, str):
            await socket.send_str(frame)
        else:
            await socket.send_bytes(frame)


async def _until(socket: aiohttp.ClientWebSocketResponse, kind: str) -> None:
    async with asyncio.timeout(ANSWER_S):
        while json.loads((await socket.receive()).data)["type"] != kind:
            pass


def _text(text: str) -> str:
    return json.dumps({"type": "text_input", "text": text})


def _config(**config: Any) -> str:
    return json.dumps({"type": "config_update", "config": config})


def _pcmu(size: int) -> list[dict[str, Any]]:
    audio = {"input": {"format": {"type": "audio/pcmu"}, "turn_detection": None}}
    update = {"type": "session.update", "session": {"type": "realtime", "audio": audio}}
    sound = base64.b64encode(bytes(size)).decode()
    return [update, {"type": "input_audio_buffer.append", "audio": sound}]


def _item(part: dict[str, Any]) -> dict[str, Any]:
    item = {"type": "message", "role": "user", "content": [part]}
    return {"type": "conversation.item.create", "item": item}


_CHAT, _FORM = "/v1/chat/completions", "/v1/audio/transcriptions"
_LISTS = b"[]," * (MAX_CONTAINERS - 8)
_SOUND = {"type": "input_audio", "audio": base64.b64encode(bytes(700_000)).decode()}
ENTRIES = (
    Entry(
        "POST /session/create",
        "a system prompt of 32,765 characters",
        _post("/session/create", lambda _: _json(config={"system_prompt": LONGEST_TEXT})),
    ),
    Entry(
        "POST /session/create",
        "65,528 lists",
        _post("/session/create", lambda _: b'{"config":[' + _LISTS + b"0]}"),
    ),
    Entry(
        "POST /v1/chat/completions",
        "64 KiB, parsed on the loop",
        _post(_CHAT, lambda model: bodies.dense_json((64 << 10) - 16)),
    ),
    Entry(
        "POST /v1/chat/completions",
        "255 messages, 499,000 characters",
        _post(_CHAT, lambda model: bodies.long_talk(model, 255, TALK)),
    ),
    Entry(
        "POST /v1/chat/completions",
        "65,528 lists",
        _post(_CHAT, lambda model: b'{"audio":[' + _LISTS + b"0]}"),
    ),
    Entry(
        "POST /v1/chat/completions",
        "a recording of 17 MiB, in base64",
        _post(_CHAT, lambda model: bodies.audio_chat(model, [os.urandom(17 << 20)])),
    ),
    Entry(
        "POST /v1/audio/transcriptions",
        "a file of 24 MiB",
        _post(_FORM, lambda model: bodies.form_with(model, os.urandom(24 << 20)), bodies.FORM),
    ),
    Entry(
        "POST /v1/audio/transcriptions",
        "10,000 parts",
        _post(_FORM, lambda _: bodies.form(10_000), bodies.FORM),
    ),
    Entry("text_input", "32,765 characters", _send(_text(LONGEST_TEXT), max_length=1)),
    Entry(
        "config_update",
        "a system prompt of 32,765 characters",
        _send(_config(system_prompt=LONGEST_TEXT)),
    ),  # fmt: skip
    Entry("a text frame", "65,528 lists", _send("[" + _LISTS.decode() + "0]")),
    Entry("a text frame", "3 MiB, which is refused", _send("x" * (3 << 20))),
    Entry("audio, PCM at 16 kHz", "1,000,000 bytes", _send(bytes(1_000_000))),
    Entry("audio, PCM at 48 kHz", "1,000,000 bytes", _send(bytes(1_000_000), sample_rate=48_000)),
    Entry(
        "audio, mu-law at 8 kHz",
        "1,000,000 bytes",
        _send(b"\xff" * 1_000_000, encoding="mulaw", sample_rate=8_000),
    ),
    Entry(
        "realtime: input_audio_buffer.append",
        "900,000 bytes of mu-law, 112 s",
        _realtime(*_pcmu(900_000)),
    ),
    Entry(
        "realtime: input_audio_buffer.commit",
        "112 s",
        _realtime(*_pcmu(900_000), {"type": "input_audio_buffer.commit"}),
    ),
    Entry(
        "realtime: conversation.item.create",
        "700,000 bytes of audio",
        _realtime(*_pcmu(8_000), _item(_SOUND)),
    ),
    Entry(
        "realtime: conversation.item.create",
        "a text of 32,765 characters",
        _realtime(_item({"type": "input_text", "text": LONGEST_TEXT})),
    ),
    Entry(
        "realtime: session.update",
        "instructions of 32,765 characters",
        _realtime(
            {
                "type": "session.update",
                "session": {"type": "realtime", "instructions": LONGEST_TEXT},
            }
        ),
    ),
    Entry(
        "job text",
        "500,000 characters",
        job=lambda: {"type": "text", "text": "word " * 100_000},
    ),
    Entry(
        "job text",
        "1,024 texts of 9,000 characters, the last one empty",
        job=lambda: {"type": "text", "texts": ["word " * 1800] * 1023 + [""]},
    ),
    Entry(
        "job text",
        "2,001 messages, 499,000 characters",
        job=lambda: {
            "type": "text",
            "messages": json.loads(bodies.long_talk("", 2001, TALK))["messages"],
        },
    ),
    Entry(
        "job transcribe",
        "14 MB, in base64",
        job=lambda: {
            "type": "transcribe",
            "audio_base64": base64.b64encode(os.urandom(14_000_000)).decode(),
        },  # fmt: skip
    ),
)


def _json(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def bring(index: int, url: str, key: str) -> dict[str, int]:
    """Send an entry its largest input; returns the answer. Runs in the clients' process."""

    async def brought() -> dict[str, int]:
        stranger = Stranger(url, key, ANSWER_S)
        async with stranger.http() as http, http.get("/v1/models") as response:
            stranger.model = (await response.json())["data"][0]["id"]
        act = ENTRIES[index].act
        assert act is not None
        await act(stranger)
        return dict(stranger.answers)

    return asyncio.run(brought())


class Blocking:
    """A server in this process, whose loop is watched."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        settings = Settings(
            host="127.0.0.1",
            port=free_port(),
            device="cpu",
            dtype="float32",
            model_id=str(EMBEDDED_MODEL),
            rate_limit_enabled=False,
            response_cache_size=0,
        )
        loaded = load_model(settings)
        self._pool = pool
        self._vad, self._engine = Vad(), Engine(EngineCore(loaded, settings))
        self._vad.start()
        self._engine.start()
        self._engine.warm_up()
        self._server = ServerThread(settings)
        self._server.start()
        self._server.become_ready(Parts(self._engine, self._vad, loaded))
        self._url = f"http://127.0.0.1:{settings.port}"
        self._lag = Lag()
        self._watch = self._server.begin(self._lag.watch())
        self._jobs = self._server.call(self._job_handler(settings))

    async def _job_handler(self, settings: Settings) -> JobHandler:
        return JobHandler(self._engine, dict, settings)

    def close(self) -> None:
        """Stop the server."""
        self._watch.cancel()
        self._server.stop()
        self._engine.stop()
        self._vad.stop()

    def blocked_s(self, index: int, tries: int = TRIES) -> float:
        """The longest standstill of the best of a few tries."""
        found = []
        for _ in range(tries):
            job = ENTRIES[index].job
            value = None if job is None else job()
            self._lag.take()
            if value is None:
                self._pool.submit(bring, index, self._url, "").result(2 * ANSWER_S)
            else:
                self._server.call(self._do(value), 2 * ANSWER_S)
            found.append(self._lag.take())
        return min(found)

    async def _do(self, value: dict[str, Any]) -> None:
        async for _ in self._jobs.handle({"id": "a", "input": value}):
            pass


def run(tries: int = TRIES) -> list[float]:
    """Print the table; returns the milliseconds of each entry."""
    print(f"\n| way in | largest input | loop blocked, ms |\n| {'--- | ' * 3}", flush=True)
    found_ms = []
    with attackers() as pool:
        blocking = Blocking(pool)
        try:
            for index, entry in enumerate(ENTRIES):
                found_ms.append(1000 * blocking.blocked_s(index, tries))
                mark = " (beyond the limit)" if found_ms[-1] > LIMIT_MS else ""
                print(f"| {entry.name} | {entry.largest} | {found_ms[-1]:.0f}{mark} |", flush=True)
        finally:
            blocking.close()
    return found_ms
