"""Asks for the answer to a turn ahead of its end, and forgets it when the turn goes on."""

from voxtral_worker.engine.conversation import Audio
from voxtral_worker.engine.request import Failed, Finished, GenerationEvent, Urgency
from voxtral_worker.sessions.answers import Answers, answer_bytes
from voxtral_worker.sessions.effects import Cancel, Effect, Generate, Settle
from voxtral_worker.sessions.heard_frames import HeardFrames
from voxtral_worker.sessions.pending import Pending
from voxtral_worker.sessions.speculation import Speculation, SpeculationPolicy
from voxtral_worker.turns.detector import (
    SEEMS_COMPLETE,
    SURELY_COMPLETE,
    TAIL_FRAMES,
    SpeechPaused,
    TurnEnded,
)


class Speculator:
    """At most one generation at a time, whose events are withheld until the turn is over."""

    def __init__(
        self, answers: Answers, pending: Pending, heard: HeardFrames, *, is_on: bool
    ) -> None:
        self._answers = answers
        self._pending = pending
        self._heard = heard
        self._is_on = is_on
        self._policy = SpeculationPolicy()
        self._speculation: Speculation | None = None
        # Wrong guesses of which the engine has not yet said what they cost.
        self._discarded: set[str] = set()

    @property
    def bytes(self) -> int:
        """What the guess under way takes beside what is held anyway."""
        guess = self._speculation
        return 0 if guess is None else guess.sound_bytes + guess.answer_bytes

    def begin_pause(self, pause: SpeechPaused) -> None:
        """Speech has paused: this may become the turn's end."""
        self._policy.begin_pause(pause)

    def end_pause(self, frame: int) -> list[Effect]:
        """Speech goes on at `frame`."""
        self._policy.end_pause(frame)
        return self.discard()

    def look_at_pause(self, turn_id: str | None, frame: int, now_s: float) -> list[Effect]:
        """Ask, if the pause that was heard up to `frame` is worth a guess."""
        pause = self._policy.pause
        may_guess = self._is_on and self._answers.config.answers_turns and self._answers.is_idle
        if pause is None or not may_guess or not self._policy.is_time_to_guess(frame):
            return []
        self._policy.guess()
        samples = self._heard.samples(pause.first_frame, pause.end_frame)
        user = self._pending.with_audio(Audio(samples))
        request = self._answers.request(user, Urgency.SPECULATION, is_audio=True)
        answer = answer_bytes(request.sampling)
        if not self._answers.memory.has_room(samples.nbytes + answer):
            return []
        generation_id = f"ahead-{turn_id}-{frame}"
        self._speculation = Speculation(
            generation_id, request, pause, now_s, sound_bytes=samples.nbytes, answer_bytes=answer
        )
        return [Generate(generation_id, request)]

    def weigh(self, score: float, end_frame: int) -> list[Effect]:
        """It is known that the pause ends the turn at `end_frame`, unless speech goes on.

        Words that sound complete are answered at once. Of others the guess is dropped, which had
        most of the pause before it, and made again shortly before their end.
        """
        if score >= SURELY_COMPLETE:
            if self._speculation is None:
                self._policy.guess_at(0)
            return []
        if score >= SEEMS_COMPLETE:
            return []
        self._policy.guess_at(end_frame - TAIL_FRAMES)
        return self.discard()

    def reopen(self, frames: int) -> None:
        """The last turn goes on after so many frames that were taken for its end."""
        self._policy.reopen(frames)

    def end_turn(self, ended: TurnEnded) -> tuple[list[Effect], Speculation | None]:
        """The turn is over; the speculation is the one that it may be answered with."""
        effects = self.drop_stale(ended)
        self._policy.end_turn()
        speculation, self._speculation = self._speculation, None
        return effects, speculation

    def forget_turn(self) -> list[Effect]:
        """The turn is not to be answered."""
        self._policy.end_turn()
        return self.discard()

    def drop_stale(self, ended: TurnEnded | None = None) -> list[Effect]:
        """Discard what is not, or no longer, what the turn would be answered with."""
        speculation = self._speculation
        if speculation is None:
            return []
        pause, request = speculation.pause, speculation.request
        ends_there = ended is None or ended.end_frame == pause.end_frame
        user = request.conversation.user
        is_same = self._answers.request(user, request.urgency, is_audio=True) == request
        would_answer = self._answers.is_idle and self._answers.config.answers_turns
        return [] if ends_there and is_same and would_answer else self.discard()

    def discard(self) -> list[Effect]:
        """The guess, if there is one, was wrong."""
        speculation, self._speculation = self._speculation, None
        if speculation is None:
            return []
        self._policy.charge()
        if speculation.is_finished:
            return [_wasted(speculation.withheld[-1])]
        self._discarded.add(speculation.generation_id)
        return [Cancel(speculation.generation_id)]

    def on_event(self, generation_id: str, event: GenerationEvent) -> list[Effect] | None:
        """Take what the engine says of a guess; None when it was none."""
        speculation = self._speculation
        if speculation is not None and generation_id == speculation.generation_id:
            if isinstance(event, Failed):
                # The turn asks again when it is over, and is told if that fails too.
                self._speculation = None
                return [_wasted(event)]
            speculation.withheld.append(event)
            return []
        if generation_id in self._discarded and isinstance(event, Finished | Failed):
            self._discarded.remove(generation_id)
            return [_wasted(event)]
        return None


def _wasted(last: GenerationEvent) -> Settle:
    """What a wrong guess has cost; one that the engine never began has cost nothing."""
    if not isinstance(last, Finished):
        return Settle("yielded")
    usage, timings = last.usage, last.timings
    computed = usage.completion_tokens
    if usage.completion_tokens or timings.prefill_s:
        computed += usage.prompt_tokens - usage.cached_tokens
    has_begun = computed or timings.encode_s
    return Settle("discarded" if has_begun else "yielded", computed)
