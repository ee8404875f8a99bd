"""What client events do with the user's audio: append, commit, clear."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from voxtral_worker.engine.conversation import Audio
from voxtral_worker.errors import WorkerError
from voxtral_worker.server.channels import AUDIO
from voxtral_worker.server.driver import Driver
from voxtral_worker.server.openai.errors import told_of
from voxtral_worker.server.openai.realtime.audio_buffer import AudioBuffer
from voxtral_worker.server.openai.realtime.audio_options import FORMATS
from voxtral_worker.server.openai.realtime.items import new_id, require_room
from voxtral_worker.server.openai.realtime.reporter import Reporter
from voxtral_worker.server.openai.realtime.session_options import SessionOptions
from voxtral_worker.sessions.memory import LONGEST_ANSWER_BYTES

# The last frame of a buffer, which is padded to its full length.
MARGIN_BYTES = 8192


class InputAudio:
    """With turn detection the session hears audio at once. Without it, audio waits for a commit."""

    def __init__(
        self,
        driver: Driver[Any],
        reporter: Reporter,
        options: Callable[[], SessionOptions],
        max_turn_s: float,
    ) -> None:
        """`options` returns the options in effect."""
        self._driver = driver
        self._session = driver.session
        self._reporter = reporter
        self._options = options
        self._max_turn_s = max_turn_s
        self._buffer = self._new_buffer()
        self._session.memory.hold(lambda: self._buffer.bytes)

    async def append(self, chunk: bytes, event_id: str | None) -> None:
        """Process the chunk of an event. Raises BadOption, RateLimited or EngineFailure."""
        ears, refuse = self._driver.ears, partial(self._refuse, event_id)
        with told_of("audio"):
            if self._options().turn_detection is not None:
                await ears.hear(chunk, refuse)
                return
            ears.look(chunk, refuse)
            self._session.memory.require(self._buffer.bytes_of(chunk) + LONGEST_ANSWER_BYTES)
            self._buffer.push(chunk)
        ears.count(chunk)

    def commit(self) -> None:
        """End the turn. Raises BadInput if there is nothing to commit, or no room for it."""
        if self._options().turn_detection is not None:
            self._driver.perform(self._session.listening.end_turn(time.monotonic()))
            return
        require_room(len(self._session.inputs.pending))
        # Check before the buffer is emptied, so that the client can commit again.
        self._session.memory.require(LONGEST_ANSWER_BYTES + MARGIN_BYTES)
        audio = Audio(self._buffer.take())
        item_id = new_id("item")
        self._driver.perform(self._session.inputs.say(item_id, (audio,)))
        self._reporter.add_spoken(item_id, item_id, audio)

    def clear(self) -> None:
        """Discard the audio of the open turn."""
        self._buffer.clear()
        self._forget_turn()
        self._reporter.emit("input_audio_buffer.cleared")

    def begin_anew(self) -> None:
        """Discard the audio of the open turn, because its format or its turn detection changed."""
        self._forget_turn()
        self._buffer = self._new_buffer()
        self._driver.ears.look_anew()

    def decode(self, data: bytes) -> Audio:
        """A recording in the format of the session. Raises BadOption, or TooLarge."""
        buffer = self._new_buffer()
        buffer.push(data)
        return Audio(buffer.take())

    def _forget_turn(self) -> None:
        self._driver.perform(self._session.listening.forget_turn())
        self._reporter.forget_open_turns()

    def _refuse(self, event_id: str | None, error: WorkerError) -> None:
        error.about = event_id
        self._driver.refuse(AUDIO, error)

    def _new_buffer(self) -> AudioBuffer:
        return AudioBuffer(*FORMATS[self._options().audio.input.format.type], self._max_turn_s)
