"""The documented dialect: what its messages ask, and what its clients are told and may miss."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TypeAlias

from voxtral_worker.errors import BadInput, TooLarge, about
from voxtral_worker.server.channels import AUDIO
from voxtral_worker.server.connection import Connection
from voxtral_worker.server.driver import Driver
from voxtral_worker.server.gate.session_limits import SessionLimits
from voxtral_worker.server.native.messages import (
    MAX_SEQ,
    AnyControl,
    ClientMessage,
    ConfigUpdate,
    Control,
    Message,
    Played,
    Resume,
    TextInput,
    ToolResult,
    message_of,
    parse,
)
from voxtral_worker.server.native.numbering import Numbering
from voxtral_worker.server.tools import require_callable
from voxtral_worker.sessions import events
from voxtral_worker.sessions.effects import Channel

log = logging.getLogger(__name__)

# Texts, config and controls come by this channel, and no audio.
CONTROL = "control"
MAX_FRAME_BYTES = 1 << 20
# What changes what a call may look like.
TOOL_OPTIONS = frozenset({"tools", "tool_choice", "parallel_tool_calls"})
# Controls that ask, and do nothing: a session that only asks is idle.
NO_ACTIVITY = frozenset({"ping", "get_stats", "resume", "played"})


@dataclass(frozen=True)
class Replay:
    """A connection that wants what it missed before anything new."""

    connection: Connection
    last_seq: int


Item: TypeAlias = bytes | ClientMessage | Replay


class NativeDialect:
    """Messages of a turn are numbered, channel by channel, and held for a while."""

    def __init__(self, driver: "Driver[NativeDialect]") -> None:
        self._driver = driver
        self._session = driver.session
        self._numberings = {channel: Numbering() for channel in (AUDIO, CONTROL)}
        for channel in self._numberings:
            self._session.memory.hold_spare(partial(self._numberings.__getitem__, channel))

    # Connections.

    def attach(
        self,
        channel: str,
        connection: Connection,
        *,
        waits_for_replay: bool = False,
        introduction: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        """Make a connection the one of its channel; the older one is closed.

        One that waits for its replay gets nothing numbered until `Replay` has been taken.
        `introduction` is what the client does not know yet of a session that it opens by this.
        """
        self._driver.channels.attach(channel, connection, waits=waits_for_replay)
        connected = {
            "status": "connected",
            "client_id": connection.client_id,
            "session_id": self._session.session_id,
            "server_time": time.time(),
            **introduction,
        }
        self._send_to(connection, channel, Message("status", connected))
        if not waits_for_replay:
            self._driver.ears.watch_for_stall()
        if channel == AUDIO:
            self._driver.ears.look_anew()

    def heartbeat(self, channel: str, connection: Connection) -> None:
        """Tell a connection that the session lives, and how far its channel has come."""
        seq = {"seq": self._numberings[channel].seq}
        self._send_to(connection, channel, Message("heartbeat", seq))

    async def close(self) -> None:
        """Nobody will ask for a message again."""
        for numbering in self._numberings.values():
            numbering.clear()

    # Moving to another worker.

    @property
    def seqs(self) -> dict[str, int]:
        """The number of the last message on each channel."""
        return {channel: numbering.seq for channel, numbering in self._numberings.items()}

    def go_on_from(self, seqs: Mapping[str, int]) -> None:
        """Number messages from where another worker was."""
        for channel in self._numberings:
            self._numberings[channel] = Numbering(seqs.get(channel, 0))

    # What comes in.

    def read(
        self, channel: str, data: str | bytes, size: int, limits: SessionLimits
    ) -> bytes | ClientMessage:
        """See Dialect. Raises BadInput, TooLarge or RateLimited."""
        if size > MAX_FRAME_BYTES:
            raise TooLarge(f"a frame may have at most {MAX_FRAME_BYTES} bytes, this one has {size}")
        if isinstance(data, bytes):
            if channel == CONTROL:
                raise BadInput("the control connection takes no audio")
            limits.check_audio(size)
            self._session.last_activity_s = time.monotonic()
            return data
        limits.check_message(size)
        message = parse(data)
        if isinstance(message, TextInput):
            with about(message.request_id):
                limits.check_text()
        if not (isinstance(message, AnyControl) and message.control_type in NO_ACTIVITY):
            self._session.last_activity_s = time.monotonic()
        return message

    async def take(self, channel: str, item: Item) -> None:
        """See Dialect."""
        driver, session = self._driver, self._session
        match item:
            case bytes():
                await driver.ears.hear(item, partial(driver.refuse, channel))
            case TextInput(text=text, request_id=request_id):
                log.debug("text received", extra={"text": text})
                with about(request_id):
                    effects = session.text(text, time.monotonic(), to=channel, tag=request_id)
                driver.perform(effects)
            case ToolResult(call_id=call_id, content=content, is_error=is_error):
                driver.perform(
                    session.tool_result(call_id, str(content), time.monotonic(), is_error=is_error)
                )
            case ConfigUpdate(config=changes):
                driver.require_voice(session.config.updated(changes).voice)
                if changes.keys() & TOOL_OPTIONS:
                    box = session.config.updated(changes).toolbox
                    await require_callable(driver.engine, box)
                driver.perform(session.update_config(changes, channel))
            case Control() | Resume() | Played():
                self._control(channel, item, time.monotonic())
            case Replay(connection, last_seq):
                if driver.channels.open(channel, connection):
                    self._replay(channel, connection, last_seq)
                    driver.ears.watch_for_stall()

    def _control(self, channel: str, control: AnyControl, now_s: float) -> None:
        connection = self._driver.channels.find(channel)
        match control:
            case Played(turn_id=turn_id, played_ms=played_ms):
                self._session.played(turn_id, played_ms, now_s)
            case Resume(last_seq=last_seq):
                if connection is not None:
                    self._replay(channel, connection, last_seq)
            case Control(control_type="ping"):
                self._send(channel, Message("control", {"control_type": "pong"}))
            case Control(control_type="get_stats") if connection is not None:
                self._send(channel, Message("status", {"stats": self._stats(connection)}))
            case Control(control_type="cancel"):
                self._driver.perform(self._session.cancel(now_s, channel))
            case Control(control_type="end_turn"):
                self._driver.perform(self._session.listening.end_turn(now_s, channel))
            case Control(control_type="clear_history"):
                self._driver.perform(self._session.clear_history(channel))

    def _replay(self, channel: str, connection: Connection, last_seq: int) -> None:
        numbering = self._numberings[channel]
        numbering.catch_up(last_seq)
        texts, missed = numbering.after(last_seq)
        for text in texts:
            connection.send(text)
        received = self._session.listening.audio_bytes_received
        resumed = {"status": "resumed", "audio_bytes_received": received, "missed": missed}
        self._send_to(connection, channel, Message("status", resumed))

    def _stats(self, connection: Connection) -> dict[str, object]:
        return {
            "client_id": connection.client_id,
            "session_id": self._session.session_id,
            "connection_duration": round(time.monotonic() - connection.opened_s, 3),
            **self._session.stats(),
        }

    # What goes out.

    def tell(self, event: events.Event, to: Channel) -> None:
        """See Dialect. The end of the session is told on every channel that is open."""
        message = message_of(event)
        if message is None:
            return
        if isinstance(event, events.Draining | events.Expired):
            for channel, connection in self._driver.channels:
                self._send_to(connection, channel, message)
        else:
            self._send(to or AUDIO, message)

    def _send(self, channel: str, message: Message) -> None:
        text = self._write(channel, message)
        # What is not held for later may go to a connection that still waits for its replay.
        connection = self._driver.channels.find(channel, may_wait=not message.is_numbered)
        if connection is not None:
            connection.send(text)
            if message.sound is not None:
                connection.send(message.sound)

    def _send_to(self, connection: Connection, channel: str, message: Message) -> None:
        connection.send(self._write(channel, message))

    def _write(self, channel: str, message: Message) -> str:
        text = self._numberings[channel].write(message, time.time())
        self._session.memory.fit()
        return text


def parse_last_seq(text: str | None) -> int | None:
    """The `last_seq` of a connection's address. Raises BadInput."""
    if text is None:
        return None
    is_whole = text.isascii() and text.isdigit() and len(text) < 19
    if not is_whole or int(text) > MAX_SEQ:
        raise BadInput(f"last_seq must be a whole number from 0 to {MAX_SEQ}")
    return int(text)
