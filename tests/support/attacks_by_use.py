"""Attacks by valid use: what one caller does to take the worker from the others.

Each runs in a process of its own for a number of seconds, and counts what it was answered: a
status, the code of an error, a type of message, or how it was closed.
"""

import asyncio
import itertools
import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import aiohttp
import websockets

from tests.support import attack_bodies as bodies
from tests.support.stranger import LAST_ANSWERS_S, Stranger

IDLE_CONNECTIONS = 1000
SLOW_CONNECTIONS = 200
LONG_PROMPT = "You are a helper. " * 1820

Carry: TypeAlias = Callable[[Stranger], Awaitable[None]]


def _controls(kind: str, **more: Any) -> Iterator[str]:
    return itertools.repeat(json.dumps({"type": "control", "control_type": kind, **more}))


async def _big_talks(stranger: Stranger) -> None:
    body = bodies.long_talk(stranger.model, 255, 499_000)
    await stranger.post_json("/v1/chat/completions", body)


async def _many_messages(stranger: Stranger) -> None:
    body = bodies.long_talk(stranger.model, 2047, 499_000)
    await stranger.post_json("/v1/chat/completions", body)


async def _long_prompts(stranger: Stranger) -> None:
    # As much as the context holds, and room for the longest answer.
    body = bodies.chat(
        stranger.model, [{"role": "user", "content": "hello there " * 3000}], max_tokens=4096
    )
    await stranger.post_json("/v1/chat/completions", body, at_once=4)


async def _gzip(stranger: Stranger) -> None:
    body = bodies.zipped(bodies.many_parts(stranger.model, 300_000))
    for path in ("/v1/chat/completions", "/session/create"):
        await stranger.call("POST", path, data=body, headers=bodies.COMPRESSED)
    await stranger.post_json("/v1/chat/completions", body, headers=bodies.COMPRESSED)


async def _many_parts(stranger: Stranger) -> None:
    await stranger.post_json("/v1/chat/completions", bodies.many_parts(stranger.model, 300_000))


async def _dense(stranger: Stranger) -> None:
    await stranger.post_json("/v1/chat/completions", bodies.dense_json(24 << 20))


async def _deep(stranger: Stranger) -> None:
    await stranger.post_json("/v1/chat/completions", bodies.deep_json(100_000))


async def _dense_config(stranger: Stranger) -> None:
    await stranger.post_json("/session/create", bodies.dense_json((1 << 20) - 64))


async def _forms(stranger: Stranger) -> None:
    headers = {"Content-Type": bodies.FORM}
    await stranger.repeat(
        "POST", "/v1/audio/transcriptions", data=bodies.form(10_000), headers=headers
    )


async def _large_base64(stranger: Stranger) -> None:
    body = bodies.audio_chat(stranger.model, [os.urandom(17 << 20)])
    await stranger.post_json("/v1/chat/completions", body)


async def _claimed_size(stranger: Stranger) -> None:
    await stranger.transcribe(bodies.wav(bytes(3200), 16_000, claimed=2**32 - 1))


async def _rare_rates(stranger: Stranger) -> None:
    for rate in (1_009, 4_001, 20_011, 192_007):
        body = bodies.form_with(stranger.model, bodies.wav(bytes(800), rate))
        await stranger.call(
            "POST", "/v1/audio/transcriptions", data=body, headers={"Content-Type": bodies.FORM}
        )
    await stranger.transcribe(bodies.wav(bytes(800), 191_999))


async def _wide_files(stranger: Stranger) -> None:
    await stranger.transcribe(bodies.silent_flac(40, 192_000, 8))


async def _many_recordings(stranger: Stranger) -> None:
    body = bodies.audio_chat(stranger.model, [bodies.silent_flac(1750, 16_000, 1)] * 12)
    await stranger.post_json("/v1/chat/completions", body)


async def _idle(stranger: Stranger) -> None:
    await stranger.hold_open(IDLE_CONNECTIONS, b"", b"")


async def _slow_heads(stranger: Stranger) -> None:
    begin = b"GET /health HTTP/1.1\r\nHost: a\r\nX-A: "
    await stranger.hold_open(SLOW_CONNECTIONS, begin, b"a")


async def _slow_bodies(stranger: Stranger) -> None:
    key = stranger.key.encode()
    begin = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nX-API-Key: " + key
    begin += b"\r\nContent-Type: application/json\r\nContent-Length: 900000\r\n\r\n"
    await stranger.hold_open(SLOW_CONNECTIONS, begin, b" ")


async def _slow_readers(stranger: Stranger) -> None:
    body = bodies.chat(
        stranger.model, [{"role": "user", "content": "count"}], max_tokens=4096, stream=True
    )
    begin = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nX-API-Key: " + stranger.key.encode()
    begin += b"\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    # At most 64 KiB are read ahead, and they are not taken.
    await stranger.hold_open(20, begin + body, b"")


async def _pings(stranger: Stranger) -> None:
    await stranger.storms(lambda: _controls("ping"))


async def _nonsense(stranger: Stranger) -> None:
    await stranger.storms(lambda: itertools.repeat("nonsense"))


async def _stats_unread(stranger: Stranger) -> None:
    await stranger.storms(lambda: _controls("get_stats"), reads=False)


async def _resumes(stranger: Stranger) -> None:
    def frames() -> Iterator[str]:
        text = json.dumps({"type": "text_input", "text": "what time is it"})
        return itertools.chain(itertools.repeat(text, 5), _controls("resume", last_seq=0))

    await stranger.storms(frames)


async def _configs(stranger: Stranger) -> None:
    update = json.dumps({"type": "config_update", "config": {"system_prompt": LONG_PROMPT}})
    await stranger.storms(lambda: itertools.repeat(update))


async def _huge_texts(stranger: Stranger) -> None:
    await stranger.storms(lambda: itertools.cycle(["x" * (3 << 20), "{" * (1 << 20)]))


async def _inflating(stranger: Stranger) -> None:
    await stranger.storms(lambda: itertools.repeat("x" * (4_000_000)), compress=15)


async def _protocol_pings(stranger: Stranger) -> None:
    await stranger.storms(lambda: itertools.repeat(None))


async def _fragments(stranger: Stranger) -> None:
    while stranger.goes_on:
        try:
            async with stranger.session() as made:
                address = stranger.url.replace("http", "ws", 1) + made["websocket_url"]
                headers = {"X-API-Key": stranger.key}
                async with websockets.connect(
                    address, additional_headers=headers, local_addr=(stranger.address(), 0)
                ) as socket:
                    empty = itertools.takewhile(lambda _: stranger.goes_on, itertools.repeat(""))
                    await socket.send(empty)
                    stranger.answers["taken"] += 1
        except (aiohttp.ClientError, websockets.ConnectionClosed, OSError, TimeoutError):
            stranger.answers["closed"] += 1


async def _audio_flood(stranger: Stranger) -> None:
    await stranger.storms(lambda: itertools.repeat(bytes(64_000)))


async def _opus_nonsense(stranger: Stranger) -> None:
    await stranger.storms(lambda: itertools.repeat(b"\xff" * 40), encoding="opus")


async def _sessions(stranger: Stranger) -> None:
    made: list[str] = []
    while stranger.goes_on:
        async with stranger.http() as http, http.post("/session/create", json={}) as response:
            stranger.answers[str(response.status)] += 1
            if response.status == 200:
                made.append((await response.json())["session_id"])
            else:
                await asyncio.sleep(0.01)
    for session_id in made:
        async with stranger.http() as http:
            await http.delete(f"/session/{session_id}")


async def _long_system_prompts(stranger: Stranger) -> None:
    text = json.dumps({"type": "text_input", "text": "hello"})

    async def one() -> None:
        async with stranger.socket(system_prompt=LONG_PROMPT, max_length=4096) as socket:
            await stranger.storm(socket, itertools.repeat(text))

    while stranger.goes_on:
        await asyncio.gather(*[one() for _ in range(8)])


async def _wrong_keys(stranger: Stranger) -> None:
    jwt = "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjF9."
    many = ", ".join(f"openai-insecure-api-key.{jwt}{index}" for index in range(18))
    await stranger.repeat(
        "GET",
        "/v1/realtime",
        headers={"X-API-Key": "wrong", "Sec-WebSocket-Protocol": f"realtime, {many}"},
    )


async def _figures(stranger: Stranger) -> None:
    await asyncio.gather(*[stranger.repeat("GET", path) for path in ("/metrics", "/health")])


async def _realtime_history(stranger: Stranger) -> None:
    def frames() -> Iterator[str]:
        for role, kind in itertools.cycle([("user", "input_text"), ("assistant", "output_text")]):
            content = [{"type": kind, "text": "x" * 400_000 + "\U0001f600"}]
            item = {"type": "message", "role": role, "content": content}
            yield json.dumps({"type": "conversation.item.create", "item": item})

    await stranger.say_in_realtime(frames)


async def _realtime_audio(stranger: Stranger) -> None:
    quiet = json.dumps({"type": "input_audio_buffer.append", "audio": "////" * 80_000})

    def frames() -> Iterator[str]:
        audio = {"input": {"format": {"type": "audio/pcmu"}, "turn_detection": None}}
        yield json.dumps(
            {"type": "session.update", "session": {"type": "realtime", "audio": audio}}
        )
        while True:
            yield from itertools.repeat(quiet, 9)
            yield json.dumps({"type": "input_audio_buffer.commit"})

    await stranger.say_in_realtime(frames)


async def _realtime_updates(stranger: Stranger) -> None:
    session = {"type": "realtime", "instructions": LONG_PROMPT}
    update = json.dumps({"type": "session.update", "session": session})
    await stranger.say_in_realtime(lambda: itertools.repeat(update))


@dataclass(frozen=True)
class Attack:
    """`answers`: what it may be answered with; at least one of them must come.

    `jobs` come from RunPod instead; then nothing is carried out by a stranger.
    """

    name: str
    carry: Carry | None
    answers: frozenset[str]
    jobs: tuple[dict[str, Any], ...] = field(default=())


def _attack(name: str, carry: Carry, *answers: str) -> Attack:
    return Attack(name, carry, frozenset(answers))


_LIMITED = ("RATE_LIMITED", "close 4429")
_SLOW = ("open", "closed")
ATTACKS = (
    _attack("chat calls of 255 messages, 499,000 characters", _big_talks, "413"),
    _attack("chat calls of 2,047 messages", _many_messages, "400"),
    _attack("chat calls as long as the context", _long_prompts, "200", "413", "no answer"),
    _attack("compressed bodies", _gzip, "415"),
    _attack("300,000 parts in a message", _many_parts, "400"),
    _attack("24 MiB of JSON lists", _dense, "400", "413"),
    _attack("JSON nested 100,000 deep", _deep, "400"),
    _attack("a config of 1 MiB of JSON lists", _dense_config, "400"),
    _attack("forms of 10,000 files", _forms, "400"),
    _attack("23 MiB of base64 that is not audio", _large_base64, "400"),
    _attack("WAV files that claim 4 GiB", _claimed_size, "200", "400"),
    _attack("WAV files of rare sample rates", _rare_rates, "200", "400"),
    _attack("files of 8 channels at 192 kHz", _wide_files, "200", "400", "413"),
    _attack("12 half-hour recordings in a call", _many_recordings, "413"),
    _attack("1,000 connections that send nothing", _idle, *_SLOW),
    _attack("200 requests whose head does not end", _slow_heads, *_SLOW),
    _attack("200 requests whose body does not end", _slow_bodies, *_SLOW),
    _attack("20 streams that are not read", _slow_readers, *_SLOW),
    _attack("a storm of pings", _pings, "control", "status", *_LIMITED),
    _attack("a storm of nonsense", _nonsense, "INVALID_REQUEST", "status", *_LIMITED),
    _attack(
        "a storm of questions whose answers are not read",
        _stats_unread,
        "unread",
        "closed",
        *_LIMITED,
    ),
    _attack("a storm of resumes", _resumes, "status", "text_response", *_LIMITED),
    _attack("a storm of config updates", _configs, "status", *_LIMITED),
    _attack("text frames of 3 MiB", _huge_texts, "status", *_LIMITED),
    _attack("text frames of 4 MB, compressed 1,000 times", _inflating, "status", *_LIMITED),
    _attack("a storm of the protocol's own pings", _protocol_pings, "status"),
    _attack("a message of endless empty fragments", _fragments, "taken", "closed"),
    _attack("audio as fast as it is taken", _audio_flood, "status", *_LIMITED),
    _attack("packets that are not Opus", _opus_nonsense, "status", *_LIMITED),
    _attack("sessions without end", _sessions, "200", "429", "503"),
    _attack(
        "8 sessions with prompts of 32,760 characters", _long_system_prompts, "status", *_LIMITED
    ),
    _attack("wrong credentials, 18 in a call", _wrong_keys, "401", "429"),
    _attack("metrics and health as fast as they come", _figures, "200"),
    Attack(
        "jobs of 1,024 texts and of half a million characters",
        None,
        frozenset({"done", "PAYLOAD_TOO_LARGE", "NOT_READY"}),
        (
            {"type": "text", "texts": ["hello there"] * 1024, "max_length": 4096},
            {"type": "text", "text": "word " * 99_999},
            {"type": "text", "messages": [{"role": "user", "content": "a " * 900}] * 250},
        ),
    ),
    _attack("realtime: items that nobody answers", _realtime_history, "session.created"),
    _attack("realtime: audio that nobody answers", _realtime_audio, "session.created"),
    _attack("realtime: a storm of updates", _realtime_updates, "session.created"),
)


def carry_out(name: str, url: str, key: str, seconds: float) -> Counter[str]:
    """What an attack was answered, by kind; blocks until it is over."""
    (attack,) = [one for one in ATTACKS if one.name == name]
    assert attack.carry is not None
    return asyncio.run(_carry_out(attack.carry, Stranger(url, key, seconds)))


async def _carry_out(carry: Carry, stranger: Stranger) -> Counter[str]:
    async with stranger.http() as http, http.get("/v1/models") as response:
        stranger.model = (await response.json())["data"][0]["id"]
    try:
        async with asyncio.timeout(LAST_ANSWERS_S + stranger.seconds):
            await carry(stranger)
    except TimeoutError:
        stranger.answers["no answer"] += 1
    return stranger.answers
