"""Scripted conversations in both dialects, and every text that the server sent in them.

The ears are deaf to all but loudness and the engine says what a test wants, so the same script
gives the same bytes. Ids and times are replaced by names that say which of them are equal.
`python -m tests.support.wire_talks` writes the corpus again: do that only for a change of the
wire that is meant.
"""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import numpy as np
import websockets
from numpy.typing import NDArray

from tests.support.holding import holding
from tests.support.ports import free_port
from tests.support.running_server import RunningServer
from tests.support.settings import changed
from voxtral_worker import metrics
from voxtral_worker.engine.conversation import audio_in
from voxtral_worker.engine.request import Delta, Failed, Finished, HistoryTrimmed, Timings, Usage
from voxtral_worker.errors import EngineFailure, NotReady
from voxtral_worker.settings import REPOSITORY, Settings

CORPUS = REPOSITORY / "tests/server/same_wire.txt"
WAIT_S = 45.0
FRAME_BYTES = 1024
COUNTED = r"\w*(turns|errors|refusals|without)\w*_total\b"
TIMES = (
    "timestamp|server_time|connection_duration|endpoint_ms|queue_ms|encode_ms|prefill_ms"
    "|first_token_ms|total_ms"
)


class Loudness:
    """Ears for which loud is speech."""

    is_alive = True

    async def listen(self, key: str, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.where(np.abs(frames).max(axis=1) > 0.1, 0.9, 0.0).astype(np.float32)

    def forget(self, key: str) -> None: ...


class Wire:
    """One open socket, and what came over it, word for word."""

    def __init__(self, name: str, socket: Any) -> None:
        self.name = name
        self.socket = socket
        self.texts: list[str] = []

    async def send(self, message: dict[str, Any] | str | bytes) -> None:
        await self.socket.send(json.dumps(message) if isinstance(message, dict) else message)

    async def say(self, kind: str, **fields: Any) -> None:
        await self.send({"type": kind, **fields})

    async def control(self, control_type: str, **fields: Any) -> None:
        await self.say("control", control_type=control_type, **fields)

    async def until(self, kind: str, status: str | None = None) -> dict[str, Any]:
        async with asyncio.timeout(WAIT_S):
            while True:
                self.texts.append(await self.socket.recv())
                message: dict[str, Any] = json.loads(self.texts[-1])
                if message["type"] == kind and status in (None, message.get("status")):
                    return message

    async def status(self, status: str) -> None:
        await self.until("status", status)

    async def closed(self) -> None:
        """Read to the end, which is written down too."""
        try:
            async with asyncio.timeout(WAIT_S):
                while True:
                    self.texts.append(await self.socket.recv())
        except websockets.ConnectionClosed:
            self.texts.append(f"closed {self.socket.close_code} {self.socket.close_reason}")


class Stage:
    """A server and those who talk to it."""

    def __init__(self, server: RunningServer, stack: AsyncExitStack) -> None:
        self.server = server
        self.engine = server.engine
        self.wires: list[Wire] = []
        self._stack = stack

    async def create(self) -> str:
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{self.server.url}/session/create") as answer,
        ):
            return str((await answer.json())["session_id"])

    async def delete(self, session_id: str) -> None:
        async with (
            aiohttp.ClientSession() as http,
            http.delete(f"{self.server.url}/session/{session_id}") as answer,
        ):
            assert answer.status == 200

    async def open(self, path: str, name: str) -> Wire:
        socket = await self._stack.enter_async_context(
            websockets.connect(f"{self.server.ws_url}{path}", max_size=None)
        )
        self.wires.append(Wire(name, socket))
        return self.wires[-1]

    async def audio(self, query: str = "") -> Wire:
        return await self.open(f"/ws/audio{query}", "audio")

    async def realtime(self, query: str = "") -> Wire:
        wire = await self.open(f"/v1/realtime{query}", "realtime")
        await wire.until("session.created")
        return wire

    async def held(self, count: int) -> Any:
        """The generation that the engine holds as its `count`th."""
        async with asyncio.timeout(WAIT_S):
            while len(self.engine.held) < count:
                await asyncio.sleep(0.005)
        return self.engine.held[count - 1]


def sound(*stretches: tuple[bool, int], rate: int = 16_000) -> bytes:
    """Frames of 32 ms, loud or silent, as 16-bit samples."""
    samples = 512 * rate // 16_000
    return b"".join(
        (np.full(frames * samples, 8000 if loud else 0, "<i2")).tobytes()
        for loud, frames in stretches
    )


TURN = ((True, 20), (False, 16))


def finish(generation: Any, *words: str, reason: Any = "stop") -> None:
    for number, word in enumerate(words):
        generation.report(Delta(word, (200 + number,)))
    audio = 10 if any(True for _ in audio_in(generation.request.conversation)) else 0
    generation.report(Finished(reason, Usage(10, len(words), 4, audio), Timings()))


# The documented sockets.


async def native_texts(stage: Stage) -> None:
    audio = await stage.audio()
    session_id = (await audio.until("status", "connected"))["session_id"]
    control = await stage.open(f"/ws/control/{session_id}", "control")
    await control.status("connected")
    await audio.say("text_input", text="Hi")
    await audio.until("text_response")
    await control.say("text_input", text="Grüße \U0001f600", request_id="mine")
    await control.until("text_response")
    await control.say("text_input", text="Hi", request_id=7)
    await control.until("text_response")
    await audio.control("ping")
    await audio.control("get_stats")
    await audio.until("status", None)
    await audio.control("cancel")
    await audio.status("cancelled")
    await audio.control("end_turn")
    await audio.status("no_speech")
    await control.control("clear_history")
    await control.status("history_cleared")
    await control.say("config_update", config={"stream": False, "stop": ["x"]})
    await control.status("config_updated")
    await audio.say("text_input", text="Whole")
    await audio.until("text_response")
    await stage.delete(session_id)
    await audio.closed()
    await control.closed()


async def native_refusals(stage: Stage) -> None:
    audio = await stage.audio()
    session_id = (await audio.until("status", "connected"))["session_id"]
    control = await stage.open(f"/ws/control/{session_id}", "control")
    await control.status("connected")
    for bad in (
        "{",
        "[]",
        '{"type": "x"}',
        '{"type": "text_input", "text": " ", "request_id": "mine"}',
        '{"type": "control", "control_type": "reboot"}',
        '{"type": "config_update", "config": {"top_p": 2}}',
        '{"type": "text_input", "text": "' + "x" * 40_000 + '", "request_id": 9}',
        "x" * ((1 << 20) + 1),
    ):
        await audio.send(bad)
        await audio.until("error")
    await control.send(bytes(100))
    await control.until("error")
    # As a file with a header looks.
    await audio.send(b"RIFF" + bytes(4) + b"WAVEfmt " + bytes(2000))
    await audio.until("error")
    stage.engine.refuses = NotReady("the engine is busy", retry_after_s=1.25)
    await audio.say("text_input", text="Hi", request_id="mine")
    await audio.until("error")
    stage.engine.refuses = None
    stage.engine.holds = True
    await control.say("text_input", text="first", request_id="first")
    await control.until("text_delta")
    for number in range(65):
        await control.say("text_input", text=str(number), request_id=f"r{number}")
    await control.until("error")
    gone = await stage.open("/ws/audio/00000000-0000-4000-8000-000000000000", "gone")
    await gone.closed()
    bad_config = await stage.audio("?config=%7B%22x%22%3A1%7D")
    await bad_config.closed()


async def native_speech(stage: Stage) -> None:
    audio = await stage.audio("?config=%7B%22silence_ms%22%3A500,%22reopen_ms%22%3A0%7D")
    await audio.status("connected")
    await audio.send(sound((False, 20), *TURN))
    await audio.until("text_response")
    # Too short to be a turn, then ended by the client.
    await audio.send(sound((True, 2)))
    await audio.control("end_turn")
    await audio.status("no_speech")
    stage.engine.holds = True
    await audio.send(sound(*TURN))
    await audio.until("text_delta")
    await audio.send(sound((True, 20)))
    await audio.status("speech_started")
    await audio.control("end_turn")
    await audio.until("text_delta")
    await audio.control("cancel")
    await audio.until("text_response")
    await audio.say("text_input", text="one", request_id="r")
    generation = await stage.held(3)
    await audio.until("text_delta")
    generation.report(HistoryTrimmed(1))
    generation.report(Failed(EngineFailure("it broke")))
    await audio.until("error")
    await audio.say("text_input", text="two")
    finish(await stage.held(4), " more", reason="length")
    await audio.until("text_response")


async def native_reopened(stage: Stage) -> None:
    audio = await stage.audio("?config=%7B%22transcript%22%3Atrue%7D")
    await audio.status("connected")
    await audio.send(sound((False, 20), *TURN))
    await audio.until("transcript")
    # The whole answer was said, then a part of one.
    await audio.send(sound((True, 10)))
    await audio.status("turn_reopened")
    with holding(stage.engine):
        await audio.send(sound((False, 16)))
        await audio.until("text_delta")
        await audio.send(sound((True, 10)))
        await audio.status("turn_reopened")
    await audio.send(sound((False, 16)))
    await audio.until("transcript")
    await audio.control("end_turn")
    await audio.status("no_speech")
    await audio.send(sound(*TURN))
    await audio.until("transcript")


async def native_long_speech(stage: Stage) -> None:
    audio = await stage.audio("?config=%7B%22interim%22%3Atrue,%22mode%22%3A%22transcribe%22%7D")
    await audio.status("connected")
    await audio.send(sound((True, 100), (False, 20)))
    for _ in range(2):
        await audio.until("text_response")


async def native_interim(stage: Stage) -> None:
    audio = await stage.audio("?config=%7B%22interim%22%3Atrue%7D")
    await audio.status("connected")
    for _ in range(2):
        await audio.send(sound((True, 40)))
        await audio.until("transcript_partial")
    await audio.send(sound((False, 16)))
    await audio.until("text_response")


async def native_resume(stage: Stage) -> None:
    first = await stage.audio()
    session_id = (await first.until("status", "connected"))["session_id"]
    await first.say("text_input", text="Hi")
    await first.until("text_response")
    second = await stage.open(f"/ws/audio/{session_id}?last_seq=2", "second")
    await second.status("resumed")
    await first.closed()
    await second.control("resume", last_seq=4)
    await second.status("resumed")
    await second.say("text_input", text="Again")
    await second.until("text_response")


async def native_expiry(stage: Stage) -> None:
    audio = await stage.audio()
    await audio.closed()


async def native_drain(stage: Stage) -> None:
    audio = await stage.audio()
    await audio.status("connected")
    stage.server.thread.begin_drain(0.0)
    await audio.closed()


async def native_heartbeat(stage: Stage) -> None:
    audio = await stage.audio()
    await audio.say("text_input", text="Hi")
    await audio.until("text_response")
    await audio.until("heartbeat")


# OpenAI's events.


async def append(wire: Wire, audio: bytes, **fields: Any) -> None:
    text = base64.b64encode(audio).decode()
    await wire.say("input_audio_buffer.append", audio=text, **fields)


async def speak(wire: Wire, *stretches: tuple[bool, int]) -> None:
    await append(wire, sound(*stretches, rate=24_000))


def message(text: str, role: str = "user", **fields: Any) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return {
        "type": "message",
        "role": role,
        "content": [{"type": kind, "text": text}],
        **fields,
    }


async def realtime_speech(stage: Stage) -> None:
    wire = await stage.realtime()
    await speak(wire, (False, 20), *TURN)
    await wire.until("response.done")
    stage.engine.holds = True
    await speak(wire, *TURN)
    await wire.until("response.output_text.delta")
    await speak(wire, (True, 20))
    await wire.until("response.done")
    await wire.say("input_audio_buffer.commit", event_id="e1")
    await wire.until("response.output_text.delta")
    await wire.say("response.cancel", response_id="resp_x", event_id="e2")
    await wire.until("error")
    await wire.say("response.cancel")
    await wire.until("response.done")
    await wire.say("input_audio_buffer.commit")
    await wire.until("error")
    await speak(wire, *TURN)
    generation = await stage.held(3)
    await wire.until("response.output_text.delta")
    generation.report(HistoryTrimmed(1))
    generation.report(Failed(EngineFailure("it broke")))
    await wire.until("response.done")
    await speak(wire, (True, 10))
    await wire.until("input_audio_buffer.speech_started")
    await wire.say("input_audio_buffer.clear")
    await wire.until("input_audio_buffer.cleared")


async def realtime_reopened(stage: Stage) -> None:
    wire = await stage.realtime()
    heard = {"transcription": {"language": "en"}}
    session = {"type": "realtime", "audio": {"input": heard}}
    await wire.say("session.update", session=session)
    await wire.until("session.updated")
    still = (False, 20)
    await speak(wire, still, (True, 20), still)
    await wire.until("conversation.item.input_audio_transcription.completed")
    # The whole answer was said, then a part of one.
    await speak(wire, (True, 10))
    await wire.until("input_audio_buffer.speech_started")
    with holding(stage.engine):
        await speak(wire, still)
        await wire.until("response.output_text.delta")
        await speak(wire, (True, 10))
        await wire.until("input_audio_buffer.speech_started")
    await speak(wire, still)
    await wire.until("conversation.item.input_audio_transcription.completed")


async def realtime_by_hand(stage: Stage) -> None:
    wire = await stage.realtime()
    heard = {"turn_detection": None, "transcription": {"language": "en"}}
    session = {"type": "realtime", "audio": {"input": heard}, "max_output_tokens": 50}
    await wire.say("session.update", session=session)
    await wire.until("session.updated")
    await speak(wire, *TURN)
    await wire.say("input_audio_buffer.commit")
    await wire.until("conversation.item.input_audio_transcription.completed")
    await wire.say("response.create", response={"metadata": {"a": "b"}, "max_output_tokens": 7})
    await wire.until("response.done")
    await wire.say("input_audio_buffer.commit", event_id="e1")
    await wire.until("error")
    await wire.say("session.update", session={"type": "realtime", "audio": {"input": {}}, "x": 1})
    await wire.until("error")
    await wire.say("session.update", session={"type": "transcription"})
    await wire.until("session.updated")
    await wire.say("response.create", event_id="e2")
    await wire.until("error")


async def realtime_items(stage: Stage) -> None:
    wire = await stage.realtime("?model=fake")
    await wire.say("conversation.item.create", item=message("Be kind.", "system", id="item_a"))
    await wire.until("conversation.item.done")
    await wire.say("conversation.item.create", item=message("Hi", id="item_a"), event_id="e1")
    await wire.until("error")
    await wire.say("conversation.item.create", item=message("Hi"))
    item = (await wire.until("conversation.item.done"))["item"]
    await wire.say("conversation.item.retrieve", item_id=item["id"])
    await wire.until("conversation.item.retrieved")
    await wire.say("conversation.item.delete", item_id=item["id"])
    await wire.until("conversation.item.deleted")
    await wire.say("conversation.item.delete", item_id="item_x")
    await wire.until("error")
    await wire.say("conversation.item.create", item=message("Hello.", "assistant"))
    await wire.until("conversation.item.done")
    await wire.say("response.create", response={"instructions": "Greet."})
    await wire.until("response.done")
    context = {"input": [message("Who?")], "conversation": "none", "metadata": {"k": "v"}}
    await wire.say("response.create", response=context)
    await wire.until("response.done")
    stage.engine.holds = True
    await wire.say("conversation.item.create", item=message("Hold"))
    await wire.until("conversation.item.done")
    await wire.say("response.create")
    await wire.until("response.output_text.delta")
    await wire.say("response.create", event_id="e3")
    await wire.until("error")
    await wire.say("response.create", response=context)
    await wire.say("conversation.item.create", item=message("x", "assistant"), event_id="e4")
    await wire.until("error")
    finish(await stage.held(1), " on", reason="length")
    await wire.until("response.done")
    finish(await stage.held(2))
    await wire.until("response.done")


async def realtime_unanswered(stage: Stage) -> None:
    wire = await stage.realtime()
    turns = {"type": "server_vad", "create_response": False}
    session = {"type": "realtime", "audio": {"input": {"turn_detection": turns}}}
    await wire.say("session.update", session=session)
    await wire.until("session.updated")
    await speak(wire, *TURN)
    await wire.until("conversation.item.done")
    await wire.say("response.create")
    await wire.until("response.done")


async def realtime_refusals(stage: Stage) -> None:
    wire = await stage.realtime("?intent=transcription")
    for bad in (
        "{",
        "[]",
        b"sound",
        '{"type": "x", "event_id": "e1"}',
        '{"type": "response.cancel", "event_id": "e2", "x": 1}',
        '{"type": "input_audio_buffer.append", "event_id": "e3", "audio": "?"}',
        '{"type": "conversation.item.truncate", "event_id": "e4"}',
        '{"type": "response.create", "event_id": 5}',
        "x" * ((2 << 20) + 1),
    ):
        await wire.send(bad)
        await wire.until("error")
    await append(wire, b"RIFF" + bytes(4) + b"WAVEfmt " + bytes(2000), event_id="e6")
    await wire.until("error")
    other = await stage.open("/v1/realtime?model=other", "other")
    await other.closed()
    session_id = json.loads(wire.texts[0])["session"]["id"].removeprefix("sess_")
    native = await stage.open(f"/ws/audio/{session_id}", "native")
    await native.closed()
    await stage.delete(session_id)
    await wire.closed()


async def realtime_expiry(stage: Stage) -> None:
    wire = await stage.open("/v1/realtime", "realtime")
    await wire.closed()


async def realtime_drain(stage: Stage) -> None:
    wire = await stage.realtime()
    stage.server.thread.begin_drain(0.0)
    await wire.closed()


Script = Callable[[Stage], Awaitable[None]]
SCRIPTS: dict[str, tuple[Script, dict[str, Any]]] = {
    script.__name__: (script, settings)
    for script, settings in (
        (native_texts, {}),
        (native_refusals, {}),
        (native_speech, {}),
        (native_reopened, {}),
        (native_long_speech, {"max_turn_seconds": 2.0}),
        (native_interim, {}),
        (native_resume, {}),
        (native_expiry, {"session_idle_timeout_seconds": 1}),
        (native_drain, {}),
        (native_heartbeat, {"heartbeat_interval_seconds": 1}),
        (realtime_speech, {}),
        (realtime_reopened, {}),
        (realtime_by_hand, {}),
        (realtime_items, {}),
        (realtime_unanswered, {}),
        (realtime_refusals, {}),
        (realtime_expiry, {"session_idle_timeout_seconds": 1}),
        (realtime_drain, {}),
    )
}


@asynccontextmanager
async def staged(**settings: Any) -> AsyncIterator[Stage]:
    all_settings: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": free_port(),
        "rate_limit_enabled": False,
        "speculation": False,
        "heartbeat_interval_seconds": 600,
        **settings,
    }
    server = RunningServer(changed(Settings(), **all_settings), Loudness())  # type: ignore[arg-type]
    server.become_ready()
    try:
        async with AsyncExitStack() as stack:
            yield Stage(server, stack)
    finally:
        await asyncio.to_thread(server.stop)


async def play(name: str) -> str:
    """Everything that was sent in a conversation, one line a text, and what was counted."""
    script, settings = SCRIPTS[name]
    before = counts()
    async with staged(**settings) as stage:
        await script(stage)
    lines = [f"{wire.name}: {text}" for wire in stage.wires for text in wire.texts]
    counted = [f"{name} {count - before.get(name, 0):g}" for name, count in counts().items()]
    lines += sorted(f"counted: {line}" for line in counted if not line.endswith(" 0"))
    return normal("\n".join(lines))


def counts() -> dict[str, float]:
    """Counters of turns and errors by their names and labels."""
    lines = metrics.exposition().decode().splitlines()
    found = [line.rpartition(" ") for line in lines if re.match(COUNTED, line)]
    return {name: float(count) for name, _, count in found}


def normal(text: str) -> str:
    """A text without what differs from run to run: each id has the number of its kind."""
    text = re.sub(rf'"({TIMES})": [0-9.e+-]+', r'"\1": 0', text)
    found: dict[str, str] = {}

    def name(match: re.Match[str]) -> str:
        kind = match[1] or "session_"
        number = sum(other.startswith(kind) for other in found.values()) + 1
        return found.setdefault(match[0], f"{kind}{number}")

    ids = r"(item_|resp_|event_|conv_)[0-9a-f]{24}"
    text = re.sub(ids + r"|[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", name, text)
    return re.sub(r"(client_)[0-9]+", name, text)


def read_corpus() -> dict[str, str]:
    parts = re.split(r"^== (\w+)\n", CORPUS.read_text("utf-8"), flags=re.MULTILINE)
    return {name: text.rstrip("\n") for name, text in zip(parts[1::2], parts[2::2], strict=True)}


if __name__ == "__main__":
    recorded = {name: asyncio.run(play(name)) for name in SCRIPTS}
    CORPUS.write_text("".join(f"== {name}\n{text}\n" for name, text in recorded.items()), "utf-8")
