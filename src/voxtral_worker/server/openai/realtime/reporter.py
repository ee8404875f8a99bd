"""Writes the events of a session as OpenAI's events, and keeps the items that they show."""

import json
from collections.abc import Callable
from typing import Any, assert_never

from voxtral_worker.engine.conversation import Audio
from voxtral_worker.engine.tools import ToolCall
from voxtral_worker.errors import NotReady, WorkerError
from voxtral_worker.server.channels import AUDIO
from voxtral_worker.server.driver import Driver
from voxtral_worker.server.openai.errors import SessionExpired, error_object
from voxtral_worker.server.openai.realtime.audio_buffer import nothing_heard
from voxtral_worker.server.openai.realtime.items import Item, Items, new_id
from voxtral_worker.server.openai.realtime.response_options import ResponseOptions
from voxtral_worker.server.openai.realtime.responses import Responses
from voxtral_worker.server.openai.realtime.session_options import SessionOptions
from voxtral_worker.server.openai.realtime.transcriber import Transcriber
from voxtral_worker.sessions import events

_STOPPED = {
    events.Why.SPOKEN_OVER: "turn_detected",
    events.Why.CANCELLED: "client_cancelled",
}


def error_event(error: WorkerError, event_id: str | int | None) -> dict[str, Any]:
    """An `error` event about the client's event `event_id`."""
    told = {**error_object(error), "event_id": event_id}
    return {"type": "error", "event_id": new_id("event"), "error": told}


class Reporter:
    """Sends events to the one connection of a session, while it is open."""

    def __init__(self, driver: Driver[Any], options: Callable[[], SessionOptions]) -> None:
        """`options` returns the options in effect."""
        self._driver = driver
        self._options = options
        self.items = Items()
        driver.session.memory.hold_spare(lambda: self.items)
        self.responses = Responses(self.emit, self.items)
        self._transcriber = Transcriber(
            driver.engine, self.emit, driver.context, self.items, driver.session.memory
        )
        # The items of open spoken turns, by turn.
        self._turn_items: dict[str, str] = {}
        # The item of the spoken turn that ended last. The turn may be reopened.
        self._last_item_id = ""

    def report(self, event: events.Event) -> None:
        """Write one event of the session."""
        match event:
            case events.SpeechStarted(turn_id, start_ms):
                item_id = self._turn_items[turn_id] = new_id("item")
                kind = "input_audio_buffer.speech_started"
                self.emit(kind, audio_start_ms=start_ms, item_id=item_id)
            case events.SpeechEnded(turn_id):
                item_id = self._last_item_id = self._turn_items.pop(turn_id)
                kind = "input_audio_buffer.speech_stopped"
                self.emit(kind, audio_end_ms=event.end_ms, item_id=item_id)
                self.add_spoken(item_id, turn_id, event.audio)
            case events.TurnReopened():
                self._reopen(event)
            case events.NoSpeech():
                self._driver.refuse(AUDIO, nothing_heard())
            case events.Accepted(turn_id, tag):
                self._begin_response(turn_id, tag)
            case events.Delta(turn_id, text):
                self.responses.delta(turn_id, text)
            case events.CallBegun(turn_id, index, call_id, name):
                self.responses.begin_call(turn_id, index, ToolCall(call_id, name, ""))
            case events.CallDelta(turn_id, index, text):
                self.responses.call_delta(turn_id, index, text)
            case events.CallMade(turn_id, index, call):
                self.responses.end_call(turn_id, index, call)
            case events.Spoken():
                self.responses.speech(event)
            case events.Stopped(turn_id, why):
                self.responses.stopped(turn_id, _STOPPED[why])
            case events.Answered():
                self.responses.finish(event)
            case events.Failed(turn_id, error):
                self.responses.fail(turn_id, error)
            case events.Refused(error):
                self._put(error_event(error, error.about))
            case events.Draining():
                self._driver.refuse(AUDIO, NotReady("the worker is going away: connect elsewhere"))
            case events.Expired():
                self._driver.refuse(AUDIO, SessionExpired("the session was quiet for too long"))
            case (
                events.Partial()
                | events.Transcript()
                | events.HistoryTrimmed()
                | events.HistoryCleared()
                | events.ConfigChanged()
            ):
                # OpenAI has no such events. Where a client's event asked for the change, the code
                # that handles it sends the reply.
                pass
            case _:
                assert_never(event)

    def emit(self, kind: str, **fields: Any) -> None:
        """Send one event; `fields` come after type and event_id."""
        self._put({"type": kind, "event_id": new_id("event"), **fields})

    def add(self, item: Item) -> None:
        """Append an item, and report it."""
        previous = self.items.add(item)
        self._driver.session.memory.fit()
        for kind in ("conversation.item.added", "conversation.item.done"):
            self.emit(kind, previous_item_id=previous, item=item.as_object())

    def add_spoken(self, item_id: str, key: str, audio: Audio) -> None:
        """Append the item of a spoken turn, and transcribe it if the session asks for that.

        The item of a turn that was reopened exists already. It gets the new audio, and stays where
        it is.
        """
        content = {"type": "input_audio", "transcript": None}
        item = self.items.find(item_id)
        if item is None:
            item = Item(item_id, "user", [content], key=key)
            self._commit(self.items.last_id, item_id)
            self.add(item)
        else:
            item.content = [content]
            self.items.changed(item)
            previous = self.items.before(item_id)
            self._commit(previous, item_id)
            shown = item.as_object()
            self.emit("conversation.item.done", previous_item_id=previous, item=shown)
        transcription = self._options().transcription
        if transcription is not None:
            self._transcriber.start(item, audio, transcription.language)

    def _commit(self, previous: str | None, item_id: str) -> None:
        self.emit("input_audio_buffer.committed", previous_item_id=previous, item_id=item_id)

    def _reopen(self, reopened: events.TurnReopened) -> None:
        """The item of the last turn will get more audio; the item of its answer is deleted."""
        item_id = self._turn_items[reopened.turn_id] = self._last_item_id
        self._transcriber.forget(item_id)
        self.responses.withdraw(reopened.turn_id)
        kind = "input_audio_buffer.speech_started"
        self.emit(kind, audio_start_ms=reopened.start_ms, item_id=item_id)

    def forget_open_turns(self) -> None:
        """Discard open turns: they will not become items."""
        self._turn_items.clear()

    async def close(self) -> None:
        """Stop transcriptions in progress."""
        await self._transcriber.stop()

    def _begin_response(self, turn_id: str, tag: events.Tag) -> None:
        # A spoken turn is answered without a `response.create`, so it has no options of its own.
        asked = tag if isinstance(tag, ResponseOptions) else ResponseOptions()
        most = asked.max_output_tokens or self._options().max_output_tokens
        speaks = self._options().speaks if asked.speaks is None else asked.speaks
        self.responses.begin(turn_id, most, asked.metadata, joins=asked.joins, speaks=speaks)

    def _put(self, event: dict[str, Any]) -> None:
        connection = self._driver.channels.find(AUDIO)
        if connection is not None:
            connection.send(json.dumps(event, ensure_ascii=False))
