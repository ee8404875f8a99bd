"""Answers a chat completion, whole or in pieces."""

import itertools
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from aiohttp import web

from voxtral_worker.audio.recordings import Recordings
from voxtral_worker.engine.answer import Answer, Engine, answer
from voxtral_worker.engine.conversation import (
    AssistantTurn,
    Audio,
    Conversation,
    Exchange,
    UserTurn,
    audio_in,
)
from voxtral_worker.errors import BadInput, WorkerError
from voxtral_worker.server.openai.chat_request import ChatRequest, EncodedAudio, Said
from voxtral_worker.server.openai.errors import within
from voxtral_worker.server.openai.files import read_file
from voxtral_worker.server.openai.stream import EventStream, relay
from voxtral_worker.server.openai.usage import chat_usage


async def conversation_of(asked: ChatRequest, recordings: Recordings) -> Conversation:
    """The conversation with its audio decoded. Raises BadOption."""
    users = [
        UserTurn(tuple([await _decoded(part, recordings) for part in said.parts]))
        for said in asked.said[::2]
    ]
    answers = [AssistantTurn(text=_text(said)) for said in asked.said[1::2]]
    history = tuple(itertools.starmap(Exchange, zip(users[:-1], answers, strict=True)))
    return Conversation(users[-1], history, asked.system_prompt)


async def complete(
    request: web.Request,
    engine: Engine,
    model: str,
    asked: ChatRequest,
    conversation: Conversation,
) -> web.StreamResponse:
    """The response. Raises what the engine reports, as long as nothing has been sent."""
    reply = Reply(model, sum(audio.tokens for audio in audio_in(conversation)))

    async def work(say: Callable[[str], None]) -> Answer:
        try:
            return await answer(engine, conversation, asked.sampling, "messages", say)
        except BadInput as error:
            raise within("messages", error) from None

    if not asked.streams:
        return web.json_response(reply.whole(await work(lambda _: None)))
    stream = EventStream(request)
    try:
        made = await relay(work, lambda text: stream.send(reply.delta({"content": text})))
        await stream.send(reply.delta({}, made.finish_reason))
        if asked.tells_usage:
            await stream.send(reply.usage(made))
        await stream.done()
    except WorkerError as error:
        if not stream.has_begun:
            raise
        await stream.fail(error)
    return stream.response


class Reply:
    """The objects of one completion share its id and its time."""

    def __init__(self, model: str, audio_tokens: int) -> None:
        self._audio_tokens = audio_tokens
        self._has_role = False
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, made: Answer) -> dict[str, Any]:
        """A `chat.completion`."""
        message = {"role": "assistant", "content": made.text, "refusal": None}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": made.finish_reason,
        }
        usage = chat_usage(made.usage, self._audio_tokens)
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": usage}

    def delta(self, delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
        """A `chat.completion.chunk`; the first one names the role."""
        if not self._has_role:
            self._has_role = True
            delta = {"role": "assistant", "content": "", **delta}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def usage(self, made: Answer) -> dict[str, Any]:
        """The last chunk, which has no choice."""
        usage = chat_usage(made.usage, self._audio_tokens)
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage}


async def _decoded(part: str | EncodedAudio, recordings: Recordings) -> str | Audio:
    if isinstance(part, str):
        return part
    try:
        # Its place is given back at once: what waits is bounded by the context.
        async with recordings.opened(part.param, partial(read_file, part.data)) as samples:
            return Audio(samples)
    except BadInput as error:
        raise within(part.param, error) from None


def _text(said: Said) -> str:
    return "".join(part for part in said.parts if isinstance(part, str))
