"""Answers a chat completion, whole or in pieces."""

import asyncio
import dataclasses
import time
import uuid
from collections.abc import Callable
from typing import Any

from aiohttp import web

from voxtral_worker.audio.clips import read_clip
from voxtral_worker.audio.recordings import MAX_AUDIO_S, Recordings
from voxtral_worker.engine.answer import Answer, Engine, answer
from voxtral_worker.engine.conversation import (
    SAMPLE_RATE,
    Audio,
    Conversation,
)
from voxtral_worker.engine.dialogue import Said, exchanges
from voxtral_worker.engine.request import ArgumentsDelta, CallEvent, CallStarted, Sampling
from voxtral_worker.engine.tools import Toolbox, calls_as_openai
from voxtral_worker.errors import BadInput, TooLarge
from voxtral_worker.server.openai.chat_request import ChatRequest
from voxtral_worker.server.openai.errors import within
from voxtral_worker.server.openai.messages import Spoken
from voxtral_worker.server.openai.stream import EventStream, relay
from voxtral_worker.server.openai.usage import chat_usage


async def conversation_of(
    asked_turns: tuple[Said[Spoken], ...],
    system_prompt: str | None,
    tools: Toolbox,
    recordings: Recordings,
) -> Conversation:
    """Decode the audio of the turns. Raises BadOption, or TooLarge.

    All recordings together may be as long as one alone. More audio would not fit into any context,
    so it is not decoded.
    """
    turns, heard_s = [], 0.0
    for said in asked_turns:
        parts: list[str | Audio] = []
        for part in said.parts:
            parts.append(await _decoded(part, recordings, MAX_AUDIO_S - heard_s))
            if isinstance(parts[-1], Audio):
                heard_s += len(parts[-1].samples) / SAMPLE_RATE
        turns.append(Said(said.role, tuple(parts), rounds=said.rounds))
    history, user, rounds = exchanges(tuple(turns))
    return Conversation(user, history, system_prompt, rounds=rounds, tools=tools)


async def complete(
    request: web.Request,
    engine: Engine,
    model: str,
    asked: ChatRequest,
    conversation: Conversation,
) -> web.StreamResponse:
    """Answer the call. Raises errors of the engine until the response has begun."""
    reply = Reply(model)

    async def one(index: int, say: Callable[[tuple[int, str | CallEvent]], None]) -> Answer:
        def hear(told: str | CallEvent) -> None:
            say((index, told))

        sampling = _sampling_of(asked.sampling, index)
        return await answer(engine, conversation, sampling, "messages", hear, hear)

    async def work(say: Callable[[tuple[int, str | CallEvent]], None]) -> list[Answer]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(n, say)) for n in range(asked.choices)]
        except ExceptionGroup as errors:
            error = errors.exceptions[0]
            raise (within("messages", error) if isinstance(error, BadInput) else error) from None
        return [task.result() for task in tasks]

    if not asked.stream:
        return web.json_response(reply.whole(await work(lambda _: None)))
    stream = EventStream(request)

    async def hear(said: tuple[int, str | CallEvent]) -> None:
        index, told = said
        if delta := _delta_of(told):
            await stream.send(reply.delta(index, delta))

    async with stream.telling_errors():
        made = await relay(work, hear)
        for index, each in enumerate(made):
            await stream.send(reply.delta(index, {}, each.finish_reason))
        if asked.stream_options.include_usage:
            await stream.send(reply.usage(made))
        await stream.done()
    return stream.response


class Reply:
    """Makes the objects of one completion, which share its id and its time."""

    def __init__(self, model: str) -> None:
        # The choices whose first chunk, which has the role, was made.
        self._begun: set[int] = set()
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, made: list[Answer]) -> dict[str, Any]:
        """A `chat.completion`."""
        choices = [
            {
                "index": index,
                "message": _message(each),
                "logprobs": None,
                "finish_reason": each.finish_reason,
            }
            for index, each in enumerate(made)
        ]
        usage = chat_usage([each.usage for each in made])
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage}

    def delta(
        self, index: int, delta: dict[str, Any], finish_reason: str | None = None
    ) -> dict[str, Any]:
        """A `chat.completion.chunk`; the first one of a choice names the role."""
        if index not in self._begun:
            self._begun.add(index)
            delta = {"role": "assistant", "content": "", **delta}
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def usage(self, made: list[Answer]) -> dict[str, Any]:
        """The last chunk, which has no choice."""
        usage = chat_usage([each.usage for each in made])
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage}


def _message(made: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": made.text, "refusal": None}
    if made.calls:
        calls = calls_as_openai(made.calls)
        message |= {"content": made.text or None, "tool_calls": calls}
    return message


def _delta_of(told: str | CallEvent) -> dict[str, Any]:
    """The delta of a piece of an answer. The end of a call has none."""
    match told:
        case str():
            return {"content": told}
        case CallStarted(index, call_id, name):
            function = {"name": name, "arguments": ""}
            call = {"index": index, "id": call_id, "type": "function", "function": function}
            return {"tool_calls": [call]}
        case ArgumentsDelta(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
    return {}


async def _decoded(part: Spoken, recordings: Recordings, most_s: float) -> str | Audio:
    if isinstance(part, str):
        return part
    data = part.data
    try:
        # Decoded audio needs no place: the length of the context limits it.
        async with recordings.opened(
            part.param, lambda is_over: read_clip(data, max_seconds=most_s, is_over=is_over)
        ) as samples:
            return Audio(samples)
    except TooLarge:
        raise TooLarge(f"the audio is longer than {MAX_AUDIO_S} s in all") from None
    except BadInput as error:
        raise within(part.param, error) from None


def _sampling_of(sampling: Sampling, index: int) -> Sampling:
    """Each choice has a seed of its own; with the same seed all choices would be the same."""
    if sampling.seed is None:
        return sampling
    return dataclasses.replace(sampling, seed=sampling.seed + index)
