"""Asks for the answer to a turn before its end, and drops it if the turn continues."""

from voxtral_worker.engine.conversation import Audio
from voxtral_worker.engine.request import Failed, Finished, GenerationEvent, Urgency
from voxtral_worker.sessions.answers import Answers
from voxtral_worker.sessions.effects import Cancel, Effect, Generate, Settle
from voxtral_worker.sessions.heard_frames import HeardFrames
from voxtral_worker.sessions.pending import Pending
from voxtral_worker.sessions.request_builder import answer_bytes
from voxtral_worker.sessions.speculation import Speculation, SpeculationPolicy
from voxtral_worker.turns.endpoint import SEEMS_COMPLETE, SURELY_COMPLETE, TAIL_FRAMES
from voxtral_worker.turns.events import SpeechPaused, TurnEnded


class Speculator:
    """Holds at most one speculation; its events are withheld until the turn is over."""

    def __init__(
        self, answers: Answers, pending: Pending, heard: HeardFrames, *, is_on: bool
    ) -> None:
        self._answers = answers
        # A guess takes the pending input and the frames of the open turn, as the turn itself will.
        self._pending = pending
        self._heard = heard
        # Whether the worker guesses at all.
        self._is_on = is_on
        # Decides which pauses are worth a guess.
        self.policy = SpeculationPolicy()
        # The turn of the last pause.
        self._turn_id = ""
        # The guess under way. None: there is none.
        self.speculation: Speculation | None = None
        # Generations of wrong guesses. Their last event says how many tokens were wasted.
        self._discarded: set[str] = set()

    @property
    def bytes(self) -> int:
        """Size of the guess under way: its copy of the audio, and room for its answer."""
        guess = self.speculation
        return 0 if guess is None else guess.sound_bytes + guess.answer_bytes

    @property
    def _would_answer(self) -> bool:
        """Whether a turn that ended now would be answered at once."""
        return self._answers.requests.config.answers_turns and not self._answers.queue

    def begin_pause(self, pause: SpeechPaused, turn_id: str) -> None:
        """Take a pause of a turn, which may become its end."""
        self._turn_id = turn_id
        self.policy.begin_pause(pause)

    def end_pause(self, frame: int) -> list[Effect]:
        """Drop the guess: speech continues at `frame`."""
        self.policy.end_pause(frame)
        return self.discard()

    def look_at_pause(self, frame: int, now_s: float) -> list[Effect]:
        """Ask the engine, if the pause heard up to `frame` is worth a guess."""
        pause = self.policy.pause
        may_guess = self._is_on and self._would_answer
        if pause is None or not may_guess or not self.policy.is_time_to_guess(frame):
            return []
        self.policy.guess()
        samples = self._heard.samples(pause.first_frame, pause.end_frame)
        user = self._pending.with_audio(Audio(samples))
        request = self._answers.requests.request(user, Urgency.SPECULATION, is_audio=True)
        answer = answer_bytes(request.sampling)
        if not self._answers.memory.has_room(samples.nbytes + answer):
            return []
        generation_id = f"ahead-{self._turn_id}-{frame}"
        self.speculation = Speculation(
            generation_id, request, pause, now_s, sound_bytes=samples.nbytes, answer_bytes=answer
        )
        return [Generate(generation_id, request)]

    def weigh(self, score: float, end_frame: int) -> list[Effect]:
        """Use the score of the pause, which ends the turn at `end_frame` unless speech continues.

        Words that surely sound complete are answered at once. If they sound incomplete, the guess
        is dropped, because the pause will be long and speech may well continue in it. A new guess
        is made shortly before `end_frame`.
        """
        if score >= SURELY_COMPLETE:
            if self.speculation is None:
                self.policy.guess_at(0)
            return []
        if score >= SEEMS_COMPLETE:
            return []
        self.policy.guess_at(end_frame - TAIL_FRAMES)
        return self.discard()

    def reopen(self, frames: int) -> None:
        """Note that the last turn continues, after a pause of `frames` frames."""
        self.policy.reopen(frames)

    def end_turn(self, ended: TurnEnded) -> tuple[list[Effect], Speculation | None]:
        """End the turn. Returns effects, and the speculation that answers it; None: no guess."""
        effects = self.drop_stale(ended)
        self.policy.end_turn()
        speculation, self.speculation = self.speculation, None
        return effects, speculation

    def forget_turn(self) -> list[Effect]:
        """End the turn without an answer."""
        self.policy.end_turn()
        return self.discard()

    def drop_stale(self, ended: TurnEnded | None = None) -> list[Effect]:
        """Discard the guess if the turn's real request would differ from it."""
        speculation = self.speculation
        if speculation is None:
            return []
        pause, request = speculation.pause, speculation.request
        ends_there = ended is None or ended.end_frame == pause.end_frame
        user = request.conversation.user
        # Options and history may have changed since the guess: build the request again.
        is_same = self._answers.requests.request(user, request.urgency, is_audio=True) == request
        return [] if ends_there and is_same and self._would_answer else self.discard()

    def discard(self) -> list[Effect]:
        """Drop the guess, if there is one, and count it as wrong."""
        speculation, self.speculation = self.speculation, None
        if speculation is None:
            return []
        self.policy.charge()
        if speculation.is_finished:
            return [_wasted(speculation.withheld[-1])]
        # Its cost is known only when its last event comes, after the Cancel.
        self._discarded.add(speculation.generation_id)
        return [Cancel(speculation.generation_id)]

    def on_event(self, generation_id: str, event: GenerationEvent) -> list[Effect] | None:
        """Take an event of a speculation. None: the generation is not one."""
        speculation = self.speculation
        if speculation is not None and generation_id == speculation.generation_id:
            if isinstance(event, Failed):
                # Not reported: the turn asks again when it is over, and reports its own failure.
                self.speculation = None
                return [_wasted(event)]
            speculation.withheld.append(event)
            return []
        if generation_id in self._discarded and isinstance(event, Finished | Failed):
            self._discarded.remove(generation_id)
            return [_wasted(event)]
        return None


def _wasted(last: GenerationEvent) -> Settle:
    """The cost of a wrong guess; a guess that the engine never began has cost nothing."""
    if not isinstance(last, Finished):
        return Settle("yielded")
    usage, timings = last.usage, last.timings
    computed = usage.completion_tokens
    if usage.completion_tokens or timings.prefill_s:
        computed += usage.prompt_tokens - usage.cached_tokens
    has_begun = computed or timings.encode_s
    return Settle("discarded" if has_begun else "yielded", computed)
