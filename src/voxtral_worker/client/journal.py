"""What was sent and may have to be sent again after a lost connection."""

import json
from collections import deque
from dataclasses import dataclass
from typing import Any

from voxtral_worker.client.errors import VoxtralError

MOST_HELD_BYTES = 8 << 20
# The worker takes 600 messages in 10 s: the oldest of so many controls has arrived, or the
# connection is known to be lost. Texts are never left out.
MOST_HELD_MESSAGES = 1024
# What is larger is refused without its request_id.
MOST_MESSAGE_BYTES = 1 << 20
# What the worker says once it has done each of these.
ANSWERS = {
    "config_updated": "config_update",
    "history_cleared": "clear_history",
    "cancelled": "cancel",
}


# Of a turn, what is said once it has all its results.
GOES_ON = ("text_delta", "text_response", "error")


@dataclass
class SentMessage:
    """A message and how many bytes of audio were sent before it.

    One that was given while there was no connection is not sent yet.
    """

    wire: str
    kind: str
    audio_bytes: int
    request_id: str | None
    is_sent: bool
    # Of the result of a tool: the turn that goes on with it.
    turn_id: str | None = None


class Journal:
    """Audio and messages in the order in which they were sent.

    The worker takes them in this order. A resumed session tells how much audio was taken, and
    whatever stands before audio that was taken was taken too. A text is held until a message with
    its request_id comes back, since the worker may have refused it.
    """

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._held_bytes = 0
        self._sent_bytes = 0
        self._messages: list[SentMessage] = []

    def add_audio(self, chunk: bytes) -> None:
        """Hold one frame of audio; the oldest frames beyond 8 MiB are no longer held."""
        self._chunks.append(chunk)
        self._sent_bytes += len(chunk)
        self._held_bytes += len(chunk)
        while self._held_bytes > MOST_HELD_BYTES:
            self._held_bytes -= len(self._chunks.popleft())

    def add_message(
        self, message: dict[str, Any], *, is_sent: bool, turn_id: str | None = None
    ) -> str:
        """Hold a message; returns its wire form. Raises VoxtralError where it cannot be held."""
        kind = message.get("control_type", message["type"])
        request_id = message.get("request_id")
        waiting = self.unanswered_texts()
        if request_id in waiting:
            raise VoxtralError(f"request_id {request_id!r} is the one of a text under way")
        if len(waiting) >= MOST_HELD_MESSAGES:
            raise VoxtralError(f"{MOST_HELD_MESSAGES} texts wait for the worker already")
        wire = json.dumps(message)
        if len(wire) > MOST_MESSAGE_BYTES:
            raise VoxtralError(
                f"a message has {len(wire)} bytes, but may have {MOST_MESSAGE_BYTES}"
            )
        sent = SentMessage(wire, kind, self._sent_bytes, request_id, is_sent, turn_id)
        self._messages.append(sent)
        controls = [held for held in self._messages if held.request_id is None]
        if len(controls) > MOST_HELD_MESSAGES:
            self._messages.remove(controls[0])
        return sent.wire

    def unanswered_texts(self) -> list[str]:
        """The request_ids of the texts of which nothing came back yet."""
        return [held.request_id for held in self._messages if held.request_id is not None]

    def give_up_texts(self) -> list[str]:
        """Hold none of the texts that were sent any more; returns their request_ids."""
        lost = [held.request_id for held in self._messages if held.is_sent and held.request_id]
        self._messages = [held for held in self._messages if held.request_id not in lost]
        return lost

    def take(self, message: dict[str, Any]) -> None:
        """Let go of what a message of the worker answers, and of what was taken before that."""
        request_id = message.get("request_id")
        if "turn_id" in message and message.get("finish_reason") != "tool_calls":
            self._go_on(message)
        answered = ANSWERS.get(message.get("status", ""))
        for number, held in enumerate(self._messages):
            is_text = request_id is not None and held.request_id == request_id
            if is_text or (answered is not None and held.kind == answered):
                earlier = self._messages[:number]
                if message["type"] != "error":
                    # An error may overtake what was sent before it; all else keeps the order.
                    earlier = [each for each in earlier if each.request_id is not None]
                self._messages[: number + 1] = earlier
                return

    def _go_on(self, message: dict[str, Any]) -> None:
        """A turn goes on: the worker has the results that it waited for."""
        if message["type"] in GOES_ON and (turn_id := message["turn_id"]) is not None:
            self._messages = [held for held in self._messages if held.turn_id != turn_id]

    def missing(self, received_bytes: int) -> list[bytes | str]:
        """What is to be sent again, in order, to a worker that has taken so many bytes of audio.

        Raises VoxtralError where more audio is missing than is held.
        """
        if self._sent_bytes - received_bytes > self._held_bytes:
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
        start = self._sent_bytes - self._held_bytes
        for chunk in self._chunks:
            if start + len(chunk) > received_bytes:
                while messages and messages[0].audio_bytes <= start:
                    frames.append(messages.popleft().wire)
                frames.append(chunk[max(0, received_bytes - start) :])
            start += len(chunk)
        return [*frames, *(held.wire for held in messages)]
