"""Holds what was sent and may have to be sent again after a lost connection."""

import json
from collections import deque
from dataclasses import dataclass
from typing import Any

from voxtral_worker.client.errors import VoxtralError

# Four minutes of 16-bit audio at 16 kHz: what is held while there is no connection.
MOST_HELD_BYTES = 8 << 20
# The most audio that may be on its way. Systems and proxies between the client and the worker would
# take much more. A lost connection would lose all of that, and pings would wait behind it.
MOST_UNTAKEN_BYTES = 2 << 20
# How often the worker is asked how much it has taken, in bytes of audio.
ASK_EVERY_BYTES = 256 << 10
# The worker takes 600 messages in 10 s. So when this many controls are held, the oldest has
# arrived long ago, or the connection is known to be lost. Texts are held in any case.
MOST_HELD_MESSAGES = 1024
# The worker refuses a larger message before it reads its request_id, so the client would not know
# which message was refused.
MOST_MESSAGE_BYTES = 1 << 20
# The status with which the worker confirms each of these messages.
ANSWERS = {
    "config_updated": "config_update",
    "history_cleared": "clear_history",
    "cancelled": "cancel",
}


# Messages of a turn that show that the worker has all results of its tool calls.
GOES_ON = ("text_delta", "text_response", "error")


@dataclass
class SentMessage:
    """A message, and the bytes of audio that were sent before it.

    `is_sent` is False for a message that was given while there was no connection.
    """

    wire: str
    kind: str
    audio_bytes: int
    request_id: str | None
    is_sent: bool
    # For the result of a tool call: the turn that continues with it.
    turn_id: str | None = None


class Journal:
    """Audio and messages in the order in which they were sent.

    The worker takes them in this order. When a session is resumed, the worker says how many bytes
    of audio it has taken; so it has also taken each message that was sent before those bytes. A
    text is held until a message with its request_id comes back, because the worker may have taken
    it from the socket and then refused it.
    """

    def __init__(self) -> None:
        # The latest audio, oldest first, and its size.
        self._chunks: deque[bytes] = deque()
        self._held_bytes = 0
        # All audio since the session began, in bytes.
        self.sent_bytes = 0
        # How much of that the worker has taken, as far as it is known; when it was last asked.
        self._taken_bytes = self._asked_bytes = 0
        self._messages: list[SentMessage] = []

    def add_audio(self, chunk: bytes) -> None:
        """Hold one frame of audio, and drop the oldest frames beyond 8 MiB."""
        self._chunks.append(chunk)
        self.sent_bytes += len(chunk)
        self._held_bytes += len(chunk)
        while self._held_bytes > MOST_HELD_BYTES:
            self._held_bytes -= len(self._chunks.popleft())

    @property
    def untaken_bytes(self) -> int:
        """Audio of which it is not known that the worker has taken it."""
        return self.sent_bytes - self._taken_bytes

    def has_room(self, count: int, *, is_open: bool) -> bool:
        """Whether so many bytes of audio may be sent, or held while there is no connection."""
        most = MOST_UNTAKEN_BYTES if is_open else MOST_HELD_BYTES
        return not self.untaken_bytes or self.untaken_bytes + count <= most

    def note_taken(self, received_bytes: int) -> None:
        """The worker has said how many bytes of audio it has taken."""
        self._taken_bytes = max(self._taken_bytes, received_bytes)

    def is_to_ask(self) -> bool:
        """Whether it is time to ask the worker how much it has taken; then it counts as asked."""
        is_due = self.sent_bytes - self._asked_bytes >= ASK_EVERY_BYTES
        if is_due:
            self._asked_bytes = self.sent_bytes
        return is_due

    def add_message(
        self, message: dict[str, Any], *, is_sent: bool, turn_id: str | None = None
    ) -> str:
        """Hold a message; returns its JSON. Raises VoxtralError if it cannot be held."""
        kind = message.get("control_type", message["type"])
        request_id = message.get("request_id")
        waiting = self.unanswered_texts()
        if request_id in waiting:
            raise VoxtralError(f"request_id {request_id!r} is in use: its text has no answer yet")
        if len(waiting) >= MOST_HELD_MESSAGES:
            raise VoxtralError(f"{MOST_HELD_MESSAGES} texts wait for the worker already")
        wire = json.dumps(message)
        if len(wire) > MOST_MESSAGE_BYTES:
            raise VoxtralError(
                f"a message has {len(wire)} bytes, but may have {MOST_MESSAGE_BYTES}"
            )
        sent = SentMessage(wire, kind, self.sent_bytes, request_id, is_sent, turn_id)
        self._messages.append(sent)
        controls = [held for held in self._messages if held.request_id is None]
        if len(controls) > MOST_HELD_MESSAGES:
            self._messages.remove(controls[0])
        return sent.wire

    def unanswered_texts(self) -> list[str]:
        """The request_ids of the texts to which no answer has come yet."""
        return [held.request_id for held in self._messages if held.request_id is not None]

    def give_up_texts(self) -> list[str]:
        """Drop the texts that were sent; returns their request_ids.

        Their answers may be among the messages that the worker no longer holds, so sending them
        again might ask the same question twice.
        """
        lost = [held.request_id for held in self._messages if held.is_sent and held.request_id]
        self._messages = [held for held in self._messages if held.request_id not in lost]
        return lost

    def take(self, message: dict[str, Any]) -> None:
        """Drop what a message of the worker answers, and what was taken before that."""
        request_id = message.get("request_id")
        if "turn_id" in message and message.get("finish_reason") != "tool_calls":
            self._go_on(message)
        answered = ANSWERS.get(message.get("status", ""))
        for number, held in enumerate(self._messages):
            is_text = request_id is not None and held.request_id == request_id
            if is_text or (answered is not None and held.kind == answered):
                earlier = self._messages[:number]
                if message["type"] != "error":
                    # All other messages come in order, so earlier controls were taken too. An
                    # error may come before the answers to what was sent earlier: keep those.
                    earlier = [each for each in earlier if each.request_id is not None]
                self._messages[: number + 1] = earlier
                return

    def _go_on(self, message: dict[str, Any]) -> None:
        """Drop the tool results of a turn that continues: the worker has them."""
        if message["type"] in GOES_ON and (turn_id := message["turn_id"]) is not None:
            self._messages = [held for held in self._messages if held.turn_id != turn_id]

    def missing(self, received_bytes: int) -> list[bytes | str]:
        """What to send again, in order, to a worker that has taken `received_bytes` of audio.

        Raises VoxtralError if it lacks more audio than is held.
        """
        self.note_taken(received_bytes)
        self._asked_bytes = self._taken_bytes
        if self.sent_bytes - received_bytes > self._held_bytes:
            raise VoxtralError("more audio was lost than the client holds")
        self._messages = [
            held
            for held in self._messages
            if held.request_id is not None or held.audio_bytes >= received_bytes
        ]
        for held in self._messages:
            held.is_sent = True
        messages = deque(self._messages)
        frames: list[bytes | str] = []
        start = self.sent_bytes - self._held_bytes
        # Messages go back between the chunks where they were. A chunk of which the worker has
        # taken a part is cut.
        for chunk in self._chunks:
            if start + len(chunk) > received_bytes:
                while messages and messages[0].audio_bytes <= start:
                    frames.append(messages.popleft().wire)
                frames.append(chunk[max(0, received_bytes - start) :])
            start += len(chunk)
        return [*frames, *(held.wire for held in messages)]
