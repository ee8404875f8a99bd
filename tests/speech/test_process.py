"""The embedded voice in its process: what becomes of it, and of the texts that it says."""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest

from tests.support.metric_values import value_of
from tests.support.voice_mouth import STEP_S
from voxtral_worker import metrics, processes
from voxtral_worker.errors import SpeechFailed
from voxtral_worker.speech import process as process_module
from voxtral_worker.speech.embedded import EmbeddedVoice, folder, voices_there
from voxtral_worker.speech.process import VoiceProcess
from voxtral_worker.speech.speech import Speech
from voxtral_worker.speech.voice import VOICE_RATE
from voxtral_worker.speech.wire import SOUND, Unpacker, asked, packed, read_asked

WAIT_S = 60.0
MOUTH = "from tests.support.voice_mouth import serve; serve()"


@pytest.fixture
async def voice() -> AsyncIterator[VoiceProcess]:
    """A process whose mouth does as its texts say."""
    voice = VoiceProcess(("hum",), MOUTH, silence_s=3.0)
    async with asyncio.timeout(WAIT_S):
        await voice.load()
    yield voice
    await voice.close()


async def lengths(voice: VoiceProcess, text: str) -> list[int]:
    async with asyncio.timeout(WAIT_S):
        return [len(samples) async for samples in voice.say(text, "hum", 1.0)]


def process_of(voice: VoiceProcess) -> int:
    assert voice.process_id is not None
    return voice.process_id


def restarts() -> float:
    return value_of(metrics.speech_restarts)


async def test_the_process_sounds_as_the_voice_does() -> None:
    names = voices_there()
    voice = VoiceProcess(names, environment={"HIBARI_HOME": folder()})
    try:
        for text in ("The kitchen light is on now.", "Dr. Smith paid $3.50. Really – 世界 \udc80?"):
            own = np.concatenate(
                list(EmbeddedVoice().say(text.replace("\udc80", "?"), names[0], 1))
            )
            async with asyncio.timeout(WAIT_S):
                said = [samples async for samples in voice.say(text, names[0], 1.0)]
            assert np.array_equal(np.concatenate(said), own)
    finally:
        await voice.close()


async def test_speech_comes_in_pieces_as_it_is_made(voice: VoiceProcess) -> None:
    times = []
    async for _ in voice.say("pieces 5", "hum", 1.0):
        times.append(time.monotonic())
    assert len(times) == 5
    assert times[-1] - times[0] > 3 * STEP_S


async def test_texts_of_several_are_made_in_turn_and_a_short_one_need_not_wait(
    voice: VoiceProcess,
) -> None:
    done: list[str] = []

    async def say(text: str) -> None:
        await lengths(voice, text)
        done.append(text[:8])

    long = "pieces 20 " + "of a very long text " * 10
    saying = [asyncio.create_task(say(long)) for _ in range(2)]
    await asyncio.sleep(2 * STEP_S)
    await asyncio.gather(say("pieces 2"), *saying)
    assert done[0] == "pieces 2"


def test_a_voice_that_ends_with_the_worker_is_not_logged_as_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    speech, before = Speech(VoiceProcess(("hum",), MOUTH), "hum"), restarts()
    speech.start()
    asyncio.run(_hear_one(speech))
    speech.stop()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert restarts() == before


async def _hear_one(speech: Speech) -> None:
    async with asyncio.timeout(WAIT_S):
        assert [len(samples) async for samples in speech.say("pieces 1")]


async def test_whoever_stops_listening_leaves_the_process_to_the_others(
    voice: VoiceProcess,
) -> None:
    async with aclosing(voice.say("pieces 1000", "hum", 1.0)) as pieces:
        await anext(pieces)
    started_s = time.monotonic()
    assert await lengths(voice, "pieces 2") == [VOICE_RATE] * 2
    assert time.monotonic() - started_s < 500 * STEP_S
    assert voice._process is not None
    assert not voice._process.saying


async def test_a_text_that_cannot_be_said_fails_alone(
    voice: VoiceProcess, caplog: pytest.LogCaptureFixture
) -> None:
    other = asyncio.create_task(lengths(voice, "pieces 5"))
    process = process_of(voice)
    with pytest.raises(SpeechFailed, match="the voice failed"):
        await lengths(voice, "raise")
    assert len(await other) == 5
    assert voice.process_id == process
    assert "ZeroDivisionError" in caplog.text


async def test_a_text_that_takes_all_memory_fails_alone(voice: VoiceProcess) -> None:
    with pytest.raises(SpeechFailed, match="the voice failed"):
        await lengths(voice, "memory")
    assert await lengths(voice, "pieces 1") == [VOICE_RATE]


async def test_a_lost_process_is_started_again_and_says_what_has_not_begun(
    voice: VoiceProcess, caplog: pytest.LogCaptureFixture
) -> None:
    before, process = restarts(), process_of(voice)
    begun = voice.say("pieces 1000", "hum", 1.0)
    await anext(begun)
    waiting = asyncio.create_task(lengths(voice, "pieces 2 " + "that waits " * 100))
    await asyncio.sleep(3 * STEP_S)
    os.kill(process, signal.SIGKILL)
    with pytest.raises(SpeechFailed, match="the voice's process was lost"):
        async for _ in begun:
            pass
    assert await waiting == [VOICE_RATE] * 2
    assert restarts() == before + 1
    assert "the voice is lost, as its process ended; it is started again" in caplog.text
    assert is_gone(process)


@pytest.mark.parametrize(
    ("text", "why"),
    [("die", "its process ended"), ("hang", "it does not answer"), ("lie", "what it sends")],
)
async def test_a_text_that_ends_the_process_is_tried_twice_and_hurts_nobody_afterwards(
    voice: VoiceProcess, caplog: pytest.LogCaptureFixture, text: str, why: str
) -> None:
    before = restarts()
    with pytest.raises(SpeechFailed, match="the voice's process was lost"):
        await lengths(voice, text)
    assert restarts() == before + 2
    assert await lengths(voice, "pieces 1") == [VOICE_RATE]
    assert why in caplog.text


async def test_silence_counts_only_while_this_process_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a pause of the machine the voice has had no time to continue."""
    now_s, looks = 0.0, 0

    def running_s() -> float:
        nonlocal looks
        looks += 1
        return now_s

    voice = VoiceProcess(("hum",), MOUTH, silence_s=0.05)
    async with asyncio.timeout(WAIT_S):
        await voice.load()
        monkeypatch.setattr(process_module, "running_s", running_s)
        # Any message makes the new clock count.
        assert await lengths(voice, "pieces 1") == [VOICE_RATE]
        process, lost = process_of(voice), restarts()
        hanging = asyncio.create_task(lengths(voice, "hang"))
        looks = 0
        while looks < 10:
            await asyncio.sleep(0.01)
        assert voice.process_id == process
        while voice.process_id == process:
            now_s += 0.06
            await asyncio.sleep(0.01)
        assert restarts() == lost + 1
        hanging.cancel()
        await asyncio.wait([hanging])
        await voice.close()


async def test_a_process_that_does_not_start_is_not_tried_at_once_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spawned = []

    start = processes.Child

    def count(main: str, environment: Mapping[str, str] | None) -> processes.Child:
        spawned.append(main)
        return start(main, environment)

    monkeypatch.setattr(processes, "Child", count)
    voice = VoiceProcess(("hum",), "raise SystemExit(1)")
    with pytest.raises(SpeechFailed, match="did not start"):
        await voice.load()
    for _ in range(3):
        with pytest.raises(SpeechFailed, match="was lost"):
            await lengths(voice, "pieces 1")
    assert len(spawned) == 1
    await voice.close()


async def test_a_process_that_cannot_be_made_is_a_failure_of_the_voice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(processes, "Child", fail)
    with pytest.raises(SpeechFailed, match="was lost"):
        await lengths(VoiceProcess(("hum",), MOUTH), "pieces 1")


async def test_closed_it_leaves_no_process_and_ends_what_is_said(voice: VoiceProcess) -> None:
    process = process_of(voice)
    begun = voice.say("pieces 1000", "hum", 1.0)
    await anext(begun)
    await voice.close()
    assert is_gone(process)
    with pytest.raises(SpeechFailed):
        async for _ in begun:
            pass
    await voice.close()


PARENT = f"""
import asyncio, sys
from voxtral_worker.speech.process import VoiceProcess
from voxtral_worker.speech.speech import Speech
async def main():
    voice = VoiceProcess(("hum",), {MOUTH!r})
    await voice.load()
    print(voice.process_id, flush=True)
    async for _ in voice.say(sys.argv[1], "hum", 1.0):
        pass
asyncio.run(main())
"""


@contextlib.contextmanager
def parent(text: str) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-c", PARENT, text]
    # The voice's process looks for modules where its parent does.
    there = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=there) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("text", ["pieces 100000", "hang"])
def test_the_process_does_not_outlive_a_worker_that_is_killed(text: str) -> None:
    with parent(text) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        time.sleep(5 * STEP_S)
        process.kill()
        process.wait()
        deadline_s = time.monotonic() + WAIT_S
        while is_alive(pid):
            assert time.monotonic() < deadline_s
            time.sleep(0.05)


def is_gone(pid: int) -> bool:
    """Whether a process has ended and was waited for."""
    return not Path(f"/proc/{pid}").exists()


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_messages_are_the_same_however_their_bytes_come() -> None:
    sent = packed(SOUND, 7, b"abcd") + packed(SOUND, 8) + packed(SOUND, 9, b"efgh")
    for size in (1, 5, 13, len(sent)):
        unpacker = Unpacker()
        pieces = [sent[at : at + size] for at in range(0, len(sent), size)]
        found = [message for piece in pieces for message in unpacker.push(piece)]
        assert found == [(SOUND, 7, b"abcd"), (SOUND, 8, b""), (SOUND, 9, b"efgh")]
    assert read_asked(asked("a\0b", "heart", 1.5)) == ("a\0b", "heart", 1.5)
