"""OpenAI's realtime dialect: what its client's events ask of a session."""

import time
from collections.abc import Mapping
from types import MappingProxyType

from voxtral_worker.errors import BadInput, TooLarge, about
from voxtral_worker.server.channels import AUDIO
from voxtral_worker.server.connection import Connection
from voxtral_worker.server.driver import Driver
from voxtral_worker.server.gate.session_limits import SessionLimits
from voxtral_worker.server.openai.errors import BadOption, told_of
from voxtral_worker.server.openai.models import ModelNames
from voxtral_worker.server.openai.options import gathered
from voxtral_worker.server.openai.realtime.client_event import (
    ClientEvent,
    event_id_of,
    read_event,
)
from voxtral_worker.server.openai.realtime.input_audio import InputAudio
from voxtral_worker.server.openai.realtime.item_requests import ItemRequests
from voxtral_worker.server.openai.realtime.reporter import Reporter
from voxtral_worker.server.openai.realtime.response_requests import ResponseRequests
from voxtral_worker.server.openai.realtime.session_options import SessionOptions
from voxtral_worker.server.tools import require_callable
from voxtral_worker.sessions import events
from voxtral_worker.sessions.effects import Channel

# A second of audio at the limit of bytes a second, in base64, and more.
MAX_EVENT_BYTES = 2 << 20
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
        # Those in force.
        self._options = options
        self._reporter = Reporter(driver, self._in_force)
        self._audio = InputAudio(driver, self._reporter, self._in_force, max_turn_s)
        self._items = ItemRequests(driver, self._reporter, self._audio.decode)
        self._responses = ResponseRequests(
            driver, self._reporter, self._in_force, self._audio.decode
        )

    def attach(self, connection: Connection) -> None:
        """Greet the one connection."""
        self._driver.channels.attach(AUDIO, connection)
        self._reporter.emit("session.created", session=self._session_object())

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
        options = event.options
        with about(event.event_id):
            match event.kind:
                case "session.update":
                    await self._update(options.get("session"))
                case "input_audio_buffer.append":
                    await self._audio.append(event.audio, event.event_id)
                case "input_audio_buffer.commit":
                    self._audio.commit()
                case "input_audio_buffer.clear":
                    self._audio.clear()
                case "conversation.item.create":
                    self._items.create(options)
                case "conversation.item.retrieve":
                    self._items.retrieve(options.get("item_id"))
                case "conversation.item.delete":
                    self._items.delete(options.get("item_id"))
                case "conversation.item.truncate":
                    self._items.truncate(options)
                case "response.create":
                    await self._responses.create(options.get("response"))
                case "response.cancel":
                    self._responses.cancel(options.get("response_id"))

    async def _update(self, session: object) -> None:
        before = self._options
        updated = gathered(session, "session", lambda new: before.updated(new, self._names))
        await require_callable(self._driver.engine, updated.tools)
        config = updated.config()
        if config.turn_detection == "semantic" and not self._session.has_scorer:
            raise BadOption(
                "session.audio.input.turn_detection.type",
                "session.audio.input.turn_detection.type is 'semantic_vad', but this worker has "
                "no turn model (its setting TURN_MODEL): use 'server_vad'",
            )
        with told_of("session.output_modalities"):
            self._driver.require_voice(config.voice)
        self._driver.perform(self._session.use_config(config))
        self._options = updated
        has_turns, had_turns = (each.turn_detection is not None for each in (updated, before))
        if (before.format, had_turns) != (updated.format, has_turns):
            self._audio.begin_anew()
        self._reporter.emit("session.updated", session=self._session_object())

    def _in_force(self) -> SessionOptions:
        return self._options

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
