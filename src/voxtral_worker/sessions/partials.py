"""Transcripts of what is being said, and which of their words will not change any more.

Local agreement of two successive hypotheses, after Macháček, Dabre and Bojar 2023,
"Turning Whisper into Real-Time Transcription System" (arXiv:2307.14743): the words that
two hypotheses in a row share are stable, and stay.
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

# A transcript of what is being said is worth a look once a second.
PARTIAL_EVERY_FRAMES = 31


def bytes_to_ask(audio: Audio, config: SessionConfig) -> int:
    """What a transcript under way takes: the sound, and room for its words."""
    return audio.nbytes + _most_tokens(audio, config) * TOKEN_BYTES


class StablePrefix:
    """One turn's hypotheses; what was once stable never changes."""

    def __init__(self) -> None:
        self._stable: list[str] = []
        self._last: list[str] = []
        self._shown: list[str] = []
        # What its words take.
        self.bytes = 0

    @property
    def text(self) -> str:
        """What was shown last."""
        return " ".join(self._shown)

    def update(self, hypothesis: str) -> tuple[str, int]:
        """The text to show, and how many of its first characters are stable."""
        words = hypothesis.split()
        agreed = 0
        for new, old in zip(words, self._last, strict=False):
            if new != old:
                break
            agreed += 1
        if agreed > len(self._stable) and words[: len(self._stable)] == self._stable:
            self._stable = words[:agreed]
        self._last = words
        self._shown = self._stable + words[len(self._stable) :]
        self.bytes = sum(map(sys.getsizeof, {*self._last, *self._shown}))
        return self.text, len(" ".join(self._stable))


def _most_tokens(audio: Audio, config: SessionConfig) -> int:
    """As for the whole transcript of the turn; in a chat `max_length` is the answer's."""
    is_told = config.mode == "transcribe" and "max_length" in config.given
    return config.max_length if is_told else audio.transcript_tokens


class Partials:
    """At most one transcript is under way, of the turn that is open."""

    def __init__(self) -> None:
        self.generation_id: str | None = None
        self._turn_id = ""
        self._due_frame = 0
        self._stable = StablePrefix()
        self._texts: list[str] = []
        # Of the one under way: the sound, and room for its words.
        self._asked_bytes = 0

    @property
    def bytes(self) -> int:
        """What the one under way takes, and what was heard before it."""
        return self._asked_bytes + self._stable.bytes

    def begin_turn(self, turn_id: str, frame: int) -> None:
        """Somebody begins to speak."""
        self._turn_id = turn_id
        self._stable = StablePrefix()
        self._due_frame = frame + PARTIAL_EVERY_FRAMES

    def is_due(self, frame: int) -> bool:
        """Whether it is time for the next one."""
        return self.generation_id is None and frame >= self._due_frame

    @property
    def text(self) -> str:
        """What was last heard of the turn, or nothing."""
        return self._stable.text

    def put_off(self, frame: int) -> None:
        """It is not the time for one after all."""
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
        """Take what the engine says of the one under way."""
        match event:
            case Delta():
                self._texts.append(event.text)
            case Finished():
                self.drop()
                text, stable = self._stable.update("".join(self._texts))
                self._texts = []
                return [Tell(events.Partial(self._turn_id, text, stable))]
            case Failed():
                # The next one is a second away, and the turn itself is told if it fails.
                self.drop()
        return []

    def drop(self) -> list[Effect]:
        """Forget the one under way."""
        generation_id, self.generation_id = self.generation_id, None
        self._asked_bytes = 0
        return [] if generation_id is None else [Cancel(generation_id)]
