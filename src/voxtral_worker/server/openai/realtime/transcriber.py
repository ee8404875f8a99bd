"""Transcribes what the user says, while the answer is made."""

import asyncio
from contextvars import Context

from voxtral_worker.engine.answer import Answer, Engine, answer
from voxtral_worker.engine.conversation import Audio, Conversation, UserTurn
from voxtral_worker.engine.request import Sampling
from voxtral_worker.errors import RateLimited, WorkerError
from voxtral_worker.server.openai.errors import error_object
from voxtral_worker.server.openai.realtime.items import Item, Items
from voxtral_worker.server.openai.realtime.response import Emit
from voxtral_worker.server.openai.usage import transcription_usage
from voxtral_worker.sessions.memory import TOKEN_BYTES, SessionMemory

MOST_AT_ONCE = 16
_KIND = "conversation.item.input_audio_transcription"


class Transcriber:
    """Runs one task per transcription; `stop` ends them all."""

    def __init__(
        self, engine: Engine, emit: Emit, context: Context, items: Items, memory: SessionMemory
    ) -> None:
        self._engine = engine
        self._emit = emit
        self._context = context
        self._items = items
        self._memory = memory
        # Each task with the memory that it needs: for its audio, and for the text to come.
        self._tasks: dict[asyncio.Task[None], int] = {}
        self._under_way: dict[str, asyncio.Task[None]] = {}
        memory.hold(lambda: sum(self._tasks.values()))

    def start(self, item: Item, audio: Audio, language: str | None) -> None:
        """Transcribe the audio of an item; the text is sent as events.

        If the item had shorter audio before, its transcription is stopped.
        """
        self.forget(item.item_id)
        if len(self._tasks) >= MOST_AT_ONCE:
            self._fail(item, RateLimited(f"{MOST_AT_ONCE} transcriptions are under way already"))
            return
        size = audio.nbytes + audio.transcript_tokens * TOKEN_BYTES
        try:
            self._memory.require(size)
        except RateLimited as error:
            self._fail(item, error)
            return
        work = self._run(item, audio, language)
        task = asyncio.create_task(work, name=f"transcript {item.item_id}", context=self._context)
        self._tasks[task] = size
        task.add_done_callback(self._tasks.pop)
        self._under_way[item.item_id] = task

    def forget(self, item_id: str) -> None:
        """Stop the transcription of an item."""
        task = self._under_way.pop(item_id, None)
        if task is not None:
            task.cancel()

    async def stop(self) -> None:
        """Stop all transcriptions."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, item: Item, audio: Audio, language: str | None) -> None:
        try:
            await self._transcribe(item, audio, language)
        finally:
            if self._under_way.get(item.item_id) is asyncio.current_task():
                del self._under_way[item.item_id]

    async def _transcribe(self, item: Item, audio: Audio, language: str | None) -> None:
        def say(text: str) -> None:
            self._emit(f"{_KIND}.delta", item_id=item.item_id, content_index=0, delta=text)

        conversation = Conversation(UserTurn((audio,)), transcribe=True, language=language)
        sampling = Sampling(0.0, 1.0, audio.transcript_tokens)
        try:
            written = await answer(self._engine, conversation, sampling, "audio", say)
        except WorkerError as error:
            self._fail(item, error)
            return
        self._finish(item, written)

    def _finish(self, item: Item, written: Answer) -> None:
        item.content[0]["transcript"] = written.text
        self._items.changed(item)
        self._emit(
            f"{_KIND}.completed",
            item_id=item.item_id,
            content_index=0,
            transcript=written.text,
            usage=transcription_usage(written.usage),
        )

    def _fail(self, item: Item, error: WorkerError) -> None:
        self._emit(
            f"{_KIND}.failed", item_id=item.item_id, content_index=0, error=error_object(error)
        )
