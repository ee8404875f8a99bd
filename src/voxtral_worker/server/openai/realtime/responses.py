"""Tells of responses in OpenAI's events, one after the other."""

import base64
import dataclasses
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

from voxtral_worker.engine.tools import ToolCall
from voxtral_worker.errors import WorkerError
from voxtral_worker.server.openai.errors import error_code
from voxtral_worker.server.openai.realtime.items import Item, Items, new_id
from voxtral_worker.server.openai.realtime.session_options import modalities
from voxtral_worker.sessions.events import Answered, Spoken
from voxtral_worker.speech.playback import TURNS_KEPT


class Emit(Protocol):
    """Sends one event."""

    def __call__(self, kind: str, **fields: Any) -> None:
        """`fields` stand beside type and event_id."""


@dataclass
class Response:
    """One response; `turn_id` is the session's name of it."""

    turn_id: str
    response_id: str
    max_output_tokens: int | str
    metadata: dict[str, str] | None
    # Whether it belongs to the conversation.
    joins: bool = True
    # Whether it is speech, of which the words are the transcript.
    speaks: bool = False
    # At most one message, and the calls of tools.
    output: list[Item] = field(default_factory=list)
    # Why it was stopped, before the session says that it was.
    stopped_by: str | None = None
    # Its words that were told, and those that came while another response was open.
    told: str = ""
    waiting: str = ""
    # What was made, while its speech still goes on.
    made: Answered | None = None
    # Calls that were made while another response was open.
    waiting_calls: list[ToolCall] = field(default_factory=list)

    @property
    def message(self) -> Item | None:
        """The message, once it is begun."""
        return next((item for item in self.output if item.call is None), None)

    @property
    def calls(self) -> list[Item]:
        """The calls of tools that are begun."""
        return [item for item in self.output if item.call is not None]

    def as_object(self, conversation_id: str, status: str, **rest: Any) -> dict[str, Any]:
        """As OpenAI shows it, who names no conversation where it belongs to none."""
        return {
            "object": "realtime.response",
            "id": self.response_id,
            "conversation_id": conversation_id if self.joins else None,
            "status": status,
            "status_details": None,
            "output": [],
            "output_modalities": modalities(speaks=self.speaks),
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata,
            "usage": None,
            **rest,
        }


class Responses:
    """At most one response is open; those that wait are opened when it is done.

    One that is spoken is open until its last piece of speech was sent.
    """

    def __init__(self, emit: Emit, items: Items) -> None:
        self._emit = emit
        self._items = items
        self._conversation_id = new_id("conv")
        self._waiting: deque[Response] = deque()
        # The turns of the latest items that were spoken.
        self._spoken: dict[str, str] = {}
        self.current: Response | None = None
        # The item of the response that was closed last, and its turn.
        self._closed: tuple[str, Item] | None = None

    def begin(
        self,
        turn_id: str,
        max_output_tokens: int | str,
        metadata: dict[str, str] | None,
        *,
        joins: bool = True,
        speaks: bool = False,
    ) -> None:
        """A turn will be answered."""
        response = Response(turn_id, new_id("resp"), max_output_tokens, metadata, joins, speaks)
        self._waiting.append(response)
        self._open_next()

    def spoken_turn(self, item_id: str) -> str | None:
        """The turn of an item that was spoken; None for another, or one long past."""
        return self._spoken.get(item_id)

    def stopped(self, turn_id: str | None, reason: str) -> None:
        """The session stops a response, and tells of its end next, or stops its speech alone."""
        response = self._find(turn_id)
        if response is None:
            return
        response.stopped_by = reason
        if response.made is not None:
            if response is not self.current:
                self._waiting.remove(response)
                self._open(response)
            self._finish(response, response.made, "cancelled")

    def delta(self, turn_id: str, text: str) -> None:
        """More words."""
        response = self._find(turn_id)
        if response is None or response.speaks:
            # The words of speech are told with its sound.
            return
        if response is self.current:
            self._tell_words(response, text)
        else:
            response.waiting += text

    def spoken(self, piece: Spoken) -> None:
        """A piece of speech."""
        response = self.current
        if response is None or response.turn_id != piece.turn_id:
            # That of a response that has failed goes on to be heard by nobody.
            return
        self._open_message(response)
        assert response.message is not None
        self._spoken[response.message.item_id] = piece.turn_id
        if len(self._spoken) > TURNS_KEPT:
            del self._spoken[next(iter(self._spoken))]
        self._tell_words(response, piece.text)
        delta = base64.b64encode(piece.data).decode()
        self._tell(response, "response.output_audio.delta", delta=delta)
        if piece.is_final and response.made is not None:
            self._finish(response, response.made)

    def begin_call(self, turn_id: str, index: int, call: ToolCall) -> None:
        """A tool is called; its arguments come next."""
        response = self._now(turn_id)
        if response is not None and index == len(response.calls):
            if not response.speaks:
                # Speech goes on beside the calls.
                self._close_message(response, "completed", response.told)
            self._add(response, Item(new_id("item"), "assistant", call=call))

    def call_delta(self, turn_id: str, index: int, text: str) -> None:
        """More of the arguments."""
        response = self._now(turn_id)
        if response is not None and index < len(response.calls):
            kind = "response.function_call_arguments.delta"
            self._tell_call(response, response.calls[index], kind, delta=text)

    def end_call(self, turn_id: str, index: int, call: ToolCall) -> None:
        """A call is whole."""
        response = self._now(turn_id)
        if response is None:
            waiting = self._find(turn_id)
            if waiting is not None:
                waiting.waiting_calls.append(call)
            return
        if index == len(response.calls):
            # It was begun while another response was open.
            self.begin_call(turn_id, index, dataclasses.replace(call, arguments=""))
            self.call_delta(turn_id, index, call.arguments)
        item = response.calls[index]
        item.call = call
        kind = "response.function_call_arguments.done"
        self._tell_call(response, item, kind, name=call.name, arguments=call.arguments)
        self._done(response, item, "completed")

    def finish(self, made: Answered) -> None:
        """A response is whole, or was stopped."""
        response = self._find(made.turn_id)
        if response is None:
            return
        if made.is_being_spoken or response is not self.current:
            response.made = made
        else:
            self._finish(response, made)

    def _finish(self, response: Response, made: Answered, status: str | None = None) -> None:
        status, reason = status or _status_of(made.finish_reason), response.stopped_by
        if status == "incomplete":
            reason = "max_output_tokens"
        details = {"type": status, "reason": reason} if status != "completed" else None
        if status != "cancelled":
            # What could not be spoken can be read.
            self._tell_words(response, made.text.removeprefix(response.told))
        words = response.told if response.speaks else made.text
        self._close(response, status, details, words, self._usage(made))

    def _tell_words(self, response: Response, text: str) -> None:
        if not text:
            return
        self._open_message(response)
        response.told += text
        kind = "output_audio_transcript" if response.speaks else "output_text"
        self._tell(response, f"response.{kind}.delta", delta=text)

    def fail(self, turn_id: str, error: WorkerError) -> None:
        """A response failed."""
        response = self._of(turn_id)
        if response is None:
            return
        kind = {"type": "server_error", "code": error_code(error)}
        told = {**kind, "message": error.message}
        words = response.told if response.speaks else ""
        self._close(response, "failed", {"type": "failed", "error": told}, words, None)

    def _find(self, turn_id: str | None) -> Response | None:
        """The response of a turn, open or waiting."""
        there = [] if self.current is None else [self.current]
        return next((r for r in (*there, *self._waiting) if r.turn_id == turn_id), None)

    def withdraw(self, turn_id: str) -> None:
        """What was answered last counts as not said."""
        closed = self._closed
        if closed is not None and closed[0] == turn_id:
            item = self._items.find(closed[1].item_id)
            if item is not None:
                self._items.remove(item)
                self._emit("conversation.item.deleted", item_id=item.item_id)

    def _of(self, turn_id: str | None) -> Response | None:
        if self.current is not None and self.current.turn_id == turn_id:
            return self.current
        # One that was refused before its time still has its beginning and its end.
        for response in self._waiting:
            if response.turn_id == turn_id:
                self._waiting.remove(response)
                self._open(response)
                return response
        return None

    def _open_next(self) -> None:
        if self.current is None and self._waiting:
            response = self.current = self._waiting.popleft()
            self._open(response)
            self._tell_words(response, response.waiting)
            for index, call in enumerate(response.waiting_calls):
                self.end_call(response.turn_id, index, call)
            if response.made is not None and not response.made.is_being_spoken:
                self._finish(response, response.made)

    def _now(self, turn_id: str) -> Response | None:
        is_now = self.current is not None and self.current.turn_id == turn_id
        return self.current if is_now else None

    def _open(self, response: Response) -> None:
        shown = response.as_object(self._conversation_id, "in_progress")
        self._emit("response.created", response=shown)

    def _open_message(self, response: Response) -> None:
        """Begin the message, once it is known that there is one."""
        if response.message is None:
            self._add(response, Item(new_id("item"), "assistant"))
            self._tell(response, "response.content_part.added", part=_part(response, ""))

    def _close_message(self, response: Response, status: str, text: str) -> None:
        """The message is whole, if there is one that is not."""
        item = response.message
        if item is None or item.status != "in_progress":
            return
        item.content = [_content(response, text)]
        if response.speaks:
            self._tell(response, "response.output_audio.done")
            self._tell(response, "response.output_audio_transcript.done", transcript=text)
        else:
            self._tell(response, "response.output_text.done", text=text)
        self._tell(response, "response.content_part.done", part=_part(response, text))
        self._done(response, item, status)

    def _add(self, response: Response, item: Item) -> None:
        item.status = "in_progress"
        response.output.append(item)
        self._emit(
            "response.output_item.added",
            response_id=response.response_id,
            output_index=len(response.output) - 1,
            item=item.as_object(),
        )
        if response.joins:
            previous = self._items.add(item)
            shown = item.as_object()
            self._emit("conversation.item.added", previous_item_id=previous, item=shown)

    def _done(self, response: Response, item: Item, status: str) -> None:
        item.status = status
        self._items.changed(item)
        self._emit(
            "response.output_item.done",
            response_id=response.response_id,
            output_index=response.output.index(item),
            item=item.as_object(),
        )
        if response.joins:
            self._emit("conversation.item.done", previous_item_id=None, item=item.as_object())

    def _close(
        self,
        response: Response,
        status: str,
        details: dict[str, Any] | None,
        text: str,
        usage: dict[str, Any] | None,
    ) -> None:
        of_items = "completed" if status == "completed" else "incomplete"
        if not response.output:
            self._open_message(response)
        self._close_message(response, of_items, text)
        for item in response.calls:
            if item.status == "in_progress":
                self._done(response, item, "incomplete")
        shown = response.as_object(
            self._conversation_id,
            status,
            status_details=details,
            output=[item.as_object() for item in response.output],
            usage=usage,
        )
        self._emit("response.done", response=shown)
        message = response.message
        self._closed = None if message is None else (response.turn_id, message)
        if response is self.current:
            self.current = None
            self._open_next()

    def _tell(self, response: Response, kind: str, **fields: Any) -> None:
        message = response.message
        assert message is not None
        self._emit(
            kind,
            response_id=response.response_id,
            item_id=message.item_id,
            output_index=response.output.index(message),
            content_index=0,
            **fields,
        )

    def _tell_call(self, response: Response, item: Item, kind: str, **fields: Any) -> None:
        assert item.call is not None
        self._emit(
            kind,
            response_id=response.response_id,
            item_id=item.item_id,
            output_index=response.output.index(item),
            call_id=item.call.call_id,
            **fields,
        )

    def _usage(self, made: Answered) -> dict[str, Any]:
        prompt, said = made.usage.prompt_tokens, made.usage.completion_tokens
        audio = made.usage.audio_tokens
        return {
            "total_tokens": prompt + said,
            "input_tokens": prompt,
            "output_tokens": said,
            "input_token_details": {
                "text_tokens": prompt - audio,
                "audio_tokens": audio,
                "cached_tokens": made.usage.cached_tokens,
            },
            "output_token_details": {"text_tokens": said, "audio_tokens": 0},
        }


_STATUSES = {"stop": "completed", "tool_calls": "completed", "length": "incomplete"}


def _part(response: Response, words: str) -> dict[str, str]:
    if response.speaks:
        return {"type": "audio", "transcript": words}
    return {"type": "text", "text": words}


def _content(response: Response, words: str) -> dict[str, str]:
    if response.speaks:
        return {"type": "output_audio", "transcript": words}
    return {"type": "output_text", "text": words}


def _status_of(finish_reason: str) -> str:
    return _STATUSES.get(finish_reason, "cancelled")
