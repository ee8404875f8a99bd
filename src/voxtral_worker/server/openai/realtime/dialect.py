"""OpenAI's realtime dialect: what its client's events ask of a session."""

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import assert_never

from voxtral_worker.errors import BadInput, TooLarge, about
from voxtral_worker.server.channels import AUDIO
from voxtral_worker.server.connection import Connection
from voxtral_worker.server.driver import Driver
from voxtral_worker.server.gate.session_limits import SessionLimits
from voxtral_worker.server.openai.errors import BadOption, told_of
from voxtral_worker.server.openai.models import ModelNames
from voxtral_worker.server.openai.realtime import client_event
from voxtral_worker.server.openai.realtime.client_event import AnyEvent
from voxtral_worker.server.openai.realtime.input_audio import InputAudio
from voxtral_worker.server.openai.realtime.item_requests import ItemRequests
from voxtral_worker.server.openai.realtime.reporter import Reporter
from voxtral_worker.server.openai.realtime.response_requests import ResponseRequests
from voxtral_worker.server.openai.realtime.session_options import SessionOptions
from voxtral_worker.server.tools import require_callable
from voxtral_worker.sessions import events
from voxtral_worker.sessions.effects import Channel

# More than one second of audio at the rate limit, in base64.
MAX_EVENT_BYTES = 2 << 20
AUDIO_EVENTS = ("input_audio_buffer.append", "conversation.item.create")


class RealtimeDialect:
    """Serves one connection, on the audio channel. It numbers no messages and repeats none."""

    # A realtime session ends with its connection, so no other worker continues it.
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
        # The options in effect.
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

    def read(self, _: str, data: str | bytes, size: int, limits: SessionLimits) -> AnyEvent:
        """See Dialect. Raises BadInput, BadOption, TooLarge or RateLimited."""
        if isinstance(data, bytes):
            raise BadInput("events are texts of JSON; audio goes into input_audio_buffer.append")
        if size > MAX_EVENT_BYTES:
            raise TooLarge(
                f"an event may have at most {MAX_EVENT_BYTES} bytes, this one has {size}"
            )
        # Audio also arrives as text. Parsing costs time, so a frame that cannot hold audio is
        # counted as a message before it is parsed.
        may_hold_audio = any(kind in data for kind in AUDIO_EVENTS)
        if not may_hold_audio:
            limits.check_message(size)
        value, event_id = client_event.event_id_of(data)
        with about(event_id):
            event = client_event.read_event(value)
            if may_hold_audio and event.type not in AUDIO_EVENTS:
                limits.check_message(size)
            _count(event, size, limits)
        self._session.last_activity_s = time.monotonic()
        return event

    async def take(self, _: str, event: AnyEvent) -> None:
        """See Dialect."""
        with about(event.event_id):
            match event:
                case client_event.SessionUpdate():
                    await self._update(event.session)
                case client_event.InputAudioBufferAppend():
                    await self._audio.append(event.audio, event.event_id)
                case client_event.InputAudioBufferCommit():
                    self._audio.commit()
                case client_event.InputAudioBufferClear():
                    self._audio.clear()
                case client_event.ConversationItemCreate():
                    self._items.create(event)
                case client_event.ConversationItemRetrieve():
                    self._items.retrieve(event.item_id)
                case client_event.ConversationItemDelete():
                    self._items.delete(event.item_id)
                case client_event.ConversationItemTruncate():
                    self._items.truncate(event)
                case client_event.ResponseCreate():
                    await self._responses.create(event.response)
                case client_event.ResponseCancel():
                    self._responses.cancel(event.response_id)
                case _:
                    assert_never(event)

    async def _update(self, session: object) -> None:
        before = self._options
        updated = before.updated(session, self._names)
        await require_callable(self._driver.engine, updated.toolbox)
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
        # Audio in another format, or for another way to end turns, cannot be continued.
        if updated.audio.input.format.type != before.audio.input.format.type or (
            updated.turn_detection is None
        ) != (before.turn_detection is None):
            self._audio.begin_anew()
        self._reporter.emit("session.updated", session=self._session_object())

    def _in_force(self) -> SessionOptions:
        return self._options

    def _session_object(self) -> dict[str, object]:
        return self._options.as_object(self._session.session_id, self._names.served)


def _count(event: AnyEvent, size: int, limits: SessionLimits) -> None:
    match event:
        case client_event.InputAudioBufferAppend():
            limits.check_audio(len(event.audio))
        case client_event.ConversationItemCreate():
            # The item may hold audio, so its size counts as audio.
            limits.check_message_count()
            limits.check_audio(size)
        case client_event.ResponseCreate():
            limits.check_text()
