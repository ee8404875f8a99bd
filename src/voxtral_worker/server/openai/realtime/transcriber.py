"""Writes down what the user said, beside its answer."""

import asyncio
from contextvars import Context

from voxtral_worker.engine.answer import Answer, Engine, answer
from voxtral_worker.engine.conversation import Audio, Conversation, UserTurn
from voxtral_worker.engine.request import Sampling
from voxtral_worker.errors import RateLimited, WorkerError
from voxtral_worker.server.openai.errors import error_object
from voxtral_worker.server.openai.realtime.items import Item
from voxtral_worker.server.openai.realtime.responses import Emit
from voxtral_worker.server.openai.usage import transcription_usage

MOST_AT_ONCE = 16
MAX_NEW_TOKENS = 1024
_KIND = "conversation.item.input_audio_transcription"


class Transcriber:
    """Owns its tasks; `stop` ends them all."""

    def __init__(self, engine: Engine, emit: Emit, context: Context) -> None:
        self._engine = engine
        self._emit = emit
        self._context = context
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, item: Item, audio: Audio, language: str | None) -> None:
        """Write the item's audio down; its words come as events."""
        if len(self._tasks) >= MOST_AT_ONCE:
            self._fail(item, RateLimited(f"{MOST_AT_ONCE} transcriptions are under way already"))
            return
        work = self._write_down(item, audio, language)
        task = asyncio.create_task(work, name=f"transcript {item.item_id}", context=self._context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Let go of what is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _write_down(self, item: Item, audio: Audio, language: str | None) -> None:
        def say(text: str) -> None:
            self._emit(f"{_KIND}.delta", item_id=item.item_id, content_index=0, delta=text)

        conversation = Conversation(UserTurn((audio,)), transcribe=True, language=language)
        sampling = Sampling(0.0, 1.0, MAX_NEW_TOKENS)
        try:
            written = await answer(self._engine, conversation, sampling, "audio", say)
        except WorkerError as error:
            self._fail(item, error)
            return
        self._finish(item, written, audio)

    def _finish(self, item: Item, written: Answer, audio: Audio) -> None:
        item.content[0]["transcript"] = written.text
        self._emit(
            f"{_KIND}.completed",
            item_id=item.item_id,
            content_index=0,
            transcript=written.text,
            usage=transcription_usage(written.usage, audio.tokens),
        )

    def _fail(self, item: Item, error: WorkerError) -> None:
        self._emit(
            f"{_KIND}.failed", item_id=item.item_id, content_index=0, error=error_object(error)
        )
