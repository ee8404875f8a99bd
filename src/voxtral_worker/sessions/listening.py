"""Takes frames of audio, and finds the spoken turns in them."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from voxtral_worker.audio.frames import FRAME_MS, FRAME_SAMPLES
from voxtral_worker.sessions import events
from voxtral_worker.sessions.answers import Answers
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import Channel, Effect, Tell
from voxtral_worker.sessions.heard_frames import FRAME_BYTES, HeardFrames
from voxtral_worker.sessions.pending import Pending
from voxtral_worker.sessions.scoring import Scoring
from voxtral_worker.sessions.spoken_turns import SpokenTurns
from voxtral_worker.turns.detector import MIN_SPEECH_FRAMES, TurnDetector
from voxtral_worker.turns.events import (
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    TurnEvent,
    TurnReopened,
)

# When audio stops coming, an open turn ends after the silence that would end it plus this margin
# for the network's jitter.
STALL_MS = 250


class Listening:
    """The frames of the open turn are held until it is over."""

    def __init__(
        self, answers: Answers, pending: Pending, *, max_turn_s: float, speculates: bool
    ) -> None:
        # Bytes as the client sent them, before decoding; clients resume from this number.
        self.audio_bytes_received = 0
        self.heard = HeardFrames()
        self.detector = TurnDetector(max_turn_frames=int(max_turn_s * 1000 / FRAME_MS))
        self.turns = SpokenTurns(answers, pending, self.detector, self.heard, speculates=speculates)
        self.scoring = Scoring(self.detector, self.heard, self.turns.speculator)
        self._answers = answers

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
        self.heard.stream_bytes = float(audio_bytes)

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
        self.turns.reopening.look()
        fresh_bytes = self.audio_bytes_received - self.heard.stream_bytes
        frame_bytes = fresh_bytes / max(1, len(frames) + more_frames)
        energies = np.square(frames).sum(axis=1)
        for frame, probability, energy in zip(frames, probabilities, energies, strict=True):
            if self.scoring.is_due:
                break
            # Before the detector hears it: the turn that ends with this frame needs its samples.
            self.heard.add(frame, now_s, frame_bytes)
            self.detector.least_speech_frames = self._least_speech_frames(now_s)
            for found in self.detector.hear(float(probability), float(energy)):
                effects += self._on_turn_event(found, now_s)
            effects += self.turns.speculator.look_at_pause(self.detector.frames_heard, now_s)
        effects += self.turns.look_at_partial()
        self.turns.forget_frames()
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
            self.turns.reopening.close()
            return []
        return self._on_turn_events(self.detector.end_turn("stalled"), now_s)

    def forget_turn(self) -> list[Effect]:
        """Drop the open turn, as if it had not been spoken."""
        self.detector.end_turn()
        effects = self.turns.forget()
        self.turns.forget_frames()
        return effects

    def give_up(self) -> list[Effect]:
        """Forget all that was heard. No more audio will come, so an open turn is not answered."""
        effects = [*self.forget_turn(), *self.turns.transcripts.give_up()]
        self.heard.clear()
        return effects

    def _on_turn_events(self, found: Iterable[TurnEvent], now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        for event in found:
            effects += self._on_turn_event(event, now_s)
        self.turns.forget_frames()
        return effects

    def _on_turn_event(self, event: TurnEvent, now_s: float) -> list[Effect]:
        match event:
            case SpeechStarted():
                return self.turns.start(event, now_s)
            case TurnReopened():
                return self.turns.reopen(event, now_s)
            case SpeechPaused():
                self.turns.pause(event)
                return self.scoring.ask(event)
            case SpeechResumed():
                return self.turns.resume()
        return self.turns.end(event, self.audio_bytes_received, now_s)

    def _least_speech_frames(self, now_s: float) -> int:
        """How much speech starts a turn: while a response is made or played, `barge_in_ms`."""
        is_quiet = not self._answers.queue and not self._answers.speaking.is_audible(now_s)
        if is_quiet or not self.turns.speech_interrupts:
            return MIN_SPEECH_FRAMES
        barge_in_ms = self._answers.requests.config.barge_in_ms
        return max(MIN_SPEECH_FRAMES, -(-barge_in_ms // FRAME_MS))
