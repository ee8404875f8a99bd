"""Transcribes spoken turns in addition to answering them."""

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
from voxtral_worker.sessions.answers import Answers
from voxtral_worker.sessions.effects import Cancel, Effect, Generate, Tell
from voxtral_worker.sessions.memory import TOKEN_BYTES
from voxtral_worker.sessions.turn_queue import MAX_WAITING


@dataclass
class _Wanted:
    """A spoken turn to be transcribed, and the words so far."""

    turn_id: str
    generation_id: str
    audio: Audio
    texts: list[str] = field(default_factory=list)


class Transcripts:
    """Transcribes one turn at a time, in the order in which they ended.

    Answers do not wait for transcripts. A transcript that fails is reported with its error.
    """

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        # The first one is being transcribed.
        self._wanted: deque[_Wanted] = deque()
        # Counts requests: a reopened turn is transcribed again and needs another generation id.
        self._asked = 0

    @property
    def bytes(self) -> int:
        """Room for the transcript under way, and size of audio that `Answers` does not hold."""
        words = self._wanted[0].audio.transcript_tokens * TOKEN_BYTES if self._wanted else 0
        return words + sum(
            wanted.audio.nbytes
            for wanted in self._wanted
            if not self._answers.holds(wanted.turn_id)
        )

    def add(self, turn_id: str, audio: Audio) -> list[Effect]:
        """Transcribe a turn that is over."""
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
        """Drop the transcript of a turn that continues: it would lack the turn's end."""
        current = self._wanted[0] if self._wanted else None
        self._wanted = deque(wanted for wanted in self._wanted if wanted.turn_id != turn_id)
        if current is None or current.turn_id != turn_id:
            return []
        return [Cancel(current.generation_id), *self._ask()]

    def on_event(self, generation_id: str, event: GenerationEvent) -> list[Effect] | None:
        """Take an event of the transcript under way. None: the generation is not it."""
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
        """Drop all transcripts, because the session ends."""
        current = self._wanted[0] if self._wanted else None
        self._wanted.clear()
        return [] if current is None else [Cancel(current.generation_id)]

    def _ask(self) -> list[Effect]:
        if not self._wanted:
            return []
        wanted = self._wanted[0]
        conversation = Conversation(
            UserTurn((wanted.audio,)),
            transcribe=True,
            language=self._answers.requests.config.language,
        )
        sampling = Sampling(0.0, 1.0, wanted.audio.transcript_tokens)
        request = GenerationRequest(conversation, sampling, Urgency.TRANSCRIPT)
        return [Generate(wanted.generation_id, request)]


def _failed(turn_id: str, error: WorkerError) -> list[Effect]:
    return [Tell(events.Transcript(turn_id, "", error))]
