"""Makes turns of what the turn detector reports, and hands each ended one to `Answers`."""

import dataclasses
from dataclasses import dataclass

from voxtral_worker.audio.frames import FRAME_MS
from voxtral_worker.engine.conversation import Audio, UserTurn
from voxtral_worker.engine.request import GenerationEvent
from voxtral_worker.sessions import events
from voxtral_worker.sessions.answers import Answers
from voxtral_worker.sessions.effects import Effect, Tell, calls_tools
from voxtral_worker.sessions.heard_frames import HeardFrames
from voxtral_worker.sessions.partials import Partials, bytes_to_ask
from voxtral_worker.sessions.pending import Pending
from voxtral_worker.sessions.reopening import KeptTurn, Reopening
from voxtral_worker.sessions.response import Response
from voxtral_worker.sessions.speculation import Speculation
from voxtral_worker.sessions.speculator import Speculator
from voxtral_worker.sessions.transcripts import Transcripts
from voxtral_worker.sessions.turn import Turn
from voxtral_worker.turns.detector import TurnDetector
from voxtral_worker.turns.events import SpeechPaused, SpeechStarted, TurnEnded, TurnReopened


@dataclass(frozen=True)
class _OpenTurn:
    """The turn that is being spoken."""

    turn_id: str
    # How often it has ended already: above 0 only after it was reopened.
    times_ended: int = 0

    @property
    def generation_id(self) -> str:
        """The engine's name for the answer to it."""
        # A reopened turn keeps its id and is answered again. Its new generation needs another id,
        # so that late events of the withdrawn one are ignored.
        return f"{self.turn_id}.{self.times_ended}" if self.times_ended else self.turn_id


class SpokenTurns:
    """At most one spoken turn is open. Once it is over, it waits for its answer in `Answers`."""

    def __init__(
        self,
        answers: Answers,
        pending: Pending,
        detector: TurnDetector,
        heard: HeardFrames,
        *,
        speculates: bool,
    ) -> None:
        """`speculates`: whether answers may be generated before a turn is over."""
        # Transcripts of the open turn, while it is spoken.
        self.partials = Partials()
        # Transcripts of turns that are over.
        self.transcripts = Transcripts(answers)
        # The answer to the open turn, asked for before its end.
        self.speculator = Speculator(answers, pending, heard, is_on=speculates)
        # The last turn, while it may still continue.
        self.reopening = Reopening(detector, answers, pending, heard)
        self._answers = answers
        # Input that becomes part of the next turn.
        self._pending = pending
        # The two know the frames of the open turn: where they are, and their samples.
        self._detector = detector
        self._heard = heard
        # None: no turn is open.
        self._open: _OpenTurn | None = None

    @property
    def speech_interrupts(self) -> bool:
        """Whether speech stops the response being made.

        It does not stop a transcript: a user who continues after a pause wants both.
        """
        config = self._answers.requests.config
        return config.barge_in and config.mode == "chat"

    def start(self, started: SpeechStarted, now_s: float) -> list[Effect]:
        """Open a turn."""
        effects: list[Effect] = []
        # A turn that was cut because it was too long continues as this one. The user has not heard
        # an answer between the two, so this speech interrupts nothing.
        if self.speech_interrupts and not started.goes_on:
            effects += self._answers.stop(events.Why.SPOKEN_OVER, now_s)
        turn_id = self._answers.queue.new_id()
        self._open = _OpenTurn(turn_id)
        self.partials.begin_turn(turn_id, self._detector.frames_heard)
        start_ms = started.first_frame * FRAME_MS
        return [*effects, Tell(events.SpeechStarted(turn_id, start_ms))]

    def reopen(self, reopened: TurnReopened, now_s: float) -> list[Effect]:
        """Open the last turn again, and withdraw its answer and its transcript."""
        kept, effects = self.reopening.reopen(now_s)
        frame = self._detector.frames_heard
        self._open = _OpenTurn(kept.turn_id, kept.times)
        self.speculator.reopen(frame - kept.ended.end_frame)
        self.partials.put_off(frame)
        effects += self.transcripts.withdraw(kept.turn_id)
        start_ms = reopened.first_frame * FRAME_MS
        effects.append(Tell(events.TurnReopened(kept.turn_id, start_ms)))
        if self.speech_interrupts:
            # Its own answer was withdrawn above. This stops the response to a text that was sent
            # while the turn was being spoken.
            effects += self._answers.stop(events.Why.SPOKEN_OVER, now_s)
        return effects

    def pause(self, pause: SpeechPaused) -> None:
        """Take a pause of the open turn, which may become its end."""
        # Only an open turn can pause.
        assert self._open is not None
        self.speculator.begin_pause(pause, self._open.turn_id)

    def resume(self) -> list[Effect]:
        """End the pause of the open turn."""
        return self.speculator.end_pause(self._detector.frames_heard)

    def end(self, ended: TurnEnded, audio_bytes: int, now_s: float) -> list[Effect]:
        """End the open turn, after `audio_bytes` of the stream have come."""
        # First, so that no Partial of this turn comes after its SpeechEnded.
        effects = self.partials.drop()
        turn, self._open = self._open, None
        if turn is None:
            return [*effects, Tell(events.NoSpeech(self._answers.queue.new_id()))]
        wasted, speculation = self.speculator.end_turn(ended)
        user = self._said_in(ended, speculation)
        told = _speech_ended(turn.turn_id, ended, user)
        effects += [*wasted, Tell(told)]
        if not self._answers.requests.config.answers_turns:
            # The client asks for the answer itself: keep the audio until then.
            self._pending.add(turn.turn_id, (told.audio,))
            self.reopening.close()
            return effects
        kept = KeptTurn(
            turn.turn_id,
            ended,
            told.audio,
            said=self._pending.take(),
            start_bytes=self._heard.audio_bytes(ended.first_frame),
            times=turn.times_ended + 1,
        )
        speech_end_s = self._heard.heard_s(ended.last_speech_frame)
        if ended.reason == "too_long":
            # The audio after the cut belongs to the next turn.
            audio_bytes = self._heard.audio_bytes(ended.end_frame - 1)
        spoken = Turn(
            turn.turn_id,
            None,
            user,
            Response(turn.generation_id, now_s, speech_end_s),
            speech_ms=ended.speech_frames * FRAME_MS,
            audio_bytes=audio_bytes,
        )
        effects.append(Tell(events.Accepted(turn.turn_id)))
        return [*effects, *self._answer(spoken, kept, speculation, now_s)]

    def forget(self) -> list[Effect]:
        """Drop the open turn, as if it had not been spoken."""
        self.reopening.close()
        self._open = None
        return [*self.partials.drop(), *self.speculator.forget_turn()]

    def forget_frames(self) -> None:
        """Forget the frames that no turn needs any more."""
        self._heard.forget_before(self._detector.oldest_needed_frame)

    def look_at_partial(self) -> list[Effect]:
        """Ask for a partial transcript of the open turn, if it is time for one."""
        frame, config = self._detector.frames_heard, self._answers.requests.config
        if not (config.interim and self._open and self.partials.is_due(frame)):
            return []
        audio = Audio(self._heard.samples(self._detector.oldest_needed_frame, frame))
        if not self._answers.memory.has_room(bytes_to_ask(audio, config)):
            # Partials are a convenience: skip this one and keep the room for the turn itself.
            self.partials.put_off(frame)
            return []
        return self.partials.ask(audio, config, frame)

    def give_way(self) -> list[Effect]:
        """Note that the client has sent other input: the last turn does not continue."""
        self.reopening.close()
        return self.speculator.discard()

    def on_event(self, generation_id: str, event: GenerationEvent) -> list[Effect] | None:
        """Take an event of a transcript or a speculation. None: the generation is neither."""
        if generation_id == self.partials.generation_id:
            return self.partials.on_event(event)
        effects = self.transcripts.on_event(generation_id, event)
        return self.speculator.on_event(generation_id, event) if effects is None else effects

    def _said_in(self, ended: TurnEnded, speculation: Speculation | None) -> UserTurn:
        """What the user said with a turn: pending input, and then the audio."""
        if speculation is not None:
            user = speculation.request.conversation.user
        else:
            audio = Audio(self._heard.samples(ended.first_frame, ended.end_frame))
            user = self._pending.with_audio(audio)
        # Until there is a real transcript, the last partial one is what a record may keep.
        return dataclasses.replace(user, heard=self.partials.text)

    def _answer(
        self, turn: Turn, kept: KeptTurn, speculation: Speculation | None, now_s: float
    ) -> list[Effect]:
        """Answer a turn that is over, by its speculation if there is one."""
        # The turn holds its own samples now. Drop the frames before `adopt` or `add` asks for
        # room, or the same sound would count twice.
        self.forget_frames()
        if speculation is not None:
            effects = self._answers.adopt(turn, speculation, now_s)
        else:
            effects = self._answers.add(turn, now_s)
        is_taken = speculation is not None or self._answers.holds(turn.turn_id)
        if is_taken and not calls_tools(effects):
            self.reopening.keep(kept)
        else:
            # The turn was refused because too much waits, or its answer, made ahead, has called
            # a tool: what a tool did cannot be taken back.
            self.reopening.close()
        config = self._answers.requests.config
        if config.transcript and config.mode == "chat":
            effects += self.transcripts.add(turn.turn_id, kept.audio)
        return effects


def _speech_ended(turn_id: str, ended: TurnEnded, user: UserTurn) -> events.SpeechEnded:
    (audio,) = (part for part in user.parts[-1:] if isinstance(part, Audio))
    start_ms, end_ms = ended.first_frame * FRAME_MS, ended.end_frame * FRAME_MS
    return events.SpeechEnded(turn_id, start_ms, end_ms, audio, ended.reason, ended.completeness)
