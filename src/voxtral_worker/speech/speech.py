"""Speaks texts for all sessions, REST calls and jobs, on its own thread."""

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any

from voxtral_worker import metrics
from voxtral_worker.errors import (
    AtCapacity,
    BadInput,
    LoadFailure,
    NotReady,
    SpeechFailed,
    WorkerError,
)
from voxtral_worker.settings import EMBEDDED_VOICE, NO_VOICE, Settings
from voxtral_worker.speech.embedded import folder, is_installed, voices_there
from voxtral_worker.speech.plain import as_spoken
from voxtral_worker.speech.process import VoiceProcess
from voxtral_worker.speech.remote import RemoteVoice
from voxtral_worker.speech.sentences import SentenceSplitter
from voxtral_worker.speech.voice import (
    DEFAULT_VOICE,
    OPENAI_VOICES,
    VOICE_RATE,
    Samples,
    Voice,
)

log = logging.getLogger(__name__)

# Texts at once. Each session has one sentence at a time, so this is far more than is ever needed.
MOST_AT_ONCE = 1024
STOP_S = 10.0
IS_OFF = "this worker has no voice (SPEECH is off)"


class Speech:
    """Speaks each text once, or reports its failure once. Any thread may call its methods."""

    def __init__(self, voice: Voice, default_name: str) -> None:
        """`default_name`: the voice that is used for the name `default`."""
        self._voice = voice
        self._default_name = default_name
        self._under_way = 0
        self._is_failing = False
        # The thread's loop; None before `start`.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="speech", daemon=True)

    def start(self) -> None:
        """Start the thread. It loads the voice in the background."""
        self._loop = asyncio.new_event_loop()
        self._thread.start()
        self._begin(self._load())

    def stop(self) -> None:
        """Cancel all texts that are being spoken, and end the thread."""
        if self._loop is None or not self._thread.is_alive():
            return
        with contextlib.suppress(TimeoutError):
            self._begin(self._end()).result(STOP_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_S)

    @property
    def voices(self) -> tuple[str, ...]:
        """Names that callers may use, `default` first. With a speech server only `default`."""
        return (DEFAULT_VOICE, *self._voice.names)

    def voice_named(self, name: str) -> str:
        """The voice for a name. Raises BadInput, which lists the voices, for an unknown name."""
        return named(name, self._voice.names, self._default_name)

    async def say(
        self, text: str, voice: str = DEFAULT_VOICE, speed: float = 1.0
    ) -> AsyncGenerator[Samples, None]:
        """Yield the speech of a sentence while it is made, float32 [n] at VOICE_RATE.

        Yields nothing for a text without words. Stops at once if it is closed early. Raises
        BadInput for an unknown voice, SpeechFailed, or AtCapacity.
        """
        name = self.voice_named(voice)
        loop = asyncio.get_running_loop()
        # Bounded by the length of one sentence.
        said: asyncio.Queue[Samples | WorkerError | None] = asyncio.Queue()

        def tell(item: Samples | WorkerError | None) -> None:
            # RuntimeError: the caller's loop is closed, so the caller has gone.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(said.put_nowait, item)

        making = self._begin(self._make(as_spoken(text), name, speed, tell))
        try:
            while (item := await said.get()) is not None:
                if isinstance(item, WorkerError):
                    raise item
                yield item
        finally:
            making.cancel()

    async def read_aloud(
        self,
        text: str,
        voice: str = DEFAULT_VOICE,
        speed: float = 1.0,
        language: str | None = None,
    ) -> AsyncGenerator[Samples, None]:
        """Yield the speech of a whole text, one sentence after the other. Raises as `say` does."""
        splitter = SentenceSplitter(language)
        for sentence in (*splitter.push(text), *splitter.finish()):
            async with aclosing(self.say(sentence, voice, speed)) as pieces:
                async for samples in pieces:
                    yield samples

    def _begin(self, work: Coroutine[Any, Any, None]) -> "concurrent.futures.Future[None]":
        if self._loop is None or self._loop.is_closed():
            work.close()
            raise NotReady("the voice has not started, or has ended")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _run(self) -> None:
        assert self._loop is not None
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    async def _load(self) -> None:
        try:
            await self._voice.load()
        except Exception:  # a voice's package may raise anything; it is loaded again when needed
            log.exception("speech: the voice cannot be loaded")

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._voice.close()

    async def _make(
        self,
        text: str,
        voice: str,
        speed: float,
        tell: Callable[[Samples | WorkerError | None], None],
    ) -> None:
        self._under_way += 1
        try:
            if self._under_way > MOST_AT_ONCE:
                raise AtCapacity("too many texts are being spoken", retry_after_s=5)
            async with aclosing(self._voice.say(text, voice, speed)) as pieces:
                async for samples in pieces:
                    metrics.speech_seconds.inc(len(samples) / VOICE_RATE)
                    tell(samples)
            self._note(None)
        except SpeechFailed as error:
            self._note(error)
            tell(error)
        except WorkerError as error:
            tell(error)
        except Exception:  # a voice's package may raise anything; only this text fails
            log.exception("speech: a text could not be said")
            failed = SpeechFailed("the voice failed")
            self._note(failed)
            tell(failed)
        finally:
            self._under_way -= 1
            tell(None)

    def _note(self, error: SpeechFailed | None) -> None:
        """Log once when the voice begins to fail, and once when it works again."""
        if error is not None:
            metrics.speech_failures.inc()
        if error is not None and not self._is_failing:
            log.warning("speech: %s; answers go on as text", error.message)
        if error is None and self._is_failing:
            log.info("speech: the voice works again")
        self._is_failing = error is not None


def open_speech(settings: Settings) -> Speech | None:
    """The voice that the settings name, not started yet; None if SPEECH is off.

    Raises LoadFailure that names the setting.
    """
    kind = settings.speech or (EMBEDDED_VOICE if is_installed() else NO_VOICE)
    if kind == NO_VOICE:
        return None
    if kind != EMBEDDED_VOICE:
        remote = RemoteVoice(kind, settings.speech_model, settings.speech_api_key)
        return Speech(remote, settings.speech_voice or "alloy")
    if not is_installed():
        raise LoadFailure("SPEECH is embedded, but the package hibari-tts is not installed")
    own = voices_there()
    asked = settings.speech_voice or DEFAULT_VOICE
    try:
        default = named(asked, own, own[0])
        return Speech(VoiceProcess(own, environment={"HIBARI_HOME": folder()}), default)
    except BadInput as error:
        raise LoadFailure(f"SPEECH_VOICE: {error.message}") from None


def require_voice(speech: Speech | None, voice: str | None) -> None:
    """Raises BadInput if answers cannot be spoken with `voice`. None: no speech is wanted."""
    if voice is None:
        return
    if speech is None:
        raise BadInput(f"voice is {voice[:60]!a}, but {IS_OFF}")
    speech.voice_named(voice)


def named(asked: str, own: tuple[str, ...], default: str) -> str:
    """The voice for a name. `own`: the known voices; empty if any name may be valid.

    Raises BadInput, which lists the voices, for an unknown name.
    """
    if asked == DEFAULT_VOICE:
        return default
    if not own or asked in own:
        return asked
    if asked in OPENAI_VOICES:
        return default
    may_be = ", ".join((DEFAULT_VOICE, *own))
    raise BadInput(f"voice is {asked[:60]!a}, but must be one of {may_be}")
