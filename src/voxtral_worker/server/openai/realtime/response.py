"""One response of the realtime API: its items, and the events about them."""

import base64
import dataclasses
from typing import Any, Protocol

from voxtral_worker.engine.tools import ToolCall
from voxtral_worker.errors import WorkerError
from voxtral_worker.server.openai.errors import error_code
from voxtral_worker.server.openai.realtime.items import Item, Items, new_id
from voxtral_worker.server.openai.realtime.session_options import modalities
from voxtral_worker.sessions.events import Answered


class Emit(Protocol):
    """Sends one event."""

    def __call__(self, kind: str, **fields: Any) -> None:
        """`fields` come after type and event_id."""


@dataclasses.dataclass(frozen=True)
class ClientView:
    """The conversation as its client sees it: its id, its items, and the events about them."""

    emit: Emit
    items: Items
    conversation_id: str = dataclasses.field(default_factory=lambda: new_id("conv"))


@dataclasses.dataclass
class Response:
    """The answer to the turn `turn_id`: at most one message, and the calls of tools.

    Text and calls that come before `open` are kept and sent then.
    """

    view: ClientView = dataclasses.field(repr=False)
    turn_id: str
    max_output_tokens: int | str
    metadata: dict[str, str] | None = None
    # Whether its items belong to the conversation.
    joins: bool = True
    # Whether it is speech. Its text is then the transcript of the speech.
    speaks: bool = False
    response_id: str = dataclasses.field(default_factory=lambda: new_id("resp"))
    output: list[Item] = dataclasses.field(default_factory=list)
    # Why it was stopped. The session reports that before it ends the response.
    stopped_by: str | None = None
    # The complete answer, if it came before the end of its speech or before the response opened.
    answered: Answered | None = None
    is_open: bool = False
    _sent_text: str = ""
    _early_text: str = ""
    _early_calls: list[ToolCall] = dataclasses.field(default_factory=list)

    @property
    def message(self) -> Item | None:
        """The message, once it has begun."""
        return next((item for item in self.output if item.call is None), None)

    @property
    def calls(self) -> list[Item]:
        """The calls of tools that have begun."""
        return [item for item in self.output if item.call is not None]

    def open(self, *, with_early: bool = True) -> None:
        """Begin, with what came early, unless the response ends before its time."""
        self.is_open = True
        self.view.emit("response.created", response=self._as_object("in_progress"))
        if with_early:
            self._send_text(self._early_text)
            for index, call in enumerate(self._early_calls):
                self.end_call(index, call)

    def text(self, text: str) -> None:
        """The next piece of the text; the text of speech comes with its sound."""
        if self.speaks:
            return
        if self.is_open:
            self._send_text(text)
        else:
            self._early_text += text

    def speech(self, text: str, data: bytes) -> Item:
        """The next piece of speech, and the text that begins with it. Returns the message."""
        message = self._begin_message()
        self._send_text(text)
        delta = base64.b64encode(data).decode()
        self._send(message, "response.output_audio.delta", delta=delta)
        return message

    def begin_call(self, index: int, call: ToolCall) -> None:
        """A tool is called; its arguments come next."""
        if self.is_open and index == len(self.calls):
            if not self.speaks:
                # With calls the speech of the message continues.
                self._end_message("completed", self._sent_text)
            self._add(Item(new_id("item"), "assistant", call=call))

    def call_delta(self, index: int, text: str) -> None:
        """The next piece of a call's arguments."""
        if self.is_open and index < len(self.calls):
            kind = "response.function_call_arguments.delta"
            self._send(self.calls[index], kind, delta=text)

    def end_call(self, index: int, call: ToolCall) -> None:
        """A call is complete."""
        if not self.is_open:
            self._early_calls.append(call)
            return
        if index == len(self.calls):
            # It began before the response was open.
            self.begin_call(index, dataclasses.replace(call, arguments=""))
            self.call_delta(index, call.arguments)
        item = self.calls[index]
        item.call = call
        kind = "response.function_call_arguments.done"
        self._send(item, kind, name=call.name, arguments=call.arguments)
        self._end_item(item, "completed")

    def finish(self, answered: Answered, status: str | None = None) -> None:
        """End with a complete answer, or one that was stopped."""
        status, reason = status or _status_of(answered.finish_reason), self.stopped_by
        if status == "incomplete":
            reason = "max_output_tokens"
        details = {"type": status, "reason": reason} if status != "completed" else None
        if status != "cancelled":
            # If speech failed, the rest of the answer is sent as text.
            self._send_text(answered.text.removeprefix(self._sent_text))
        text = self._sent_text if self.speaks else answered.text
        self._end(status, details, text, _usage_of(answered))

    def fail(self, error: WorkerError) -> None:
        """End with an error."""
        shown = {"type": "server_error", "code": error_code(error), "message": error.message}
        text = self._sent_text if self.speaks else ""
        self._end("failed", {"type": "failed", "error": shown}, text, None)

    def _end(
        self,
        status: str,
        details: dict[str, Any] | None,
        text: str,
        usage: dict[str, Any] | None,
    ) -> None:
        of_items = "completed" if status == "completed" else "incomplete"
        if not self.output:
            self._begin_message()
        self._end_message(of_items, text)
        for item in self.calls:
            if item.status == "in_progress":
                self._end_item(item, "incomplete")
        output = [item.as_object() for item in self.output]
        shown = self._as_object(status, status_details=details, output=output, usage=usage)
        self.view.emit("response.done", response=shown)

    def _as_object(self, status: str, **rest: Any) -> dict[str, Any]:
        """The response as a JSON object of OpenAI's."""
        return {
            "object": "realtime.response",
            "id": self.response_id,
            "conversation_id": self.view.conversation_id if self.joins else None,
            "status": status,
            "status_details": None,
            "output": [],
            "output_modalities": modalities(speaks=self.speaks),
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata,
            "usage": None,
            **rest,
        }

    def _send_text(self, text: str) -> None:
        if not text:
            return
        message = self._begin_message()
        self._sent_text += text
        kind = "output_audio_transcript" if self.speaks else "output_text"
        self._send(message, f"response.{kind}.delta", delta=text)

    def _begin_message(self) -> Item:
        """The message, which begins once it is known that there is one."""
        if self.message is not None:
            return self.message
        message = Item(new_id("item"), "assistant")
        self._add(message)
        part = _part("", speaks=self.speaks)
        self._send(message, "response.content_part.added", part=part)
        return message

    def _end_message(self, status: str, text: str) -> None:
        """End the message, if there is one that has not ended."""
        item = self.message
        if item is None or item.status != "in_progress":
            return
        if self.speaks:
            item.content = [{"type": "output_audio", "transcript": text}]
            self._send(item, "response.output_audio.done")
            self._send(item, "response.output_audio_transcript.done", transcript=text)
        else:
            item.content = [{"type": "output_text", "text": text}]
            self._send(item, "response.output_text.done", text=text)
        part = _part(text, speaks=self.speaks)
        self._send(item, "response.content_part.done", part=part)
        self._end_item(item, status)

    def _add(self, item: Item) -> None:
        item.status = "in_progress"
        self.output.append(item)
        previous = self.view.items.add(item) if self.joins else None
        self._send_item("added", item, previous)

    def _end_item(self, item: Item, status: str) -> None:
        item.status = status
        self.view.items.changed(item)
        self._send_item("done", item, None)

    def _send_item(self, stage: str, item: Item, previous: str | None) -> None:
        """An event about an item as a whole."""
        emit, shown = self.view.emit, item.as_object()
        emit(
            f"response.output_item.{stage}",
            response_id=self.response_id,
            output_index=self.output.index(item),
            item=shown,
        )
        if self.joins:
            emit(f"conversation.item.{stage}", previous_item_id=previous, item=shown)

    def _send(self, item: Item, kind: str, **fields: Any) -> None:
        """An event about a part of an item: the one content of the message, or a call."""
        part = {"content_index": 0} if item.call is None else {"call_id": item.call.call_id}
        self.view.emit(
            kind,
            response_id=self.response_id,
            item_id=item.item_id,
            output_index=self.output.index(item),
            **part,
            **fields,
        )


_STATUSES = {"stop": "completed", "tool_calls": "completed", "length": "incomplete"}


def _status_of(finish_reason: str) -> str:
    return _STATUSES.get(finish_reason, "cancelled")


def _part(text: str, *, speaks: bool) -> dict[str, str]:
    """The content of a message as the events about it show it."""
    return {"type": "audio", "transcript": text} if speaks else {"type": "text", "text": text}


def _usage_of(answered: Answered) -> dict[str, Any]:
    usage = answered.usage
    return {
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "input_token_details": {
            "text_tokens": usage.prompt_tokens - usage.audio_tokens,
            "audio_tokens": usage.audio_tokens,
            "cached_tokens": usage.cached_tokens,
        },
        "output_token_details": {"text_tokens": usage.completion_tokens, "audio_tokens": 0},
    }
