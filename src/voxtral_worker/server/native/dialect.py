"""The documented dialect: acts on its clients' messages, and sends them the session's events."""

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

# This channel takes texts, config and controls, but no audio.
CONTROL = "control"
MAX_FRAME_BYTES = 1 << 20
# A change of one of these needs a new check of the tools.
TOOL_OPTIONS = frozenset({"tools", "tool_choice", "parallel_tool_calls"})
# Controls that do not count as activity: a session that gets nothing else expires.
NO_ACTIVITY = frozenset({"ping", "get_stats", "resume", "played"})


@dataclass(frozen=True)
class Replay:
    """A connection asks for the messages after `last_seq`, before it gets new ones."""

    connection: Connection
    last_seq: int


Item: TypeAlias = bytes | ClientMessage | Replay


class NativeDialect:
    """Numbers the messages of turns for each channel, and holds them to send them again."""

    def __init__(self, driver: "Driver[NativeDialect]") -> None:
        self._driver = driver
        self._session = driver.session
        self._numberings = {channel: Numbering() for channel in (AUDIO, CONTROL)}
        # By name and not by object: `go_on_from` replaces the numberings.
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
        """Make this the channel's connection, and close an older one.

        With `waits_for_replay` it gets no numbered message before its `Replay` has been taken.
        `introduction` has what the client must know of a session that this connection creates.
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
        """Send a heartbeat with the number of the channel's last message."""
        seq = {"seq": self._numberings[channel].seq}
        self._send_to(connection, channel, Message("heartbeat", seq))

    async def close(self) -> None:
        """Forget all held messages."""
        for numbering in self._numberings.values():
            numbering.clear()

    # Moving to another worker.

    @property
    def seqs(self) -> dict[str, int]:
        """The number of the last message of each channel."""
        return {channel: numbering.seq for channel, numbering in self._numberings.items()}

    def go_on_from(self, seqs: Mapping[str, int]) -> None:
        """Continue the numbers of another worker."""
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
        # Before parsing, which costs time.
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
        driver, session, now_s = self._driver, self._session, time.monotonic()
        match item:
            case bytes():
                await driver.ears.hear(item, partial(driver.refuse, channel))
            case TextInput(text=text, request_id=request_id):
                log.debug("text received", extra={"text": text})
                with about(request_id):
                    effects = session.inputs.text(text, now_s, to=channel, tag=request_id)
                driver.perform(effects)
            case ToolResult(call_id=call_id, content=content, is_error=is_error):
                driver.perform(
                    session.answers.take_result(call_id, str(content), now_s, is_error=is_error)
                )
            case ConfigUpdate(config=changes):
                # All checks come before the change, so that a bad option changes nothing.
                driver.require_voice(session.config.updated(changes).voice)
                if changes.keys() & TOOL_OPTIONS:
                    box = session.config.updated(changes).toolbox
                    await require_callable(driver.engine, box)
                driver.perform(session.update_config(changes, channel))
            case Control() | Resume() | Played():
                self._control(channel, item, now_s)
            case Replay(connection, last_seq):
                if driver.channels.open(channel, connection):
                    self._replay(channel, connection, last_seq)
                    driver.ears.watch_for_stall()

    def _control(self, channel: str, control: AnyControl, now_s: float) -> None:
        connection = self._driver.channels.find(channel)
        match control:
            case Played(turn_id=turn_id, played_ms=played_ms):
                self._session.answers.speaking.played(turn_id, played_ms, now_s)
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
        """See Dialect. The end of the session goes to all channels."""
        message = message_of(event)
        if message is None:
            return
        if isinstance(event, events.Draining | events.Expired):
            for channel, connection in self._driver.channels:
                self._send_to(connection, channel, message)
        else:
            self._send(to or AUDIO, message)

    def _send(self, channel: str, message: Message) -> None:
        # Write it even if there is no connection: a numbered message is held for a resume.
        text = self._write(channel, message)
        # A connection that waits for its replay will get numbered messages with the replay, in
        # order. Messages without a number would be lost, so it gets them at once.
        connection = self._driver.channels.find(channel, may_wait=not message.is_numbered)
        if connection is not None:
            connection.send(text)
            if message.sound is not None:
                connection.send(message.sound)

    def _send_to(self, connection: Connection, channel: str, message: Message) -> None:
        connection.send(self._write(channel, message))

    def _write(self, channel: str, message: Message) -> str:
        text = self._numberings[channel].write(message, time.time())
        # The message that is held now may have brought the session over its limit.
        self._session.memory.fit()
        return text


def parse_last_seq(text: str | None) -> int | None:
    """Read the `last_seq` in a connection's address; None: there is none. Raises BadInput."""
    if text is None:
        return None
    is_whole = text.isascii() and text.isdigit() and len(text) < 19
    if not is_whole or int(text) > MAX_SEQ:
        raise BadInput(f"last_seq must be a whole number from 0 to {MAX_SEQ}")
    return int(text)
