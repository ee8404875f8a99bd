"""One session's speech: in order, paced, and silent at once when it is asked to be."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from tests.support.voices import MS_PER_CHARACTER, FakeVoice
from voxtral_worker.errors import SpeechFailed, WorkerError
from voxtral_worker.speech.pieces import SpeechFormat, SpokenPiece
from voxtral_worker.speech.playback import Playback
from voxtral_worker.speech.speaker import Speaker
from voxtral_worker.speech.speech import Speech

FORMAT = SpeechFormat("default", "pcm_s16le", 24_000)


class Ear:
    """Notes what it gets, as a session does."""

    def __init__(self, voice: FakeVoice, most_ahead_s: float = 1000.0) -> None:
        self.voice = voice
        self.pieces: list[SpokenPiece] = []
        self.failures: list[WorkerError] = []
        self.playback = Playback(most_ahead_s)
        self.speech = Speech(voice, "hum")
        self.speech.start()
        self.ahead_s: list[float] = []
        self._loop = asyncio.get_running_loop()
        self.speaker = Speaker(self.speech, self.playback, self, self._loop.time)

    def voice_failed(self, turn_id: str, error: WorkerError, *, is_news: bool) -> None:
        if is_news:
            self.failures.append(error)

    def spoke(self, piece: SpokenPiece) -> None:
        now_s = self._loop.time()
        self.pieces.append(piece)
        self.playback.sent(
            piece.turn_id, piece.text, piece.duration_ms, now_s, is_final=piece.is_final
        )
        self.ahead_s.append(self.playback.ahead_s(now_s))

    def answer(self, turn_id: str, *texts: str) -> None:
        for text in texts:
            self.speaker.say(turn_id, text, FORMAT)
        self.speaker.end(turn_id)

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not holds():  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def quiet(self) -> list[SpokenPiece]:
        """All pieces, once nothing more comes."""
        await self.until(lambda: not self.speaker.is_speaking)
        return self.pieces

    async def stop(self) -> None:
        await self.speaker.close()
        await asyncio.to_thread(self.speech.stop)


@pytest.fixture
async def listener() -> AsyncIterator[Ear]:
    listener = Ear(FakeVoice())
    yield listener
    await listener.stop()


async def test_the_sentence_stands_on_its_first_piece_and_the_end_on_the_last(
    listener: Ear,
) -> None:
    listener.answer("7", "The light ", "is on. You ", "may go.")
    pieces = await listener.quiet()
    assert [piece.text for piece in pieces if piece.text] == ["The light is on. ", "You may go."]
    assert [piece.is_final for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert {piece.turn_id for piece in pieces} == {"7"}
    spoken_ms = sum(piece.duration_ms for piece in pieces)
    assert spoken_ms == (len("The light is on.") + len("You may go.")) * MS_PER_CHARACTER
    assert pieces[0].text and not pieces[1].text
    assert all(len(piece.data) == piece.duration_ms * 48 for piece in pieces)


async def test_the_first_sentence_is_heard_before_the_answer_is_made(listener: Ear) -> None:
    listener.speaker.say("1", "The light is on. And", FORMAT)
    await listener.until(lambda: listener.pieces)
    assert not any(piece.is_final for piece in listener.pieces)


async def test_nothing_is_told_after_a_hush(listener: Ear) -> None:
    listener.speaker.say("1", "The light is on. And so on", FORMAT)
    await listener.until(lambda: listener.pieces)
    listener.voice.may_speak.clear()
    listener.speaker.end("1")
    told = len(listener.pieces)
    listener.speaker.hush()
    listener.voice.may_speak.set()
    await asyncio.sleep(0.2)
    assert len(listener.pieces) == told
    assert not listener.speaker.is_speaking
    # What comes later is spoken again.
    listener.answer("2", "Yes.")
    await listener.quiet()
    assert listener.pieces[-1].turn_id == "2"


async def test_no_more_than_may_be_ahead_is_sent() -> None:
    listener = Ear(FakeVoice(), most_ahead_s=0.5)
    listener.answer("1", "A sentence of one second.")
    pieces = await listener.quiet()
    assert len(pieces) > 2
    assert max(listener.ahead_s) <= 0.5 + 1e-6
    await listener.stop()


async def test_turns_are_spoken_one_behind_the_other(listener: Ear) -> None:
    listener.answer("1", "First.")
    listener.answer("2", "Second.")
    pieces = await listener.quiet()
    assert [piece.turn_id for piece in pieces if piece.text] == ["1", "2"]
    assert [piece.turn_id for piece in pieces if piece.is_final] == ["1", "2"]


async def test_an_end_that_comes_late_is_a_piece_of_silence(listener: Ear) -> None:
    listener.speaker.say("1", "Yes. I", FORMAT)
    heard_ms = 4 * MS_PER_CHARACTER
    await listener.until(lambda: sum(p.duration_ms for p in listener.pieces) == heard_ms)
    await listener.until(lambda: listener.playback.ahead_s(asyncio.get_running_loop().time()) == 0)
    listener.voice.may_speak.clear()
    listener.speaker.hush()
    listener.speaker.say("2", "Yes. 😀", FORMAT)
    listener.voice.may_speak.set()
    listener.speaker.end("2")
    pieces = [piece for piece in await listener.quiet() if piece.turn_id == "2"]
    # The words without a sound stand on the last piece, which is silent.
    assert [piece.text for piece in pieces if piece.text] == ["Yes. ", "😀"]
    assert pieces[-1].is_final
    assert pieces[-1].duration_ms == 20
    assert set(pieces[-1].data) == {0}


async def test_words_without_a_sound_are_told_with_the_next_that_have_one(
    listener: Ear,
) -> None:
    listener.answer("1", "世界… 😀! ", "Yes, indeed.")
    pieces = await listener.quiet()
    assert "".join(piece.text for piece in pieces) == "世界… 😀! Yes, indeed."


async def test_an_answer_without_a_sound_is_one_piece_of_silence(listener: Ear) -> None:
    listener.answer("1", "😀")
    (piece,) = await listener.quiet()
    assert (piece.text, piece.is_final, piece.duration_ms) == ("😀", True, 20)
    assert set(piece.data) == {0}


async def test_a_voice_that_fails_is_told_once_until_it_works_again(listener: Ear) -> None:
    listener.voice.error = SpeechFailed("the speech server cannot be reached")
    for turn_id in ("1", "2"):
        listener.answer(turn_id, "One. Two. Three.")
        await listener.quiet()
    assert [error.code for error in listener.failures] == ["SPEECH_FAILED"]
    # The rest of a turn that has failed is not tried.
    assert [text for text, _, _ in listener.voice.said] == ["One."] * 2
    # What ends a turn is sent all the same.
    assert [(piece.is_final, set(piece.data)) for piece in listener.pieces] == [(True, {0})] * 2
    listener.voice.error = None
    listener.answer("3", "One.")
    await listener.quiet()
    listener.voice.error = SpeechFailed("again")
    listener.answer("4", "One.")
    await listener.quiet()
    assert len(listener.failures) == 2


async def test_a_turn_that_fails_in_its_middle_ends_with_a_last_piece(listener: Ear) -> None:
    listener.speaker.say("1", "One is said. Two", FORMAT)
    await listener.until(lambda: listener.pieces)
    listener.voice.error = SpeechFailed("gone")
    listener.speaker.end("1")
    pieces = await listener.quiet()
    assert pieces[-1].is_final
    assert [piece.text for piece in pieces if piece.text] == ["One is said. ", "Two"]
