"""Takes frames of audio, finds the spoken turns in them, and hands each ended turn to `Answers`."""

import dataclasses
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from voxtral_worker.engine.conversation import Audio, UserTurn
from voxtral_worker.engine.request import GenerationEvent
from voxtral_worker.sessions import events
from voxtral_worker.sessions.answers import Answers
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import Channel, Effect, Tell
from voxtral_worker.sessions.heard_frames import FRAME_BYTES, HeardFrames
from voxtral_worker.sessions.partials import Partials, bytes_to_ask
from voxtral_worker.sessions.pending import Pending
from voxtral_worker.sessions.reopening import KeptTurn, Reopening
from voxtral_worker.sessions.response import Response
from voxtral_worker.sessions.scoring import Scoring
from voxtral_worker.sessions.speculator import Speculator
from voxtral_worker.sessions.transcripts import Transcripts
from voxtral_worker.sessions.turn import Turn, TurnIds
from voxtral_worker.turns.detector import MIN_SPEECH_FRAMES, TurnDetector
from voxtral_worker.turns.events import (
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    TurnEnded,
    TurnEvent,
    TurnReopened,
)

FRAME_MS = 32
FRAME_SAMPLES = 512
# When audio stops coming, an open turn ends after the silence that would end it plus this margin
# for the network's jitter.
STALL_MS = 250


class Listening:
    """At most one spoken turn is open; its frames are held until it is over."""

    def __init__(
        self,
        answers: Answers,
        pending: Pending,
        turn_ids: TurnIds,
        *,
        max_turn_s: float,
        speculates: bool,
    ) -> None:
        # Bytes as the client sent them, before decoding; clients resume from this number.
        self.audio_bytes_received = 0
        self.heard = HeardFrames()
        self.partials = Partials()
        self.speculator = Speculator(answers, pending, self.heard, is_on=speculates)
        self.transcripts = Transcripts(answers)
        self.detector = TurnDetector(max_turn_frames=int(max_turn_s * 1000 / FRAME_MS))
        self.reopening = Reopening(self.detector, answers, pending, self.heard)
        self.scoring = Scoring(self.detector, self.heard, self.speculator)
        self._answers = answers
        self._pending = pending
        self._turn_ids = turn_ids
        self._open_turn_id: str | None = None
        # How often the open turn has ended already: above 0 only after it was reopened.
        self._times_ended = 0
        # Bytes of audio whose frames have been heard. A float, because a chunk's bytes are shared
        # out over its frames.
        self._heard_bytes = 0.0

    @property
    def has_open_turn(self) -> bool:
        """Whether the user is speaking, or pauses within a turn."""
        return self.detector.is_open

    @property
    def may_stall(self) -> bool:
        """Whether a gap in the stream of audio would end a turn, or close one for good."""
        return self.detector.goes_on

    @property
    def stall_s(self) -> float:
        """How long an open turn waits for audio before it counts as ended."""
        config = self._answers.requests.config
        waits = config.waits
        frames = 0 if waits is None else max(waits.hardly, waits.unknown)
        return (max(config.silence_ms, frames * FRAME_MS) + STALL_MS) / 1000

    def require_room(self, size: int) -> None:
        """Raises RateLimited unless `size` bytes of frames and the turn's answer have room."""
        frames = len(self.heard) + size // FRAME_BYTES
        answer = self._answers.requests.bytes_to_answer(frames * FRAME_SAMPLES)
        self._answers.memory.require(size + answer)

    def use_config(self, config: SessionConfig) -> None:
        """Use other options for the turn detector from now on."""
        self.detector.reconfigure(
            config.vad_sensitivity,
            config.silence_ms,
            config.threshold,
            config.pre_roll_ms,
            reopen_ms=config.reopens_within_ms,
            waits=config.waits,
        )

    def go_on_from(self, audio_bytes: int) -> None:
        """Count bytes that another worker has heard."""
        self.audio_bytes_received = audio_bytes
        self._heard_bytes = float(audio_bytes)

    def hear(
        self,
        frames: NDArray[np.float32],
        probabilities: Iterable[float],
        now_s: float,
        *,
        more_frames: int = 0,
    ) -> list[Effect]:
        """Take frames, float32 [k, 512], each with its speech probability.

        `more_frames`: frames of the same chunk that the caller holds back for a later call. It
        stops before a frame for which a score is due: the change of `detector.frames_heard` is
        the number of frames that were taken.
        """
        effects: list[Effect] = []
        self.reopening.look()
        fresh_bytes = self.audio_bytes_received - self._heard_bytes
        frame_bytes = fresh_bytes / max(1, len(frames) + more_frames)
        energies = np.square(frames).sum(axis=1)
        for frame, probability, energy in zip(frames, probabilities, energies, strict=True):
            if self.scoring.is_due:
                break
            self._heard_bytes += frame_bytes
            # Before the detector hears it: the turn that ends with this frame needs its samples.
            self.heard.add(frame, now_s, int(self._heard_bytes))
            self.detector.least_speech_frames = self._least_speech_frames(now_s)
            for found in self.detector.hear(float(probability), float(energy)):
                effects += self._on_turn_event(found, now_s)
            heard = self.detector.frames_heard
            effects += self.speculator.look_at_pause(self._open_turn_id, heard, now_s)
        effects += self._look_at_partial()
        self._forget_heard()
        return effects

    def end_turn(self, now_s: float, to: Channel = None) -> list[Effect]:
        """End the user's turn now, because the client asked for it."""
        found = self.detector.end_turn()
        if not found:
            return [Tell(events.NoSpeech(), to)]
        return self._on_turn_events(found, now_s)

    def stall(self, now_s: float) -> list[Effect]:
        """End the open turn, because no audio has come for too long."""
        if self.detector.is_reopenable:
            # No turn is open, and the last one may still continue within a number of frames.
            # A gap has no frames, so how long it is cannot be counted: close it.
            self.reopening.close()
            return []
        return self._on_turn_events(self.detector.end_turn("stalled"), now_s)

    def forget_turn(self) -> list[Effect]:
        """Drop the open turn, as if it had not been spoken."""
        self.reopening.close()
        self.detector.end_turn()
        self._open_turn_id = None
        self._forget_heard()
        return [*self.partials.drop(), *self.speculator.forget_turn()]

    def on_event(self, generation_id: str, event: GenerationEvent) -> list[Effect] | None:
        """Take an event of a transcript or a speculation. None: the generation is neither."""
        if generation_id == self.partials.generation_id:
            return self.partials.on_event(event)
        effects = self.transcripts.on_event(generation_id, event)
        return self.speculator.on_event(generation_id, event) if effects is None else effects

    def _on_turn_events(self, found: Iterable[TurnEvent], now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        for event in found:
            effects += self._on_turn_event(event, now_s)
        self._forget_heard()
        return effects

    def _on_turn_event(self, event: TurnEvent, now_s: float) -> list[Effect]:
        match event:
            case SpeechStarted():
                return self._start_turn(event, now_s)
            case TurnReopened():
                return self._reopen_turn(event, now_s)
            case SpeechPaused():
                self.speculator.begin_pause(event)
                return self.scoring.ask(event, self._open_turn_id)
            case SpeechResumed():
                return self.speculator.end_pause(self.detector.frames_heard)
        return self._end_turn(event, now_s)

    def _start_turn(self, started: SpeechStarted, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        # A turn that was cut because it was too long continues as this one. The user has not heard
        # an answer between the two, so this speech interrupts nothing.
        if self._interrupts and not started.goes_on:
            effects += self._answers.stop(events.Why.SPOKEN_OVER, now_s)
        self._open_turn_id, self._times_ended = self._turn_ids.next(), 0
        self.partials.begin_turn(self._open_turn_id, self.detector.frames_heard)
        start_ms = started.first_frame * FRAME_MS
        return [*effects, Tell(events.SpeechStarted(self._open_turn_id, start_ms))]

    def _reopen_turn(self, reopened: TurnReopened, now_s: float) -> list[Effect]:
        kept, effects = self.reopening.reopen(now_s)
        self._open_turn_id, self._times_ended = kept.turn_id, kept.times
        self.speculator.reopen(self.detector.frames_heard - kept.ended.end_frame)
        self.partials.put_off(self.detector.frames_heard)
        effects += self.transcripts.withdraw(kept.turn_id)
        start_ms = reopened.first_frame * FRAME_MS
        effects.append(Tell(events.TurnReopened(kept.turn_id, start_ms)))
        if self._interrupts:
            # Its own answer was withdrawn above. This stops the response to a text that was sent
            # while the turn was being spoken.
            effects += self._answers.stop(events.Why.SPOKEN_OVER, now_s)
        return effects

    @property
    def _interrupts(self) -> bool:
        """Whether speech stops the response being made.

        It does not stop a transcript: a user who continues after a pause wants both.
        """
        config = self._answers.requests.config
        return config.barge_in and config.mode == "chat"

    def _least_speech_frames(self, now_s: float) -> int:
        """How much speech starts a turn: while a response is made or played, `barge_in_ms`."""
        is_quiet = not self._answers.queue and not self._answers.speaking.is_audible(now_s)
        if is_quiet or not self._interrupts:
            return MIN_SPEECH_FRAMES
        return max(MIN_SPEECH_FRAMES, -(-self._answers.requests.config.barge_in_ms // FRAME_MS))

    def _end_turn(self, ended: TurnEnded, now_s: float) -> list[Effect]:
        # First, so that no Partial of this turn comes after its SpeechEnded.
        effects = self.partials.drop()
        if self._open_turn_id is None:
            return [*effects, Tell(events.NoSpeech(self._turn_ids.next()))]
        turn_id, self._open_turn_id = self._open_turn_id, None
        wasted, speculation = self.speculator.end_turn(ended)
        effects += wasted
        if speculation is None:
            audio = Audio(self.heard.samples(ended.first_frame, ended.end_frame))
            user = self._pending.with_audio(audio)
        else:
            user = speculation.request.conversation.user
        # Until there is a real transcript, the last partial one is what a record may keep.
        user = dataclasses.replace(user, heard=self.partials.text)
        told = _speech_ended(turn_id, ended, user)
        effects.append(Tell(told))
        if not self._answers.requests.config.answers_turns:
            # The client asks for the answer itself: keep the audio until then.
            self._pending.add(turn_id, user.parts[-1:])
            self.reopening.close()
            return effects
        said = self._pending.take()
        effects.append(Tell(events.Accepted(turn_id)))
        audio_bytes = self.audio_bytes_received
        if ended.reason == "too_long":
            # The audio after the cut belongs to the next turn.
            audio_bytes = self.heard.audio_bytes(ended.end_frame - 1)
        # A reopened turn keeps its id and is answered again. Its new generation needs another id,
        # so that late events of the withdrawn one are ignored.
        turn = Turn(
            turn_id,
            None,
            "audio",
            user,
            Response(
                f"{turn_id}.{self._times_ended}" if self._times_ended else turn_id,
                decided_s=now_s,
                speech_end_s=self.heard.heard_s(ended.last_speech_frame),
            ),
            speech_ms=ended.speech_frames * FRAME_MS,
            audio_bytes=audio_bytes,
        )
        start_bytes = self.heard.audio_bytes(ended.first_frame)
        # The turn holds its own samples now. Drop the frames before `adopt` or `add` asks for
        # room, or the same sound would count twice.
        self._forget_heard()
        if speculation is not None:
            effects += self._answers.adopt(turn, speculation, now_s)
        else:
            effects += self._answers.add(turn, now_s)
        calls = any(isinstance(e, Tell) and isinstance(e.event, events.CallMade) for e in effects)
        if not calls and (speculation is not None or self._answers.holds(turn_id)):
            times = self._times_ended + 1
            self.reopening.keep(KeptTurn(turn_id, ended, told.audio, said, start_bytes, times))
        else:
            # The turn was refused because too much waits, or its answer, made ahead, has called
            # a tool: what a tool did cannot be taken back.
            self.reopening.close()
        if (
            self._answers.requests.config.transcript
            and self._answers.requests.config.mode == "chat"
        ):
            effects += self.transcripts.add(turn_id, told.audio)
        return effects

    def _forget_heard(self) -> None:
        self.heard.forget_before(self.detector.oldest_needed_frame)

    def _look_at_partial(self) -> list[Effect]:
        frame = self.detector.frames_heard
        config = self._answers.requests.config
        if not (config.interim and self._open_turn_id and self.partials.is_due(frame)):
            return []
        audio = Audio(self.heard.samples(self.detector.oldest_needed_frame, frame))
        if not self._answers.memory.has_room(bytes_to_ask(audio, config)):
            # Partials are a convenience: skip this one and keep the room for the turn itself.
            self.partials.put_off(frame)
            return []
        return self.partials.ask(audio, config, frame)


def _speech_ended(turn_id: str, ended: TurnEnded, user: UserTurn) -> events.SpeechEnded:
    (audio,) = (part for part in user.parts[-1:] if isinstance(part, Audio))
    start_ms, end_ms = ended.first_frame * FRAME_MS, ended.end_frame * FRAME_MS
    return events.SpeechEnded(turn_id, start_ms, end_ms, audio, ended.reason, ended.completeness)
