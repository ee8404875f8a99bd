"""Transcripts of what is being said, and which of their words will not change any more.

Local agreement of two successive hypotheses, after Macháček, Dabre and Bojar 2023,
"Turning Whisper into Real-Time Transcription System" (arXiv:2307.14743): the words that
two hypotheses in a row share are stable, and stay.
"""

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
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import Cancel, Effect, Generate, LineName, Send
from voxtral_worker.sessions.messages import TranscriptPartial

# A transcript of what is being said is worth a look once a second.
PARTIAL_EVERY_FRAMES = 31


class StablePrefix:
    """One turn's hypotheses; what was once stable never changes."""

    def __init__(self) -> None:
        self._stable: list[str] = []
        self._last: list[str] = []
        self._shown: list[str] = []

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
        return self.text, len(" ".join(self._stable))


class Partials:
    """At most one transcript is under way, of the turn that is open."""

    def __init__(self) -> None:
        self.generation_id: str | None = None
        self._turn_id = ""
        self._due_frame = 0
        self._stable = StablePrefix()
        self._texts: list[str] = []

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

    def ask(self, audio: Audio, config: SessionConfig, frame: int) -> list[Effect]:
        """Ask for a transcript of the turn so far."""
        self._due_frame = frame + PARTIAL_EVERY_FRAMES
        self.generation_id = f"partial-{self._turn_id}-{frame}"
        self._texts = []
        conversation = Conversation(UserTurn((audio,)), transcribe=True, language=config.language)
        sampling = Sampling(0.0, 1.0, config.max_length)
        request = GenerationRequest(conversation, sampling, Urgency.PARTIAL)
        return [Generate(self.generation_id, request)]

    def on_event(self, event: GenerationEvent) -> list[Effect]:
        """Take what the engine says of the one under way."""
        match event:
            case Delta():
                self._texts.append(event.text)
            case Finished():
                self.generation_id = None
                text, stable = self._stable.update("".join(self._texts))
                return [Send(LineName.AUDIO, TranscriptPartial(text, stable, self._turn_id))]
            case Failed():
                # The next one is a second away, and the turn itself is told if it fails.
                self.generation_id = None
        return []

    def drop(self) -> list[Effect]:
        """Forget the one under way."""
        generation_id, self.generation_id = self.generation_id, None
        return [] if generation_id is None else [Cancel(generation_id)]
