"""Tells of responses in OpenAI's events, one after the other."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from voxtral_worker.server.openai.errors import error_code
from voxtral_worker.server.openai.realtime.items import Item, Items, new_id
from voxtral_worker.sessions.messages import ErrorMessage, TextDelta, TextResponse


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
    item: Item = field(default_factory=lambda: Item(new_id("item"), "assistant"))
    # Why it was stopped, before the session says that it was.
    stopped_by: str | None = None

    def as_object(self, conversation_id: str, status: str, **rest: Any) -> dict[str, Any]:
        """As OpenAI shows it."""
        return {
            "object": "realtime.response",
            "id": self.response_id,
            "conversation_id": conversation_id,
            "status": status,
            "status_details": None,
            "output": [],
            "output_modalities": ["text"],
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata,
            "usage": None,
            **rest,
        }


class Responses:
    """At most one response is open; those that wait are opened when it is done."""

    def __init__(self, emit: Emit, items: Items, audio_tokens: Callable[[], int]) -> None:
        self._emit = emit
        self._items = items
        self._audio_tokens = audio_tokens
        self._conversation_id = new_id("conv")
        self._waiting: deque[Response] = deque()
        self.current: Response | None = None

    def begin(
        self, turn_id: str, max_output_tokens: int | str, metadata: dict[str, str] | None
    ) -> None:
        """A turn will be answered."""
        response = Response(turn_id, new_id("resp"), max_output_tokens, metadata)
        self._waiting.append(response)
        self._open_next()

    def stopped(self, turn_id: str | None, reason: str) -> None:
        """The session stops a response; it tells of its end next."""
        if self.current is not None and self.current.turn_id == turn_id:
            self.current.stopped_by = reason

    def delta(self, delta: TextDelta) -> None:
        """More words."""
        response = self.current
        if response is not None and response.turn_id == delta.turn_id:
            self._tell(response, "response.output_text.delta", delta=delta.text)

    def finish(self, made: TextResponse) -> None:
        """A response is whole, or was stopped."""
        response = self._of(made.turn_id)
        if response is None:
            return
        status, reason = _status_of(made.finish_reason), response.stopped_by
        if status == "incomplete":
            reason = "max_output_tokens"
        details = {"type": status, "reason": reason} if status != "completed" else None
        self._close(response, status, details, made.text, self._usage(made))

    def fail(self, failed: ErrorMessage) -> None:
        """A response failed."""
        response = self._of(failed.turn_id)
        if response is None:
            return
        error = {"type": "server_error", "code": error_code(failed.error)}
        told = {**error, "message": failed.error.message}
        self._close(response, "failed", {"type": "failed", "error": told}, "", None)

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
            self.current = self._waiting.popleft()
            self._open(self.current)

    def _open(self, response: Response) -> None:
        item = response.item
        item.status = "in_progress"
        shown = response.as_object(self._conversation_id, "in_progress")
        self._emit("response.created", response=shown)
        self._emit(
            "response.output_item.added",
            response_id=response.response_id,
            output_index=0,
            item=item.as_object(),
        )
        previous = self._items.add(item)
        self._emit("conversation.item.added", previous_item_id=previous, item=item.as_object())
        self._tell(response, "response.content_part.added", part={"type": "text", "text": ""})

    def _close(
        self,
        response: Response,
        status: str,
        details: dict[str, Any] | None,
        text: str,
        usage: dict[str, Any] | None,
    ) -> None:
        item = response.item
        item.status = "completed" if status == "completed" else "incomplete"
        item.content = [{"type": "output_text", "text": text}]
        self._tell(response, "response.output_text.done", text=text)
        self._tell(response, "response.content_part.done", part={"type": "text", "text": text})
        self._emit(
            "response.output_item.done",
            response_id=response.response_id,
            output_index=0,
            item=item.as_object(),
        )
        self._emit("conversation.item.done", previous_item_id=None, item=item.as_object())
        shown = response.as_object(
            self._conversation_id,
            status,
            status_details=details,
            output=[item.as_object()],
            usage=usage,
        )
        self._emit("response.done", response=shown)
        if response is self.current:
            self.current = None
            self._open_next()

    def _tell(self, response: Response, kind: str, **fields: Any) -> None:
        self._emit(
            kind,
            response_id=response.response_id,
            item_id=response.item.item_id,
            output_index=0,
            content_index=0,
            **fields,
        )

    def _usage(self, made: TextResponse) -> dict[str, Any]:
        prompt, said = made.usage["prompt_tokens"], made.usage["completion_tokens"]
        # One that was stopped does not know what its prompt was.
        audio = min(self._audio_tokens(), prompt)
        return {
            "total_tokens": prompt + said,
            "input_tokens": prompt,
            "output_tokens": said,
            "input_token_details": {
                "text_tokens": prompt - audio,
                "audio_tokens": audio,
                "cached_tokens": made.usage["cached_tokens"],
            },
            "output_token_details": {"text_tokens": said, "audio_tokens": 0},
        }


def _status_of(finish_reason: str) -> str:
    return {"stop": "completed", "length": "incomplete"}.get(finish_reason, "cancelled")
