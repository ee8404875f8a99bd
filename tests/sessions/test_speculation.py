"""Work on a turn begins in the pause that may end it, and a wrong guess is not seen."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sessions.test_session import ended
from voxtral_worker.engine.conversation import Audio
from voxtral_worker.engine.request import (
    Delta,
    Failed,
    Finished,
    GenerationEvent,
    GenerationRequest,
    HistoryTrimmed,
    Timings,
    Urgency,
    Usage,
)
from voxtral_worker.errors import EngineFailure
from voxtral_worker.sessions import events
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import Cancel, Commit, Effect, Generate, Settle, Tell
from voxtral_worker.sessions.session import Session
from voxtral_worker.sessions.speculation import SpeculationPolicy
from voxtral_worker.turns.events import SpeechPaused

FRAME_S = 0.032
# Frames of silence after which a turn may be guessed at, and those that end it.
PAUSE, END = 5, 16
DONE = Finished("stop", Usage(400, 2, 100), Timings(0.0, 0.1, 0.02))


class SpeculatingTalk:
    """A session that speculates, with a clock that only audio moves."""

    def __init__(self, *, speculates: bool = True, **options: object) -> None:
        config = SessionConfig().updated(options)
        self.session = Session("s", config, 0.0, speculates=speculates)
        self.now_s = 0.0
        self.frames = 0

    def hear(self, probability: float, frames: int) -> list[Effect]:
        effects: list[Effect] = []
        for _ in range(frames):
            self.now_s += FRAME_S
            frame = np.full((1, 512), self.frames, np.float32)
            self.frames += 1
            effects += self.session.listening.hear(frame, [probability], self.now_s)
        return effects

    def guess(self) -> str:
        """Speak and pause until the engine is asked ahead of the end."""
        effects = self.hear(0.9, 20) + self.hear(0.0, PAUSE)
        (asked,) = generates(effects)
        assert asked.request.urgency is Urgency.SPECULATION
        return asked.generation_id

    def engine(self, generation_id: str, *events: GenerationEvent) -> list[Effect]:
        effects: list[Effect] = []
        for event in events:
            effects += self.session.on_event(generation_id, event, self.now_s)
        return effects


def generates(effects: list[Effect]) -> list[Generate]:
    return [effect for effect in effects if isinstance(effect, Generate)]


def test_a_guess_at_a_pause_whose_turn_is_cut_before_it_is_dropped() -> None:
    talk = SpeculatingTalk()
    talk.session = Session("s", SessionConfig(), 0.0, max_turn_s=2.0, speculates=True)
    effects: list[Effect] = []
    # 62 frames are the longest turn; its quietest place is before the pause.
    for level, frames in ((1.0, 40), (0.01, 4), (1.0, 10), (0.02, 8)):
        for _ in range(frames):
            frame = np.full((1, 512), level, np.float32)
            talk.frames += 1
            probability = 0.0 if level == 0.02 else 0.9
            effects += talk.session.listening.hear(frame, [probability], talk.frames * FRAME_S)
    guess, turn = generates(effects)
    assert Cancel(guess.generation_id) in effects
    assert (turn.generation_id, turn.request.urgency) == ("1", Urgency.TURN)
    assert len(samples_of(turn.request)) == 42 * 512
    talk.engine("1", DONE)
    (rest,) = generates(talk.hear(0.0, END))
    assert rest.generation_id == "2"
    assert len(samples_of(rest.request)) == (59 - 42) * 512


def samples_of(request: GenerationRequest) -> list[float]:
    (audio,) = request.conversation.user.parts
    assert isinstance(audio, Audio)
    samples: list[float] = audio.samples.tolist()
    return samples


def sent(effects: list[Effect]) -> list[object]:
    return [effect.event for effect in effects if isinstance(effect, Tell)]


def settled(effects: list[Effect]) -> list[Settle]:
    return [effect for effect in effects if isinstance(effect, Settle)]


def test_what_was_made_in_the_pause_goes_out_with_the_decision() -> None:
    talk = SpeculatingTalk()
    ahead = talk.guess()
    assert talk.engine(ahead, HistoryTrimmed(0), Delta("Good ", (1,)), Delta("day", (2,))) == []
    effects = talk.hear(0.0, END - PAUSE)
    assert Commit(ahead) in effects
    assert generates(effects) == []
    assert sent(effects) == [
        ended("1", 0, 25),
        events.Accepted("1"),
        events.HistoryTrimmed("1", 0),
        events.Delta("1", "Good "),
        events.Delta("1", "day"),
    ]
    effects = talk.engine(ahead, Delta("!", (3,)), DONE)
    response = sent(effects)[-1]
    assert isinstance(response, events.Answered)
    assert response.text == "Good day!"
    assert settled(effects) == [Settle("committed")]
    metrics = response.metrics
    assert metrics["speculative"] is True
    stages = ("queue_ms", "encode_ms", "prefill_ms", "first_token_ms")
    assert [metrics[stage] for stage in stages] == [0, 0, 0, 0]
    assert metrics["endpoint_ms"] == END * 32


def test_a_response_that_was_whole_before_the_decision_goes_out_whole() -> None:
    talk = SpeculatingTalk()
    talk.engine(talk.guess(), Delta("Yes", (1,)), DONE)
    effects = talk.hear(0.0, END - PAUSE)
    assert [type(message) for message in sent(effects)[2:]] == [events.Delta, events.Answered]
    assert talk.session.queue_size == 0
    (exchange,) = talk.session.history
    assert exchange.assistant.token_ids == (1,)


def test_stages_that_reach_over_the_decision_count_from_it() -> None:
    talk = SpeculatingTalk()
    ahead = talk.guess()
    talk.hear(0.0, END - PAUSE)
    talk.now_s += 0.04
    talk.engine(ahead, Delta("Yes", (1,)))
    waited_s = (END - PAUSE) * FRAME_S
    timings = Timings(0.1, waited_s - 0.1 + 0.03, 0.01)
    (response,) = sent(talk.engine(ahead, Finished("stop", Usage(), timings)))
    assert isinstance(response, events.Answered)
    metrics = response.metrics
    assert metrics["encode_ms"] == pytest.approx(30)
    assert metrics["prefill_ms"] == pytest.approx(10)
    assert metrics["queue_ms"] == pytest.approx(0, abs=0.01)
    assert metrics["first_token_ms"] == pytest.approx(40)
    assert metrics["speculative"] is True


def test_a_guess_that_the_engine_begins_only_after_the_decision_has_yielded() -> None:
    talk = SpeculatingTalk()
    ahead = talk.guess()
    talk.hear(0.0, END - PAUSE)
    effects = talk.engine(ahead, Finished("stop", Usage(), Timings(1.0, 0.1, 0.1)))
    (response,) = sent(effects)
    assert isinstance(response, events.Answered)
    assert response.metrics["speculative"] is False
    assert settled(effects) == [Settle("yielded")]


def test_speech_that_goes_on_forgets_the_guess_and_counts_what_it_cost() -> None:
    talk = SpeculatingTalk()
    ahead = talk.guess()
    talk.engine(ahead, Delta("wrong", (1,)))
    assert talk.hear(0.9, 1) == [Cancel(ahead)]
    assert talk.engine(ahead, Delta("late", (2,))) == []
    cost = Finished("interrupted", Usage(400, 2, 100), Timings(0.0, 0.1, 0.02))
    assert talk.engine(ahead, cost) == [Settle("discarded", 302)]
    assert talk.engine(ahead, cost) == []


def test_a_wrong_guess_that_was_finished_has_cost_all_of_it() -> None:
    talk = SpeculatingTalk()
    talk.engine(talk.guess(), Delta("wrong", (1,)), DONE)
    assert talk.hear(0.9, 1) == [Settle("discarded", 302)]


def test_a_wrong_guess_that_was_never_begun_has_cost_nothing() -> None:
    talk = SpeculatingTalk()
    ahead = talk.guess()
    talk.hear(0.9, 1)
    never = Finished("interrupted", Usage(400, 0, 0), Timings())
    assert talk.engine(ahead, never) == [Settle("yielded")]


def test_a_guess_that_fails_is_not_told_and_the_turn_asks_again() -> None:
    talk = SpeculatingTalk()
    assert talk.engine(talk.guess(), Failed(EngineFailure("no"))) == [Settle("yielded")]
    effects = talk.hear(0.0, END - PAUSE)
    (asked,) = generates(effects)
    assert (asked.generation_id, asked.request.urgency) == ("1", Urgency.TURN)


def test_a_committed_guess_that_fails_is_an_error_of_its_turn() -> None:
    talk = SpeculatingTalk()
    ahead = talk.guess()
    talk.hear(0.0, END - PAUSE)
    effects = talk.engine(ahead, Failed(EngineFailure("no")))
    assert [type(m).__name__ for m in sent(effects)] == ["Failed"]
    assert settled(effects) == [Settle("committed")]


def test_a_committed_guess_is_interrupted_as_any_response() -> None:
    talk = SpeculatingTalk()
    ahead = talk.guess()
    talk.engine(ahead, Delta("Well", (1,)))
    talk.hear(0.0, END - PAUSE)
    assert Cancel(ahead) in talk.hear(0.9, 4)


@pytest.mark.parametrize(
    "change", [{"temperature": 0.5}, {"mode": "transcribe"}, {"system_prompt": "Be brief."}]
)
def test_another_config_drops_the_guess(change: dict[str, object]) -> None:
    talk = SpeculatingTalk()
    ahead = talk.guess()
    assert talk.session.update_config(change)[0] == Cancel(ahead)
    assert len(generates(talk.hear(0.0, END - PAUSE))) == 1


def test_a_config_that_changes_nothing_of_the_answer_keeps_the_guess() -> None:
    talk = SpeculatingTalk()
    ahead = talk.guess()
    talk.session.update_config({"stream": False})
    assert Commit(ahead) in talk.hear(0.0, END - PAUSE)


def test_another_end_of_the_turn_drops_the_guess() -> None:
    talk = SpeculatingTalk()
    ahead = talk.guess()
    talk.session.update_config({"silence_ms": 100})
    effects = talk.hear(0.0, 1)
    assert Cancel(ahead) in effects
    assert len(generates(effects)) == 1


def test_a_cleared_history_drops_the_guess() -> None:
    talk = SpeculatingTalk()
    talk.session.inputs.text("Hi", 0.0)
    talk.engine("1", DONE)
    ahead = talk.guess()
    assert talk.session.clear_history()[0] == Cancel(ahead)


def test_a_text_in_the_pause_goes_first() -> None:
    talk = SpeculatingTalk()
    ahead = talk.guess()
    effects = talk.session.inputs.text("Hi", talk.now_s)
    assert effects[0] == Cancel(ahead)
    assert [asked.generation_id for asked in generates(effects)] == ["2"]


def test_nothing_is_guessed_while_a_response_is_being_made() -> None:
    talk = SpeculatingTalk(barge_in=False)
    talk.session.inputs.text("Hi", 0.0)
    assert generates(talk.hear(0.9, 20) + talk.hear(0.0, END - 1)) == []


def test_without_speculation_the_engine_is_asked_when_the_turn_is_over() -> None:
    talk = SpeculatingTalk(speculates=False)
    assert generates(talk.hear(0.9, 20) + talk.hear(0.0, END - 1)) == []
    assert len(generates(talk.hear(0.0, 1))) == 1


def test_giving_up_cancels_the_guess() -> None:
    talk = SpeculatingTalk()
    ahead = talk.guess()
    assert talk.session.give_up() == [Cancel(ahead)]


def pause(policy: SpeculationPolicy, frames: int | None) -> bool:
    """A pause that lasts for so many frames, or ends its turn; whether it was guessed at."""
    policy.begin_pause(SpeechPaused(0, 100))
    is_guessed = False
    for frame in range(100, 111 if frames is None else 100 + frames):
        if policy.is_time_to_guess(frame):
            policy.guess()
            is_guessed = True
    if frames is None:
        policy.end_turn()
    else:
        policy.end_pause(100 + frames)
        if is_guessed:
            policy.charge()
    return is_guessed


def test_whoever_pauses_often_is_guessed_at_later() -> None:
    policy = SpeculationPolicy()
    assert pause(policy, 3)
    for _ in range(8):
        pause(policy, None)
        pause(policy, 3)
    assert not pause(policy, 3)
    assert pause(policy, None)


def test_what_was_no_pause_is_not_remembered_as_one() -> None:
    policy = SpeculationPolicy()
    policy.end_pause(5)
    policy.end_turn()
    assert not policy.is_time_to_guess(5)
    assert pause(policy, None)


@given(st.lists(st.one_of(st.none(), st.integers(1, 10)), max_size=200))
@settings(max_examples=100, deadline=None)
def test_at_most_a_fifth_of_all_work_is_discarded_besides_the_first_guess(
    pauses: list[int | None],
) -> None:
    policy, wrong, turns = SpeculationPolicy(), 0, 0
    for frames in pauses:
        was_guessed = pause(policy, frames)
        turns += frames is None
        wrong += was_guessed and frames is not None
    assert wrong <= 1 + turns / 4


class Engine:
    """Answers by what it was asked, some words at each turn of the world."""

    def __init__(self) -> None:
        self.running: dict[str, list[GenerationEvent]] = {}

    def take(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Generate):
                self.running[effect.generation_id] = self.answer(effect.request)
            elif isinstance(effect, Cancel):
                self.running.pop(effect.generation_id, None)

    def answer(self, request: GenerationRequest) -> list[GenerationEvent]:
        digest = hashlib.sha256()
        said = [exchange.user for exchange in request.conversation.history]
        for turn in [*said, request.conversation.user]:
            (part,) = turn.parts
            digest.update(part.samples.tobytes() if isinstance(part, Audio) else part.encode())
        for exchange in request.conversation.history:
            digest.update(repr(exchange.assistant.token_ids).encode())
        words = digest.hexdigest()[:12]
        return [*(Delta(word, (ord(word),)) for word in words), DONE]


def conversation(
    sounds: list[tuple[int, int, int]], *, speculates: bool, reopen_ms: int
) -> list[object]:
    """What is sent of a conversation: the last texts of responses, with their turns."""
    talk = SpeculatingTalk(speculates=speculates, barge_in=False, reopen_ms=reopen_ms)
    engine, told = Engine(), list[events.Event]()

    def perform(effects: list[Effect]) -> None:
        engine.take(effects)
        for event in sent(effects):
            if isinstance(event, events.Delta | events.Answered):
                told.append(event)
            if isinstance(event, events.TurnReopened):
                kept = [m for m in told if m.turn_id != event.turn_id]  # type: ignore[union-attr]
                told[:] = kept

    def work(events: int) -> None:
        for _ in range(events):
            for generation_id in list(engine.running):
                event = engine.running[generation_id].pop(0)
                if isinstance(event, Finished):
                    del engine.running[generation_id]
                perform(talk.engine(generation_id, event))

    for speech, silence, pace in sounds:
        for probability, frames in ((0.9, speech), (0.0, silence)):
            for _ in range(frames):
                perform(talk.hear(probability, 1))
                work(pace)
    perform(talk.hear(0.0, 20))
    while engine.running:
        work(1)
    texts = [(m.turn_id, m.text) for m in told if isinstance(m, events.Answered)]
    for turn_id, text in texts:
        deltas = [m.text for m in told if isinstance(m, events.Delta) and m.turn_id == turn_id]
        assert "".join(deltas) == text
    return [texts, [exchange.assistant for exchange in talk.session.history]]


sounds = st.lists(
    st.tuples(st.integers(1, 30), st.integers(1, 25), st.integers(0, 3)), min_size=1, max_size=12
)


@given(sounds, st.sampled_from([0, 800]))
@settings(max_examples=60, deadline=None)
def test_with_and_without_speculation_the_same_is_said_and_remembered(
    sounds: list[tuple[int, int, int]], reopen_ms: int
) -> None:
    plain, ahead = (
        conversation(sounds, speculates=flag, reopen_ms=reopen_ms) for flag in (False, True)
    )
    assert plain == ahead
