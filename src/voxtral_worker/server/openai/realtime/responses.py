"""The order of a session's responses: one after the other."""

from collections import deque

from voxtral_worker.engine.tools import ToolCall
from voxtral_worker.errors import WorkerError
from voxtral_worker.server.openai.realtime.items import Items
from voxtral_worker.server.openai.realtime.response import ClientView, Emit, Response
from voxtral_worker.sessions.events import Answered, Spoken
from voxtral_worker.speech.playback import TURNS_KEPT


class Responses:
    """At most one response is open. Others wait until it has ended.

    A spoken response is open until the last piece of its speech has been sent. A response that
    fails or is stopped while it waits begins and ends at once.
    """

    def __init__(self, emit: Emit, items: Items) -> None:
        self._view = ClientView(emit, items)
        self._waiting: deque[Response] = deque()
        # The turns of the latest messages that were spoken, by item.
        self._spoken: dict[str, str] = {}
        self.current: Response | None = None
        # The response that ended last.
        self._ended: Response | None = None

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
        self._waiting.append(
            Response(self._view, turn_id, max_output_tokens, metadata, joins, speaks)
        )
        self._open_next()

    def delta(self, turn_id: str, text: str) -> None:
        """The next piece of a response's text."""
        response = self._find(turn_id)
        if response is not None:
            response.text(text)

    def speech(self, piece: Spoken) -> None:
        """The next piece of a response's speech."""
        response = self.current
        if response is None or response.turn_id != piece.turn_id:
            # A response that failed has ended, but pieces of its speech may still arrive.
            return
        message = response.speech(piece.text, piece.data)
        self._spoken[message.item_id] = piece.turn_id
        if len(self._spoken) > TURNS_KEPT:
            del self._spoken[next(iter(self._spoken))]
        if piece.is_final and response.answered is not None:
            self._finish(response, response.answered)

    def begin_call(self, turn_id: str, index: int, call: ToolCall) -> None:
        """A response calls a tool; the arguments come next."""
        response = self._find(turn_id)
        if response is not None:
            response.begin_call(index, call)

    def call_delta(self, turn_id: str, index: int, text: str) -> None:
        """The next piece of a call's arguments."""
        response = self._find(turn_id)
        if response is not None:
            response.call_delta(index, text)

    def end_call(self, turn_id: str, index: int, call: ToolCall) -> None:
        """A call is complete."""
        response = self._find(turn_id)
        if response is not None:
            response.end_call(index, call)

    def finish(self, answered: Answered) -> None:
        """A response is complete, or was stopped."""
        response = self._find(answered.turn_id)
        if response is None:
            return
        if answered.is_being_spoken or not response.is_open:
            response.answered = answered
        else:
            self._finish(response, answered)

    def stopped(self, turn_id: str | None, reason: str) -> None:
        """The session stops a response and ends it next, or stops only its speech."""
        response = self._find(turn_id)
        if response is None:
            return
        response.stopped_by = reason
        if response.answered is not None:
            self._open_early(response)
            self._finish(response, response.answered, "cancelled")

    def fail(self, turn_id: str, error: WorkerError) -> None:
        """A response failed."""
        response = self._find(turn_id)
        if response is not None:
            self._open_early(response)
            response.fail(error)
            self._end(response)

    def withdraw(self, turn_id: str) -> None:
        """The answer that ended last counts as not given."""
        ended = self._ended
        if ended is None or ended.turn_id != turn_id or ended.message is None:
            return
        item = self._view.items.find(ended.message.item_id)
        if item is not None:
            self._view.items.remove(item)
            self._view.emit("conversation.item.deleted", item_id=item.item_id)

    def spoken_turn(self, item_id: str) -> str | None:
        """The turn of a message that was spoken; None for any other item, and for old ones."""
        return self._spoken.get(item_id)

    def _find(self, turn_id: str | None) -> Response | None:
        """The response to a turn, open or waiting."""
        is_open = [] if self.current is None else [self.current]
        return next((r for r in (*is_open, *self._waiting) if r.turn_id == turn_id), None)

    def _open_next(self) -> None:
        if self.current is not None or not self._waiting:
            return
        response = self.current = self._waiting.popleft()
        response.open()
        if response.answered is not None and not response.answered.is_being_spoken:
            self._finish(response, response.answered)

    def _open_early(self, response: Response) -> None:
        """Open a response that ends while it waits, although another one is open."""
        if not response.is_open:
            self._waiting.remove(response)
            response.open(with_early=False)

    def _finish(self, response: Response, answered: Answered, status: str | None = None) -> None:
        response.finish(answered, status)
        self._end(response)

    def _end(self, response: Response) -> None:
        self._ended = response
        if response is self.current:
            self.current = None
            self._open_next()
