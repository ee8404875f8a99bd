"""Spoken answers on the documented sockets: frames, pace, interruptions, resume."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support.running_server import RunningServer
from tests.support.talker import WAIT_S, Talker, create, open_socket, talk
from tests.support.talking_server import TalkingServer
from tests.support.voices import MS_PER_CHARACTER
from voxtral_worker.audio.formats import decoder_for
from voxtral_worker.errors import SpeechFailed
from voxtral_worker.sessions.config import SessionConfig

Start = Callable[..., RunningServer]
SPOKEN = {"voice": "default"}


class Hearer(Talker):
    """A talker that gets sound; each message of speech has its frame under `sound`."""

    async def next(self) -> dict[str, Any]:
        message = await super().next()
        if message["type"] == "audio":
            async with asyncio.timeout(WAIT_S):
                sound = await self.socket.recv()
            assert isinstance(sound, bytes)
            message["sound"] = sound
        return message

    async def had(self, kind: str) -> None:
        """A message of this kind has come, or comes now."""
        if not any(message["type"] == kind for message in self.seen):
            await self.until(kind)

    async def turn(self) -> list[dict[str, Any]]:
        """All pieces of a turn."""
        pieces: list[Any] = []
        while not (pieces and pieces[-1].get("final")):
            pieces.append(await self.until("audio"))
        return pieces


def hearing(talker: Talker) -> Hearer:
    return Hearer(talker.socket)


def session(talking: TalkingServer, **config: Any) -> Any:
    return create(talking.server.url, json={"config": {**SPOKEN, **config}})


async def test_an_answer_is_a_message_and_a_frame_a_piece_beside_its_text(
    talking: TalkingServer,
) -> None:
    talking.engine.words = ("The light ", "is on. ", "You may go.")
    made = await session(talking)
    async with talk(talking.server, made["session_id"]) as talker:
        hearer = hearing(talker)
        await hearer.text("hello")
        pieces = await hearer.turn()
        assert [piece["text"] for piece in pieces if piece["text"]] == [
            "The light is on. ",
            "You may go.",
        ]
        assert [piece.get("final", False) for piece in pieces[:-1]] == [False] * (len(pieces) - 1)
        offset_ms = 0.0
        for piece in pieces:
            assert piece["offset_ms"] == offset_ms
            assert len(piece["sound"]) == piece["duration_ms"] * 48
            offset_ms += piece["duration_ms"]
        assert offset_ms == (len("The light is on.") + len("You may go.")) * MS_PER_CHARACTER
        seqs = [message["seq"] for message in hearer.seen if "seq" in message]
        assert seqs == list(range(1, len(seqs) + 1))
        kinds = [message["type"] for message in hearer.seen]
        assert kinds.count("text_response") == 1


@pytest.mark.parametrize(
    ("encoding", "rate"), [("mulaw", 8000), ("alaw", 8000), ("opus", 24000), ("pcm_s16le", 16000)]
)
async def test_speech_comes_in_the_format_that_was_asked_for(
    talking: TalkingServer, encoding: str, rate: int
) -> None:
    talking.engine.words = ("The light is on.",)
    made = await session(talking, output_encoding=encoding, output_sample_rate=rate)
    assert made["config"]["output_encoding"] == encoding
    async with talk(talking.server, made["session_id"]) as talker:
        hearer = hearing(talker)
        await hearer.text("hello")
        pieces = await hearer.turn()
    decoder = decoder_for(encoding)
    heard = np.concatenate([decoder.decode(piece["sound"]) for piece in pieces])
    heard_rate = 48_000 if encoding == "opus" else rate
    spoken_ms = len("The light is on.") * MS_PER_CHARACTER
    assert len(heard) / heard_rate * 1000 == pytest.approx(spoken_ms, abs=130)
    assert float(np.abs(heard).max()) == pytest.approx(0.5, abs=0.1)


async def test_the_first_sentence_is_heard_before_the_answer_is_whole(
    talking: TalkingServer,
) -> None:
    talking.engine.holds = True
    talking.engine.words = ("The light is on. And",)
    made = await session(talking)
    async with talk(talking.server, made["session_id"]) as talker:
        hearer = hearing(talker)
        await hearer.text("hello")
        piece = await hearer.until("audio")
        assert piece["text"] == "The light is on. "
        assert all(message["type"] != "text_response" for message in hearer.seen)


async def test_speech_over_speech_interrupts_it_and_nothing_comes_after(
    talking: TalkingServer, clip: bytes
) -> None:
    # Far more than may be ahead, so that it still plays when it is interrupted.
    talking.engine.words = ("This is a very long sentence that goes on and on. " * 4,)
    made = await session(talking)
    async with talk(talking.server, made["session_id"]) as talker:
        hearer = hearing(talker)
        await hearer.text("hello")
        first = await hearer.until("audio")
        await hearer.had("text_response")
        await hearer.send(clip)
        interrupted = await hearer.status("interrupted")
        assert interrupted["turn_id"] == first["turn_id"]
        await hearer.until("text_response")
        await hearer.until("audio")
        of_the_first = [m for m in hearer.seen if m.get("turn_id") == first["turn_id"]]
        # Nothing of it comes after that, and it never came to its end.
        assert of_the_first[-1] is interrupted
        assert not any(m.get("final") for m in of_the_first)
    request = talking.engine.requests[-1]
    (exchange,) = request.conversation.history
    heard = exchange.assistant.text
    assert heard is not None
    assert talking.engine.words[0].startswith(heard)
    assert len(heard) < len(talking.engine.words[0])


async def test_no_more_than_two_seconds_are_ahead(talking: TalkingServer) -> None:
    talking.engine.words = ("A sentence of a second. " * 4,)
    made = await session(talking)
    async with talk(talking.server, made["session_id"]) as talker:
        hearer = hearing(talker)
        await hearer.text("hello")
        loop = asyncio.get_running_loop()
        begun_s = None
        for piece in await _timed(hearer, loop):
            begun_s = begun_s or piece["at_s"]
            sent_ms = piece["offset_ms"] + piece["duration_ms"]
            # A frame may be late by any time, but never early.
            assert sent_ms / 1000 - (piece["at_s"] - begun_s) <= 2.0 + 0.05 + 0.4


async def _timed(hearer: Hearer, loop: asyncio.AbstractEventLoop) -> list[dict[str, Any]]:
    pieces: list[dict[str, Any]] = []
    while not (pieces and pieces[-1].get("final")):
        pieces.append({**await hearer.until("audio"), "at_s": loop.time()})
    return pieces


async def test_texts_of_the_control_connection_are_spoken_on_the_other(
    talking: TalkingServer,
) -> None:
    made = await session(talking)
    async with (
        talk(talking.server, made["session_id"]) as talker,
        talk(talking.server, made["session_id"], "control") as control,
    ):
        hearer = hearing(talker)
        await control.text("hello")
        answer = await control.until("text_response")
        pieces = await hearer.turn()
        assert {piece["turn_id"] for piece in pieces} == {answer["turn_id"]}
        assert all(message["type"] != "audio" for message in control.seen)


async def test_without_an_audio_connection_nothing_is_spoken(talking: TalkingServer) -> None:
    made = await session(talking)
    async with talk(talking.server, made["session_id"], "control") as control:
        await control.text("hello")
        await control.until("text_response")
        await control.control("cancel")
        assert (await control.status("cancelled"))["turn_id"] is None
    assert talking.voice.said == []


async def test_a_resume_repeats_the_messages_and_not_the_sound(talking: TalkingServer) -> None:
    talking.engine.words = ("The light is on.",)
    made = await session(talking)
    async with talk(talking.server, made["session_id"]) as talker:
        hearer = hearing(talker)
        await hearer.text("hello")
        pieces = await hearer.turn()
    address = f"{talking.server.ws_url}/ws/audio/{made['session_id']}"
    async with open_socket(address, last_seq="0") as again:
        frames: list[dict[str, Any]] = []
        while not (frames and frames[-1].get("status") == "resumed"):
            async with asyncio.timeout(WAIT_S):
                frame = await again.socket.recv()
            assert isinstance(frame, str)
            frames.append(json.loads(frame))
    repeated = [frame for frame in frames if frame["type"] == "audio"]
    for piece in pieces:
        del piece["sound"]
    assert repeated == pieces


async def test_the_client_says_what_it_has_played(talking: TalkingServer) -> None:
    talking.engine.words = ("This is a very long sentence that goes on and on. " * 4,)
    made = await session(talking)
    async with talk(talking.server, made["session_id"]) as talker:
        hearer = hearing(talker)
        await hearer.text("hello")
        piece = await hearer.until("audio")
        await hearer.had("text_response")
        await hearer.control("cancel")
        await hearer.status("cancelled")
        await hearer.control("played", turn_id=piece["turn_id"], played_ms=0)
        await hearer.text("again")
        await hearer.until("text_response")
        await hearer.control("played", turn_id="99", played_ms=5)
        refused = await hearer.until("error")
        assert refused["code"] == "INVALID_REQUEST"
        assert "'99'" in refused["error"]
    (exchange,) = talking.engine.requests[-1].conversation.history
    assert exchange.assistant.text == ""


async def test_a_voice_that_fails_leaves_the_text_and_is_told_once(
    talking: TalkingServer,
) -> None:
    made = await session(talking)
    talking.voice.error = SpeechFailed("the speech server cannot be reached")
    async with talk(talking.server, made["session_id"]) as talker:
        hearer = hearing(talker)
        for _ in range(2):
            await hearer.text("hello")
            await hearer.until("text_response")
            (last,) = await hearer.turn()
            assert set(last["sound"]) == {0}
        talking.voice.error = None
        await hearer.text("hello")
        assert len(await hearer.turn()) > 1
    errors = [m for m in hearer.seen if m["type"] == "error"]
    assert [(e["code"], e["error"]) for e in errors] == [
        ("SPEECH_FAILED", "the speech server cannot be reached")
    ]


async def test_a_voice_may_be_chosen_and_let_go_in_mid_session(talking: TalkingServer) -> None:
    async with talk(talking.server) as talker:
        hearer = hearing(talker)
        await hearer.send({"type": "config_update", "config": {"voice": "buzz"}})
        updated = await hearer.status("config_updated")
        assert updated["config"]["voice"] == "buzz"
        await hearer.text("hello")
        await hearer.turn()
        assert {name for _, name, _ in talking.voice.said} == {"buzz"}
        await hearer.send({"type": "config_update", "config": {"voice": None}})
        await hearer.status("config_updated")
        said = len(talking.voice.said)
        await hearer.text("hello")
        await hearer.until("text_response")
        assert len(talking.voice.said) == said


async def test_a_voice_that_there_is_not_is_refused_at_every_door(talking: TalkingServer) -> None:
    told = "voice is 'bass', but must be one of default, hum, buzz"
    async with talk(talking.server) as talker:
        await talker.send({"type": "config_update", "config": {"voice": "bass"}})
        assert told in (await talker.until("error"))["error"]
    config = json.dumps({"voice": "bass"})
    async with open_socket(f"{talking.server.ws_url}/ws/audio", config=config) as talker:
        assert told in (await talker.until("error"))["error"]
        assert await talker.closed() == 4400


async def test_where_speech_is_off_a_voice_cannot_be_set(server: RunningServer) -> None:
    async with talk(server) as talker:
        await talker.send({"type": "config_update", "config": {"voice": "default"}})
        refused = await talker.until("error")
        assert refused["code"] == "INVALID_REQUEST"
        assert "SPEECH is off" in refused["error"]
        await talker.send({"type": "config_update", "config": {"voice": None}})
        await talker.status("config_updated")


def test_the_documented_defaults_are_those_of_the_config() -> None:
    config = SessionConfig()
    assert (config.voice, config.output_sample_rate, config.output_encoding) == (
        None,
        24_000,
        "pcm_s16le",
    )
