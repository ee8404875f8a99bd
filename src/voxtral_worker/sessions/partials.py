"""Transcribes a turn while it is being spoken, and finds the words that will not change again.

It uses local agreement, after Macháček, Dabre and Bojar 2023, "Turning Whisper into Real-Time
Transcription System" (arXiv:2307.14743): the leading words that two transcripts in a row share
are stable.
"""

import sys

from voxtral_worker.engine.conversation import Audio, Conversation, UserTurn
from voxtral_worker.engine.request import (
    Delta,
    Failed,
    Finished,
    GenerationEvent,
    GenerationRequest,
    Sampling,
    Urgency,
)
from voxtral_worker.sessions import events
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import Cancel, Effect, Generate, Tell
from voxtral_worker.sessions.memory import TOKEN_BYTES

# One partial transcript a second (31 frames of 32 ms): each one transcribes the whole turn so far,
# so more of them would take the engine's time from turns.
PARTIAL_EVERY_FRAMES = 31


def bytes_to_ask(audio: Audio, config: SessionConfig) -> int:
    """Size of one request: its audio, and room for the words of its transcript."""
    return audio.nbytes + _most_tokens(audio, config) * TOKEN_BYTES


class StablePrefix:
    """The transcripts of one turn. Words that were once stable never change."""

    def __init__(self) -> None:
        self._stable: list[str] = []
        self._last: list[str] = []
        self._shown: list[str] = []
        # Size of the words.
        self.bytes = 0

    @property
    def text(self) -> str:
        """The text that was shown last."""
        return " ".join(self._shown)

    def update(self, hypothesis: str) -> tuple[str, int]:
        """Take a transcript; returns the text to show and the number of its stable characters."""
        words = hypothesis.split()
        agreed = 0
        for new, old in zip(words, self._last, strict=False):
            if new != old:
                break
            agreed += 1
        # A transcript that contradicts stable words makes no more words stable.
        if agreed > len(self._stable) and words[: len(self._stable)] == self._stable:
            self._stable = words[:agreed]
        self._last = words
        self._shown = self._stable + words[len(self._stable) :]
        self.bytes = sum(map(sys.getsizeof, {*self._last, *self._shown}))
        return self.text, len(" ".join(self._stable))


def _most_tokens(audio: Audio, config: SessionConfig) -> int:
    """As many tokens as the transcript of the whole turn may have.

    In mode `chat`, `max_length` limits the answer and not the transcript.
    """
    is_told = config.mode == "transcribe" and "max_length" in config.given
    return config.max_length if is_told else audio.transcript_tokens


class Partials:
    """Asks for partial transcripts of the open turn, one at a time."""

    def __init__(self) -> None:
        # The transcript that the engine is making; None: it makes none.
        self.generation_id: str | None = None
        # The open turn, and the frame from which on its next transcript is due.
        self._turn_id = ""
        self._due_frame = 0
        self._stable = StablePrefix()
        self._texts: list[str] = []
        # Size of the request under way: its audio, and room for its words.
        self._asked_bytes = 0

    @property
    def bytes(self) -> int:
        """Size of the request under way and of the transcripts before it."""
        return self._asked_bytes + self._stable.bytes

    def begin_turn(self, turn_id: str, frame: int) -> None:
        """Start with a new turn, which began at `frame`."""
        self._turn_id = turn_id
        self._stable = StablePrefix()
        self._due_frame = frame + PARTIAL_EVERY_FRAMES

    def is_due(self, frame: int) -> bool:
        """Whether it is time for the next transcript."""
        return self.generation_id is None and frame >= self._due_frame

    @property
    def text(self) -> str:
        """The last transcript of the turn; empty if there is none yet."""
        return self._stable.text

    def put_off(self, frame: int) -> None:
        """Wait for a whole interval from `frame` on."""
        self._due_frame = frame + PARTIAL_EVERY_FRAMES

    def ask(self, audio: Audio, config: SessionConfig, frame: int) -> list[Effect]:
        """Ask for a transcript of the turn so far."""
        self.put_off(frame)
        self._asked_bytes = bytes_to_ask(audio, config)
        self.generation_id = f"partial-{self._turn_id}-{frame}"
        self._texts = []
        conversation = Conversation(UserTurn((audio,)), transcribe=True, language=config.language)
        sampling = Sampling(0.0, 1.0, _most_tokens(audio, config))
        request = GenerationRequest(conversation, sampling, Urgency.PARTIAL)
        return [Generate(self.generation_id, request)]

    def on_event(self, event: GenerationEvent) -> list[Effect]:
        """Take an event of the transcript under way."""
        match event:
            case Delta():
                self._texts.append(event.text)
            case Finished():
                self.drop()
                text, stable = self._stable.update("".join(self._texts))
                self._texts = []
                return [Tell(events.Partial(self._turn_id, text, stable))]
            case Failed():
                # Not reported: the next one comes in a second, and if the engine is broken, the
                # turn itself will fail with an error.
                self.drop()
        return []

    def drop(self) -> list[Effect]:
        """Cancel the transcript under way, if there is one."""
        generation_id, self.generation_id = self.generation_id, None
        self._asked_bytes = 0
        return [] if generation_id is None else [Cancel(generation_id)]
