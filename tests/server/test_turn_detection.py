"""Turns through a whole server: the same at any speed, with scores that come, fail or hang."""

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.support.reopenings import reopen
from tests.support.running_server import RunningServer
from tests.support.talker import Talker, create, open_socket, talk
from voxtral_worker.audio.frames import SAMPLE_RATE
from voxtral_worker.server import ears
from voxtral_worker.server.gate.access import Caller
from voxtral_worker.server.native.dialect import NativeDialect
from voxtral_worker.sessions import listening
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.settings import EMBEDDED_MODEL, TURN_MODEL
from voxtral_worker.turns import completeness
from voxtral_worker.turns.completeness import Completeness, load_network

Start = Callable[..., RunningServer]
CLIPS = EMBEDDED_MODEL / "clips"
SEMANTIC = '{"turn_detection": "semantic"}'


class FakeScorer:
    """Scores by the sound alone, after some turns of the loop; or never."""

    def __init__(self, delay_s: float | None, score: float | None = None) -> None:
        self.delay_s = delay_s
        self.score = score
        self.asked = 0

    def ask(self, samples: np.ndarray[Any, Any]) -> "asyncio.Future[float | None]":
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[float | None] = loop.create_future()
        self.asked += 1
        score = self.score
        if score is None:
            score = len(samples) * 7 % 100 / 100

        def settle() -> None:
            if not answer.done():
                answer.set_result(score)

        if self.delay_s is not None:
            loop.call_later(self.delay_s, settle)
        return answer


def recording() -> bytes:
    """Sentences with pauses that end turns, that do not, and after which turns continue."""
    parts = [np.zeros(SAMPLE_RATE // 2, np.float32)]
    names = (
        "set-a-timer-for-five-minutes",
        "turn-off-the-living-room-fan",
        "go-forward-two-meters",
    )
    for name, pauses in zip(names * 2, (0.3, 0.7, 1.9, 0.25, 1.1, 2.2), strict=True):
        samples, _ = soundfile.read(CLIPS / f"{name}.wav", dtype="float32")
        parts += [samples, np.zeros(int(pauses * SAMPLE_RATE), np.float32)]
    return (np.concatenate(parts) * 32_767).astype("<i2").tobytes()


def with_scorer(server: RunningServer, scorer: Any) -> RunningServer:
    life = server.thread.service.life
    assert life.parts is not None
    life.parts = dataclasses.replace(life.parts, completeness=scorer)
    return server


async def turns_of(server: RunningServer, sound: bytes, chunk: int, pace_s: float) -> list[Any]:
    """When turns began, ended and continued, in the order of the messages."""
    async with open_socket(f"{server.ws_url}/ws/audio", config=SEMANTIC) as talker:
        for start in range(0, len(sound), chunk):
            await talker.send(sound[start : start + chunk])
            if pace_s:
                await asyncio.sleep(pace_s)
        await talker.control("ping")
        await talker.until("control")
    kinds = ("speech_started", "speech_ended", "turn_reopened")
    return [
        (m["status"], m["turn_id"], m.get("reason"), m.get("completeness"))
        for m in talker.seen
        if m.get("status") in kinds
    ]


@pytest.fixture
async def patient(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """A score, and the next chunk of audio, may take as long as a busy machine needs."""
    monkeypatch.setattr(listening, "STALL_MS", 60_000)
    monkeypatch.setattr(completeness, "PATIENCE_S", 60.0)
    monkeypatch.setattr(ears, "SCORE_PATIENCE_S", 60.0)
    yield


@pytest.mark.parametrize("is_real", [False, True])
async def test_a_recording_gives_the_same_turns_at_any_speed_and_in_any_chunks(
    start_server: Start, patient: None, is_real: bool
) -> None:
    scorer = Completeness(load_network(TURN_MODEL)) if is_real else None
    if scorer is not None:
        scorer.start()
    sound, found = recording(), []
    for chunk, pace_s, delay_s in ((len(sound), 0.0, 0.3), (1_000, 0.0, 0.0), (6_400, 0.01, 0.1)):
        server = with_scorer(start_server(), scorer or FakeScorer(delay_s))
        found.append(await turns_of(server, sound, min(chunk, 1 << 19), pace_s))
    if scorer is not None:
        scorer.stop()
    assert found[1:] == [found[0]] * 2
    told = [status for status, *_ in found[0]]
    assert told.count("speech_ended") >= 3
    assert "turn_reopened" in told
    assert any(score is not None for *_, score in found[0])


async def test_a_score_that_does_not_come_ends_the_turn_as_silence_does(
    start_server: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ears, "SCORE_PATIENCE_S", 0.05)
    scorer = FakeScorer(None)
    server = with_scorer(start_server(), scorer)
    found = await turns_of(server, recording(), 6_400, 0.0)
    assert scorer.asked > 3
    ended = [(reason, score) for status, _, reason, score in found if status == "speech_ended"]
    assert set(ended) == {("silence", None)}


async def test_a_session_from_a_worker_with_a_turn_model_goes_on_without_one(
    server: RunningServer,
) -> None:
    async def take_over() -> None:
        config = SessionConfig().updated({"turn_detection": "semantic"})
        server.thread.service.sessions.start("s1", config, Caller(), NativeDialect)

    await asyncio.to_thread(server.thread.call, take_over())
    async with open_socket(f"{server.ws_url}/ws/audio/s1") as talker:
        await talker.status("connected")
        sound = recording()
        for start in range(0, len(sound), 64_000):
            await talker.send(sound[start : start + 64_000])
        ended = await talker.status("speech_ended")
    assert (ended["reason"], "completeness" in ended) == ("silence", False)


async def test_turns_by_scores_are_refused_where_there_is_no_turn_model(
    server: RunningServer,
) -> None:
    async with open_socket(f"{server.ws_url}/ws/audio", config=SEMANTIC) as talker:
        error = await talker.until("error")
    assert error["code"] == "INVALID_REQUEST"
    assert "no turn model: set TURN_MODEL" in error["error"]
    async with talk(server) as talker:
        await talker.send({"type": "config_update", "config": {"turn_detection": "semantic"}})
        assert "TURN_MODEL" in (await talker.until("error"))["error"]
        session = await create(server.url)
        assert "session_id" in session
    async with open_socket(f"{server.ws_url}/v1/realtime") as talker:
        await _ask_for_semantic_vad(talker)
        error = (await talker.until("error"))["error"]
    assert error["param"] == "session.audio.input.turn_detection.type"
    assert "TURN_MODEL" in error["message"]


async def _ask_for_semantic_vad(talker: Talker) -> None:
    heard = {"turn_detection": {"type": "semantic_vad"}}
    session = {"type": "realtime", "audio": {"input": heard}}
    await talker.send({"type": "session.update", "session": session})


async def test_turns_that_go_on_while_the_line_is_cut_leave_nothing_behind() -> None:
    left = await reopen(30, random.Random(3))
    assert left.odd == []
    assert left.cuts > 0
    # A turn of its own interrupts the answer to the one before it.
    reasons = {answer.finish_reason for answer in left.answers.values()}
    assert reasons <= {"stop", "interrupted"}
    assert left.history == len(left.answers)
    # The pre-roll of a turn to come.
    assert left.holds.pop("frames") <= 10
    assert set(left.holds.values()) == {0}
