"""Writes down what the user said in spoken turns, beside their answers."""

from collections import deque
from dataclasses import dataclass, field

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
from voxtral_worker.errors import RateLimited, WorkerError
from voxtral_worker.sessions import events
from voxtral_worker.sessions.answers import MAX_WAITING, Answers
from voxtral_worker.sessions.effects import Cancel, Effect, Generate, Tell
from voxtral_worker.sessions.memory import TOKEN_BYTES


@dataclass
class _Wanted:
    """A spoken turn whose words are wanted, and what has come of them."""

    turn_id: str
    generation_id: str
    audio: Audio
    texts: list[str] = field(default_factory=list)


class Transcripts:
    """One turn at a time is written down, in the order in which they were over.

    Nothing waits for a transcript. One that cannot be made is told as such.
    """

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._wanted: deque[_Wanted] = deque()
        self._asked = 0

    @property
    def bytes(self) -> int:
        """What the words under way may take, and sound that nobody else holds."""
        words = self._wanted[0].audio.transcript_tokens * TOKEN_BYTES if self._wanted else 0
        return words + sum(
            wanted.audio.nbytes
            for wanted in self._wanted
            if not self._answers.holds(wanted.turn_id)
        )

    def add(self, turn_id: str, audio: Audio) -> list[Effect]:
        """A spoken turn is over: its words are wanted."""
        if len(self._wanted) >= MAX_WAITING:
            error = RateLimited(f"{MAX_WAITING} transcripts wait already", retry_after_s=1.0)
            return _failed(turn_id, error)
        try:
            self._answers.memory.require(audio.transcript_tokens * TOKEN_BYTES)
        except RateLimited as error:
            return _failed(turn_id, error)
        self._asked += 1
        self._wanted.append(_Wanted(turn_id, f"transcript-{turn_id}-{self._asked}", audio))
        return self._ask() if len(self._wanted) == 1 else []

    def withdraw(self, turn_id: str) -> list[Effect]:
        """A turn goes on: these are not yet its words."""
        current = self._wanted[0] if self._wanted else None
        self._wanted = deque(wanted for wanted in self._wanted if wanted.turn_id != turn_id)
        if current is None or current.turn_id != turn_id:
            return []
        return [Cancel(current.generation_id), *self._ask()]

    def on_event(self, generation_id: str, event: GenerationEvent) -> list[Effect] | None:
        """Take what the engine says of the one under way; None when it was none."""
        if not self._wanted or generation_id != self._wanted[0].generation_id:
            return None
        wanted = self._wanted[0]
        match event:
            case Delta():
                wanted.texts.append(event.text)
                return []
            case Finished():
                text = "".join(wanted.texts).strip()
                told: list[Effect] = [Tell(events.Transcript(wanted.turn_id, text))]
                self._answers.set_words(wanted.turn_id, text)
            case Failed(error):
                told = _failed(wanted.turn_id, error)
            case _:
                return []
        self._wanted.popleft()
        return [*told, *self._ask()]

    def give_up(self) -> list[Effect]:
        """No words are wanted any more."""
        current = self._wanted[0] if self._wanted else None
        self._wanted.clear()
        return [] if current is None else [Cancel(current.generation_id)]

    def _ask(self) -> list[Effect]:
        if not self._wanted:
            return []
        wanted = self._wanted[0]
        conversation = Conversation(
            UserTurn((wanted.audio,)), transcribe=True, language=self._answers.config.language
        )
        sampling = Sampling(0.0, 1.0, wanted.audio.transcript_tokens)
        request = GenerationRequest(conversation, sampling, Urgency.TRANSCRIPT)
        return [Generate(wanted.generation_id, request)]


def _failed(turn_id: str, error: WorkerError) -> list[Effect]:
    return [Tell(events.Transcript(turn_id, "", error))]
