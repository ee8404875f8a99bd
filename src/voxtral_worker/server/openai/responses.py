"""Answers a call of the Responses API, whole or in events. Nothing is stored."""

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from aiohttp import web

from voxtral_worker.engine.answer import Answer, Engine, answer
from voxtral_worker.engine.conversation import Conversation
from voxtral_worker.engine.request import ArgumentsDelta, CallEvent, CallFinished, CallStarted
from voxtral_worker.errors import BadInput, BadSchema
from voxtral_worker.server.openai.errors import within
from voxtral_worker.server.openai.responses_request import ResponsesRequest
from voxtral_worker.server.openai.stream import EventStream, relay
from voxtral_worker.server.openai.tools import shown_choice


async def respond(
    request: web.Request,
    engine: Engine,
    model: str,
    asked: ResponsesRequest,
    conversation: Conversation,
) -> web.StreamResponse:
    """Answer the call. Raises errors of the engine until the response has begun."""
    reply = Reply(model, asked)

    async def work(say: Callable[[str | CallEvent], None]) -> Answer:
        try:
            return await answer(engine, conversation, asked.sampling, "input", say, say)
        except BadSchema as error:
            named = {"response_format": "text.format"}
            raise within(named.get(error.field, error.field), BadInput(error.message)) from None
        except BadInput as error:
            raise within("input", error) from None

    if not asked.stream:
        return web.json_response(reply.whole(await work(lambda _: None)))
    stream = EventStream(request)

    async def tell(events: Iterator[dict[str, Any]]) -> None:
        for event in events:
            await stream.send(event)

    async with stream.telling_errors():
        made = await relay(work, lambda told: tell(reply.hear(told)))
        await tell(reply.end(made))
    return stream.response


class Reply:
    """Makes the objects and the numbered events of one response.

    Its output is at most one message, and behind it the calls of tools, in order.
    """

    def __init__(self, model: str, asked: ResponsesRequest) -> None:
        self._model = model
        self._asked = asked
        self._created = int(time.time())
        self._id = f"resp_{uuid.uuid4().hex}"
        self._message_id = f"msg_{uuid.uuid4().hex}"
        # The ids of the items of calls.
        self._call_items: list[str] = []
        self._started: CallStarted | None = None
        self._text: str | None = None
        self._events = 0

    def whole(self, made: Answer) -> dict[str, Any]:
        """The `response` at its end."""
        is_cut = made.finish_reason == "length"
        status = "incomplete" if is_cut else "completed"
        usage = made.usage
        return {
            **self._object(status),
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": self._output(made, status),
            "usage": {
                "input_tokens": usage.prompt_tokens,
                "input_tokens_details": {"cached_tokens": usage.cached_tokens},
                "output_tokens": usage.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            },
        }

    def hear(self, told: str | CallEvent) -> Iterator[dict[str, Any]]:
        """The events of a piece of the answer. The first piece opens the response."""
        yield from self._begin()
        match told:
            case str():
                yield from self._begin_message()
                self._text = (self._text or "") + told
                yield self._of_part("response.output_text.delta", delta=told, logprobs=[])
            case CallStarted():
                yield from self._end_message()
                self._started = told
                item = self._call(told, "in_progress", "")
                at = self._place(told.index)
                yield self._event("response.output_item.added", output_index=at, item=item)
            case ArgumentsDelta(index, text):
                kind = "response.function_call_arguments.delta"
                yield self._of_call(kind, index, delta=text)
            case CallFinished(index, arguments):
                assert self._started is not None
                kind = "response.function_call_arguments.done"
                name = self._started.name
                yield self._of_call(kind, index, name=name, arguments=arguments)
                item = self._call(self._started, "completed", arguments)
                at = self._place(index)
                yield self._event("response.output_item.done", output_index=at, item=item)

    def end(self, made: Answer) -> Iterator[dict[str, Any]]:
        """The events at the end of the response."""
        yield from self._begin()
        whole = self.whole(made)
        if not self._call_items:
            yield from self._begin_message()
            yield from self._end_message(whole["status"])
        yield self._event(f"response.{whole['status']}", response=whole)

    def _output(self, made: Answer, status: str) -> list[dict[str, Any]]:
        calls = [
            self._call(CallStarted(index, call.call_id, call.name), "completed", call.arguments)
            for index, call in enumerate(made.calls)
        ]
        is_spoken = bool(made.text) or not (calls or self._call_items)
        return [*([self._message(status, [_text(made.text)])] if is_spoken else []), *calls]

    def _begin(self) -> Iterator[dict[str, Any]]:
        if self._events:
            return
        for kind in ("response.created", "response.in_progress"):
            yield self._event(kind, response=self._object("in_progress"))

    def _begin_message(self) -> Iterator[dict[str, Any]]:
        if self._text is not None:
            return
        self._text = ""
        item = self._message("in_progress", [])
        yield self._event("response.output_item.added", output_index=0, item=item)
        yield self._of_part("response.content_part.added", part=_text(""))

    def _end_message(self, status: str = "completed") -> Iterator[dict[str, Any]]:
        """The events at the end of the message, if it is open."""
        if self._text is None or self._call_items:
            return
        part = _text(self._text)
        yield self._of_part("response.output_text.done", text=self._text, logprobs=[])
        yield self._of_part("response.content_part.done", part=part)
        item = self._message(status, [part])
        yield self._event("response.output_item.done", output_index=0, item=item)

    def _place(self, index: int) -> int:
        """The index of a call in the output."""
        return index + (self._text is not None)

    def _of_part(self, kind: str, **fields: Any) -> dict[str, Any]:
        return self._event(
            kind, item_id=self._message_id, output_index=0, content_index=0, **fields
        )

    def _of_call(self, kind: str, index: int, **fields: Any) -> dict[str, Any]:
        item_id, at = self._call_items[index], self._place(index)
        return self._event(kind, item_id=item_id, output_index=at, **fields)

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        self._events += 1
        return {"type": kind, "sequence_number": self._events - 1, **fields}

    def _message(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "type": "message",
            "id": self._message_id,
            "status": status,
            "role": "assistant",
            "content": content,
        }

    def _call(self, started: CallStarted, status: str, arguments: str) -> dict[str, Any]:
        while len(self._call_items) <= started.index:
            self._call_items.append(f"fc_{uuid.uuid4().hex}")
        return {
            "type": "function_call",
            "id": self._call_items[started.index],
            "call_id": started.call_id,
            "name": started.name,
            "arguments": arguments,
            "status": status,
        }

    def _object(self, status: str) -> dict[str, Any]:
        asked = self._asked
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.sampling.max_tokens,
            "metadata": asked.metadata,
            "model": self._model,
            "output": [],
            "parallel_tool_calls": asked.tool_choice.parallel,
            "previous_response_id": None,
            "store": False,
            "temperature": asked.sampling.temperature,
            "text": {"format": asked.text.format},
            "tool_choice": shown_choice(asked.tool_choice),
            "tools": [tool.as_option() for tool in asked.tools],
            "top_p": asked.sampling.top_p,
            "truncation": "disabled",
            "usage": None,
        }


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
