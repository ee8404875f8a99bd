"""OpenAI's realtime dialect: what its client's events ask of a session."""

import time
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

from voxtral_worker.engine.conversation import Audio
from voxtral_worker.engine.dialogue import Said, dialogue, exchanges
from voxtral_worker.errors import BadInput, TooLarge, WorkerError, about
from voxtral_worker.server.channels import AUDIO
from voxtral_worker.server.connection import Connection
from voxtral_worker.server.driver import Driver
from voxtral_worker.server.gate.session_limits import SessionLimits
from voxtral_worker.server.openai.errors import BadOption, unsupported, within
from voxtral_worker.server.openai.models import ModelNames
from voxtral_worker.server.openai.options import Options, gathered, wrong
from voxtral_worker.server.openai.realtime.audio_buffer import AudioBuffer
from voxtral_worker.server.openai.realtime.client_event import (
    ClientEvent,
    event_id_of,
    read_event,
)
from voxtral_worker.server.openai.realtime.items import Item, new_id
from voxtral_worker.server.openai.realtime.messages import Wishes, read_item, read_response
from voxtral_worker.server.openai.realtime.reporter import Reporter
from voxtral_worker.server.openai.realtime.session_options import (
    FORMATS,
    SessionOptions,
    as_tokens,
    config_of_tools,
)
from voxtral_worker.server.tools import require_callable
from voxtral_worker.sessions import events
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import Channel, Effect
from voxtral_worker.sessions.memory import LONGEST_ANSWER_BYTES

MAX_UNANSWERED = 64
# The frame that a buffer ends with.
MARGIN_BYTES = 8192
# A second of audio at the limit of bytes a second, in base64, and more.
MAX_EVENT_BYTES = 2 << 20
# An hour, which no answer is as long as.
MAX_AUDIO_MS = 3_600_000
AUDIO_EVENTS = ("input_audio_buffer.append", "conversation.item.create")


class RealtimeDialect:
    """One connection, on the channel of audio; nothing is numbered or said again."""

    # No worker takes such a session over: it ends with its connection.
    seqs: Mapping[str, int] = MappingProxyType({})

    def __init__(
        self,
        driver: "Driver[RealtimeDialect]",
        *,
        names: ModelNames,
        options: SessionOptions,
        max_turn_s: float,
    ) -> None:
        self._driver = driver
        self._session = driver.session
        self._names = names
        self._options = options
        self._max_turn_s = max_turn_s
        self._reporter = Reporter(driver, lambda: self._options)
        self._items = self._reporter.items
        self._emit = self._reporter.emit
        self._buffer = self._new_buffer()
        self._session.memory.hold(lambda: self._buffer.bytes)

    def attach(self, connection: Connection) -> None:
        """Greet the one connection."""
        self._driver.channels.attach(AUDIO, connection)
        self._emit("session.created", session=self._session_object())

    def tell(self, event: events.Event, _: Channel) -> None:
        """See Dialect."""
        self._reporter.report(event)

    async def close(self) -> None:
        """See Dialect."""
        await self._reporter.close()

    # What comes in.

    def read(self, _: str, data: str | bytes, size: int, limits: SessionLimits) -> ClientEvent:
        """See Dialect. Raises BadInput, BadOption, TooLarge or RateLimited."""
        if isinstance(data, bytes):
            raise BadInput("events are texts of JSON; audio goes into input_audio_buffer.append")
        if size > MAX_EVENT_BYTES:
            raise TooLarge(
                f"an event may have at most {MAX_EVENT_BYTES} bytes, this one has {size}"
            )
        # Audio comes as text here. What does not even name such an event is counted before it
        # is read.
        may_hold_audio = any(kind in data for kind in AUDIO_EVENTS)
        if not may_hold_audio:
            limits.check_message(size)
        value, event_id = event_id_of(data)
        with about(event_id):
            event = read_event(value, event_id)
            if may_hold_audio and event.kind not in AUDIO_EVENTS:
                limits.check_message(size)
            _count(event, size, limits)
        self._session.last_activity_s = time.monotonic()
        return event

    async def take(self, _: str, event: ClientEvent) -> None:
        """See Dialect."""
        with about(event.event_id):
            match event.kind:
                case "session.update":
                    await self._update(event.options)
                case "input_audio_buffer.append":
                    await self._append(event)
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
                case "conversation.item.truncate":
                    self._truncate(event.options)
                case "response.create":
                    await self._respond(event.options)
                case "response.cancel":
                    self._cancel(event.options.get("response_id"))

    async def _update(self, options: Options) -> None:
        before = self._options
        updated = gathered(
            options.get("session"), "session", lambda session: before.updated(session, self._names)
        )
        await require_callable(self._driver.engine, updated.tools)
        config = updated.config()
        if config.turn_detection == "semantic" and not self._session.has_scorer:
            raise BadOption(
                "session.audio.input.turn_detection.type",
                "session.audio.input.turn_detection.type is 'semantic_vad', but this worker has "
                "no turn model (its setting TURN_MODEL): use 'server_vad'",
            )
        self._require_voice(config.voice, "session")
        self._driver.perform(self._session.use_config(config))
        self._options = updated
        if (before.format, before.turn_detection is None) != (
            self._options.format,
            self._options.turn_detection is None,
        ):
            # What is half said was said under other rules.
            self._forget_open_turn()
            self._buffer = self._new_buffer()
            self._driver.ears.look_anew()
        self._emit("session.updated", session=self._session_object())

    def _forget_open_turn(self) -> None:
        self._driver.perform(self._session.listening.forget_turn())
        self._reporter.forget_open_turns()

    async def _append(self, event: ClientEvent) -> None:
        chunk, ears = event.audio, self._driver.ears
        refuse = partial(self._refuse, event.event_id)
        try:
            if self._options.turn_detection is not None:
                await ears.hear(chunk, refuse)
                return
            ears.look(chunk, refuse)
            self._session.memory.require(self._buffer.bytes_of(chunk) + LONGEST_ANSWER_BYTES)
            self._buffer.push(chunk)
        except BadInput as error:
            raise within("audio", error) from None
        ears.count(chunk)

    def _refuse(self, event_id: str | None, error: WorkerError) -> None:
        error.about = event_id
        self._driver.refuse(AUDIO, error)

    def _commit(self) -> None:
        if self._options.turn_detection is not None:
            self._driver.perform(self._session.listening.end_turn(time.monotonic()))
            return
        self._require_room()
        # Before the sound leaves the buffer: what is refused can be committed again.
        self._session.memory.require(LONGEST_ANSWER_BYTES + MARGIN_BYTES)
        audio = Audio(self._buffer.take())
        item_id = new_id("item")
        self._driver.perform(self._session.say(item_id, (audio,)))
        self._reporter.add_spoken(item_id, item_id, audio)

    def _create_item(self, options: Options) -> None:
        previous = options.get("previous_item_id")
        if previous not in (None, self._items.last_id or "root"):
            raise unsupported("previous_item_id", "items can only be added at the end")
        item, said = gathered(
            options.get("item"), "item", lambda item: read_item(item, self._samples_of)
        )
        if self._items.find(item.item_id) is not None:
            raise BadOption("item.id", f"there is an item {item.item_id!r} already")
        self._driver.perform(self._said(item, said))
        self._reporter.add(item)

    def _said(self, item: Item, said: Said[str | Audio]) -> list[Effect]:
        now_s = time.monotonic()
        if item.call is not None:
            return self._session.remember_call(item.call, now_s)
        if item.result is not None:
            return self._session.tool_result(item.result.call_id, item.result.content, now_s)
        if item.role == "assistant":
            # One without words is an answer that never came.
            text = "".join(part for part in said.parts if isinstance(part, str))
            return self._session.remember(text) if text else []
        self._require_room()
        return self._session.say(item.item_id, said.parts)

    def _delete_item(self, item_id: object) -> None:
        item = self._items.get(item_id)
        effects = self._session.unsay(item.key)
        if effects is None:
            raise unsupported("item_id", "items that belong to an answer cannot be deleted")
        self._driver.perform(effects)
        self._items.remove(item)
        self._emit("conversation.item.deleted", item_id=item.item_id)

    async def _respond(self, options: Options) -> None:
        if self._options.only_transcribes:
            told = (
                "a session of type transcription gives no responses; set session.type to realtime"
            )
            raise BadOption("type", f"type is response.create, but {told}")
        asked = gathered(
            {} if options.get("response") is None else options.get("response"),
            "response",
            lambda wishes: read_response(
                wishes, self._samples_of, self._items.texts_of, self._options.tools
            ),
        )
        current = self._reporter.responses.current
        if current is not None and asked.joins:
            raise BadOption(
                None,
                f"the response {current.response_id} is still being made",
                "conversation_already_has_active_response",
            )
        if asked.tools is not None:
            await require_callable(self._driver.engine, asked.tools)
        config = self._wished(asked)
        self._require_voice(config.voice, "response")
        context = None
        if asked.context is not None:
            instructions = [Said[str | Audio]("system", (config.system_prompt or "",))]
            try:
                meant = dialogue([*instructions, *asked.context])
            except BadInput as error:
                raise within("response.input", error) from None
            config = config.model_copy(update={"system_prompt": meant.system})
            context = exchanges(meant.turns)
        effects = self._session.respond(
            time.monotonic(), config, tag=asked, context=context, joins=asked.joins
        )
        self._driver.perform(effects)

    def _wished(self, asked: Wishes) -> SessionConfig:
        """The session's options, with those of one response."""
        own: dict[str, object] = {}
        if asked.instructions is not None:
            own["system_prompt"] = asked.instructions or None
        if asked.max_output_tokens is not None:
            own["max_length"] = as_tokens(asked.max_output_tokens)
        if asked.tools is not None:
            own |= config_of_tools(asked.tools)
        if asked.speaks is not None:
            own["voice"] = self._options.voice if asked.speaks else None
        return self._session.config.model_copy(update=own)

    def _require_voice(self, voice: str | None, path: str) -> None:
        try:
            self._driver.require_voice(voice)
        except BadInput as error:
            raise within(f"{path}.output_modalities", error) from None

    def _truncate(self, options: Options) -> None:
        """The client has played so much of an answer, and plays no more."""
        item = self._items.get(options.get("item_id"))
        turn_id = self._reporter.responses.spoken_turn(item.item_id)
        if turn_id is None:
            raise BadOption("item_id", f"the item {item.item_id!r} is no answer that was spoken")
        index = options.whole("content_index", 0, 0) or 0
        end_ms = options.whole("audio_end_ms", 0, MAX_AUDIO_MS)
        if end_ms is None:
            raise wrong("audio_end_ms", None, f"a whole number from 0 to {MAX_AUDIO_MS}")
        try:
            words = self._session.speaking.played(turn_id, end_ms, time.monotonic(), is_all=True)
        except BadInput:
            told = f"the item {item.item_id!r} was spoken too long ago to be truncated"
            raise BadOption("item_id", told) from None
        item.content = [{"type": "output_audio", "transcript": words}]
        self._items.changed(item)
        self._emit(
            "conversation.item.truncated",
            item_id=item.item_id,
            content_index=index,
            audio_end_ms=end_ms,
        )

    def _cancel(self, response_id: object) -> None:
        current = self._reporter.responses.current
        if current is None or response_id not in (None, current.response_id):
            raise BadOption(
                "response_id", "there is no such response to cancel", "response_cancel_not_active"
            )
        self._driver.perform(self._session.cancel(time.monotonic()))

    def _require_room(self) -> None:
        if self._session.pending >= MAX_UNANSWERED:
            raise BadInput(f"{MAX_UNANSWERED} items wait for an answer: ask for a response")

    def _samples_of(self, data: bytes) -> Audio:
        buffer = self._new_buffer()
        buffer.push(data)
        return Audio(buffer.take())

    def _new_buffer(self) -> AudioBuffer:
        return AudioBuffer(*FORMATS[self._options.format], self._max_turn_s)

    def _session_object(self) -> dict[str, object]:
        return self._options.as_object(self._session.session_id, self._names.served)


def _count(event: ClientEvent, size: int, limits: SessionLimits) -> None:
    match event.kind:
        case "input_audio_buffer.append":
            limits.check_audio(len(event.audio))
        case "conversation.item.create":
            # It may hold audio as well.
            limits.check_message_count()
            limits.check_audio(size)
        case "response.create":
            limits.check_text()
