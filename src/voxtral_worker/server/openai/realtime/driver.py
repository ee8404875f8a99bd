"""Drives a session as everywhere, and translates: OpenAI's events in, OpenAI's events out."""

import dataclasses
import json
import time
from typing import TYPE_CHECKING, Any

from voxtral_worker import metrics
from voxtral_worker.engine.conversation import Audio
from voxtral_worker.errors import BadInput, NotReady, WorkerError
from voxtral_worker.server.connection import Connection
from voxtral_worker.server.driver import Item as InboxItem
from voxtral_worker.server.driver import SessionDriver
from voxtral_worker.server.observer import Observer
from voxtral_worker.server.openai.errors import (
    BadOption,
    SessionExpired,
    error_object,
    unsupported,
    within,
)
from voxtral_worker.server.openai.options import Options
from voxtral_worker.server.openai.realtime.audio_buffer import AudioBuffer, too_short
from voxtral_worker.server.openai.realtime.client_event import ClientEvent
from voxtral_worker.server.openai.realtime.items import Item, Items, new_id
from voxtral_worker.server.openai.realtime.messages import read_item, read_response
from voxtral_worker.server.openai.realtime.responses import Responses
from voxtral_worker.server.openai.realtime.session_options import FORMATS, SessionOptions, as_tokens
from voxtral_worker.server.openai.realtime.transcriber import Transcriber
from voxtral_worker.sessions.effects import LineName
from voxtral_worker.sessions.messages import (
    ErrorMessage,
    ServerMessage,
    Status,
    TextDelta,
    TextResponse,
)
from voxtral_worker.sessions.session import Session

if TYPE_CHECKING:
    from voxtral_worker.engine.engine import Engine
    from voxtral_worker.turns.vad import Vad

MAX_UNANSWERED = 64


def error_event(error: WorkerError, event_id: str | None) -> dict[str, Any]:
    """An `error`; `event_id` is the client's event that it is about."""
    told = {**error_object(error), "event_id": event_id}
    return {"type": "error", "event_id": new_id("event"), "error": told}


class RealtimeDriver(SessionDriver):
    """One connection, on the line of audio; the session ends with it."""

    is_open_to_sockets = False

    def __init__(
        self,
        session: Session,
        engine: "Engine",
        vad: "Vad",
        observer: Observer,
        *,
        model: str,
        options: SessionOptions,
        max_turn_s: float,
    ) -> None:
        super().__init__(session, engine, vad, observer)
        # The event that is being read, for errors that come before it is in the inbox.
        self.reading_id: str | None = None
        self._model = model
        self._options = options
        self._max_turn_s = max_turn_s
        self._items = Items()
        self._responses = Responses(self._emit, self._items, self._audio_tokens)
        self._transcriber = Transcriber(engine, self._emit, self._context)
        self._turn_items: dict[str, str] = {}
        self._metadata: dict[str, str] | None = None
        self._most_tokens: int | str | None = None
        self._buffer = self._new_buffer()

    def attach(
        self, line: LineName, connection: Connection, *, waits_for_replay: bool = False
    ) -> None:
        """Greet the one connection."""
        self._connections[line] = connection
        self._emit("session.created", session=self._session_object())

    def tell(self, message: ServerMessage) -> None:
        """Say something to the one connection."""
        self._send(LineName.AUDIO, message)

    async def close(self, code: int, reason: str) -> None:
        """See SessionDriver; transcripts under way end too."""
        await self._transcriber.stop()
        await super().close(code, reason)

    def note_activity(self) -> None:
        """The client does something."""
        self.session.last_activity_s = time.monotonic()

    # What comes in.

    async def _handle(self, line: LineName, item: InboxItem) -> None:
        if not isinstance(item, ClientEvent):
            await super()._handle(line, item)
            return
        try:
            await self._take(item)
        except WorkerError as error:
            self._tell_error(error, item.event_id)

    async def _take(self, event: ClientEvent) -> None:
        match event.kind:
            case "session.update":
                self._update(event.options)
            case "input_audio_buffer.append":
                await self._append(event.audio)
            case "input_audio_buffer.commit":
                self._commit()
            case "input_audio_buffer.clear":
                self._buffer.clear()
                self._forget_open_turn()
                self._emit("input_audio_buffer.cleared")
            case "conversation.item.create":
                self._create_item(event.options)
            case "conversation.item.retrieve":
                item = self._items.get(event.options.get("item_id"))
                self._emit("conversation.item.retrieved", item=item.as_object())
            case "conversation.item.delete":
                self._delete_item(event.options.get("item_id"))
            case "response.create":
                self._respond(event.options)
            case "response.cancel":
                self._cancel(event.options.get("response_id"))

    def _update(self, options: Options) -> None:
        session = Options.of(options.get("session"), "session")
        before, self._options = self._options, self._options.updated(session, self._model)
        if (before.format, before.turn_detection is None) != (
            self._options.format,
            self._options.turn_detection is None,
        ):
            # What is half said was said under other rules.
            self._forget_open_turn()
            self._buffer = self._new_buffer()
        self.perform(self.session.use_config(self._options.config()))
        self._emit("session.updated", session=self._session_object())

    def _forget_open_turn(self) -> None:
        self.perform(self.session.forget_open_turn())
        self._turn_items.clear()

    async def _append(self, chunk: bytes) -> None:
        try:
            if self._options.turn_detection is not None:
                await self._hear(chunk)
                return
            self._buffer.push(chunk)
        except BadInput as error:
            raise within("audio", error) from None
        self.session.audio_bytes_received += len(chunk)
        metrics.audio_bytes.inc(len(chunk))

    def _commit(self) -> None:
        if self._options.turn_detection is not None:
            self.perform(self.session.end_turn(LineName.AUDIO, time.monotonic()))
            return
        self._require_room()
        audio = Audio(self._buffer.take())
        item_id = new_id("item")
        self.perform(self.session.say(item_id, (audio,)))
        self._add_spoken(item_id, item_id, audio)

    def _create_item(self, options: Options) -> None:
        previous = options.get("previous_item_id")
        if previous not in (None, self._items.last_id or "root"):
            raise unsupported("previous_item_id", "items can only be added at the end")
        item, parts = read_item(Options.of(options.get("item"), "item"), self._samples_of)
        if self._items.find(item.item_id) is not None:
            raise BadOption("item.id", f"there is an item {item.item_id!r} already")
        if item.role == "assistant":
            text = "".join(part for part in parts if isinstance(part, str))
            self.perform(self.session.remember(text))
        else:
            self._require_room()
            self.perform(self.session.say(item.item_id, parts))
        self._add(item)

    def _delete_item(self, item_id: object) -> None:
        item = self._items.get(item_id)
        effects = self.session.unsay(item.key)
        if effects is None:
            raise unsupported("item_id", "items that belong to an answer cannot be deleted")
        self.perform(effects)
        self._items.remove(item)
        self._emit("conversation.item.deleted", item_id=item.item_id)

    def _respond(self, options: Options) -> None:
        current = self._responses.current
        if current is not None:
            raise BadOption(
                None,
                f"the response {current.response_id} is still being made",
                "conversation_already_has_active_response",
            )
        asked = read_response(options.inner("response"))
        config = self.session.config
        if asked.instructions is not None:
            config = dataclasses.replace(config, system_prompt=asked.instructions or None)
        if asked.max_output_tokens is not None:
            config = dataclasses.replace(config, max_length=as_tokens(asked.max_output_tokens))
        effects = self.session.respond(LineName.AUDIO, time.monotonic(), config)
        self._metadata, self._most_tokens = asked.metadata, asked.max_output_tokens
        try:
            self.perform(effects)
        finally:
            self._metadata = self._most_tokens = None

    def _cancel(self, response_id: object) -> None:
        current = self._responses.current
        if current is None or response_id not in (None, current.response_id):
            raise BadOption(
                "response_id", "there is no such response to cancel", "response_cancel_not_active"
            )
        self.perform(self.session.cancel(LineName.AUDIO, time.monotonic()))

    def _require_room(self) -> None:
        if self.session.unanswered >= MAX_UNANSWERED:
            raise BadInput(f"{MAX_UNANSWERED} items wait for an answer: ask for a response")

    def _samples_of(self, data: bytes) -> Audio:
        buffer = self._new_buffer()
        buffer.push(data)
        return Audio(buffer.take())

    def _new_buffer(self) -> AudioBuffer:
        return AudioBuffer(*FORMATS[self._options.format], self._max_turn_s)

    # What goes out.

    def refuse(self, line: LineName, error: WorkerError) -> None:
        """Tell the client that the event that is being read was not taken."""
        self._tell_error(error, self.reading_id)

    def _send(self, line: LineName, message: ServerMessage) -> None:
        match message:
            case Status():
                self._note(message)
                self._tell_status(message)
            case TextDelta():
                self._responses.delta(message)
            case TextResponse():
                self._note(message)
                self._responses.finish(message)
            case ErrorMessage(error, None):
                self._tell_error(error, None)
            case ErrorMessage():
                self._note(message)
                self._responses.fail(message)

    def _tell_status(self, message: Status) -> None:
        turn_id = message.turn_id
        match message.status:
            case "speech_started" if turn_id is not None and message.heard is not None:
                item_id = self._turn_items[turn_id] = new_id("item")
                self._emit(
                    "input_audio_buffer.speech_started",
                    audio_start_ms=message.heard.start_ms,
                    item_id=item_id,
                )
            case "speech_ended" if turn_id is not None:
                self._end_speech(turn_id, message)
            case "processing" if turn_id is not None:
                most = self._most_tokens or self._options.max_output_tokens
                self._responses.begin(turn_id, most, self._metadata)
            case "interrupted":
                self._responses.stopped(turn_id, "turn_detected")
            case "cancelled":
                self._responses.stopped(turn_id, "client_cancelled")
            case "no_speech":
                self._tell_error(too_short(0.0), None)
            case "draining":
                self._tell_error(NotReady("the worker is going away: connect elsewhere"), None)
            case "session_expired":
                self._tell_error(SessionExpired("the session was quiet for too long"), None)

    def _end_speech(self, turn_id: str, message: Status) -> None:
        item_id = self._turn_items.pop(turn_id)
        heard = message.heard
        if heard is None or heard.audio is None:
            return
        self._emit("input_audio_buffer.speech_stopped", audio_end_ms=heard.end_ms, item_id=item_id)
        self._add_spoken(item_id, turn_id, heard.audio)

    def _add_spoken(self, item_id: str, key: str, audio: Audio) -> None:
        self._emit(
            "input_audio_buffer.committed", previous_item_id=self._items.last_id, item_id=item_id
        )
        content = {"type": "input_audio", "transcript": None}
        item = Item(item_id, "user", [content], key=key)
        self._add(item)
        if self._options.transcription is not None:
            self._transcriber.start(item, audio, self._options.transcription.language)

    def _add(self, item: Item) -> None:
        previous = self._items.add(item)
        for kind in ("conversation.item.added", "conversation.item.done"):
            self._emit(kind, previous_item_id=previous, item=item.as_object())

    def _tell_error(self, error: WorkerError, event_id: str | None) -> None:
        self._note(ErrorMessage(error))
        self._put(error_event(error, event_id))

    def _emit(self, kind: str, **fields: Any) -> None:
        self._put({"type": kind, "event_id": new_id("event"), **fields})

    def _put(self, event: dict[str, Any]) -> None:
        connection = self._connections.get(LineName.AUDIO)
        if connection is not None:
            connection.send(json.dumps(event, ensure_ascii=False))

    def _session_object(self) -> dict[str, Any]:
        return self._options.as_object(self.session.session_id, self._model)

    def _audio_tokens(self) -> int:
        turns = [exchange.user for exchange in self.session.history]
        return sum(part.tokens for turn in turns for part in turn.parts if isinstance(part, Audio))
