"""What holds of a session whatever its user, its clients and its engine do."""

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.native_session import written
from voxtral_worker.engine.request import (
    Delta,
    Failed,
    Finished,
    GenerationEvent,
    HistoryTrimmed,
    Timings,
    Usage,
)
from voxtral_worker.errors import EngineFailure, RateLimited
from voxtral_worker.sessions import events
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import Cancel, Effect, Generate, Tell
from voxtral_worker.sessions.session import Session

# Generations that are not responses.
BESIDE = ("partial", "transcript")
DONE = Finished("stop", Usage(1, 1, 0), Timings())
FAILED = Failed(EngineFailure("it broke"))


class Bookkeeper:
    """Performs a session's effects as the driver would, and keeps the books."""

    def __init__(self, max_turn_s: float = 300.0, reopen_ms: int = 800) -> None:
        config = SessionConfig(silence_ms=100, reopen_ms=reopen_ms, transcript=True)
        self.session = Session("s", config, 0.0, max_turn_s)
        self.now_s = 0.0
        self.token = 0
        self.over: list[str] = []
        self.running: list[str] = []
        self.sent: defaultdict[str, list[events.Event]] = defaultdict(list)
        self.tokens: defaultdict[str, list[int]] = defaultdict(list)
        # The turns that the next prompt has, with their tokens.
        self.remembered: dict[str, tuple[int, ...]] = {}
        self.forgotten: set[str] = set()
        self.transcripts: set[str] = set()

    def perform(self, effects: list[Effect]) -> None:
        assert len({e.to for e in effects if isinstance(e, Tell)}) <= 2
        for effect in effects:
            match effect:
                case Generate(generation_id, request):
                    assert generation_id not in self.running + self.over, "asked once only"
                    self.running.append(generation_id)
                    turn_id = generation_id.partition(".")[0]
                    if not generation_id.startswith(BESIDE):
                        self.tokens[turn_id].clear()
                    if request.conversation.transcribe:
                        self.transcripts.add(turn_id)
                    else:
                        said = [e.assistant.token_ids for e in request.conversation.history]
                        assert said == list(self.remembered.values())
                        self.transcripts.discard(turn_id)
                case Cancel(generation_id):
                    self.end(generation_id)
                case Tell(event):
                    self.take(event)
        turns = [g for g in self.running if not g.startswith(BESIDE)]
        assert len(turns) <= 1, "one response at a time"
        assert len(self.running) - len(turns) <= 2, "one partial, and one transcript"

    def take(self, message: events.Event) -> None:
        turn_id = getattr(message, "turn_id", None)
        assert written(message).is_numbered == (turn_id is not None)
        if turn_id is None:
            return
        self.sent[turn_id].append(message)
        is_remembered = turn_id not in self.transcripts | self.forgotten
        if isinstance(message, events.Answered) and is_remembered:
            self.remembered[turn_id] = tuple(self.tokens[turn_id])
        if isinstance(message, events.TurnReopened):
            self.remembered.pop(turn_id, None)

    def end(self, generation_id: str) -> None:
        self.running.remove(generation_id)
        self.over.append(generation_id)

    def act(self, action: str, amount: int) -> None:
        self.now_s += 1
        session = self.session
        match action:
            case "speech" | "silence":
                level = 0.9 if action == "speech" else 0.0
                frames = np.zeros((amount, 512), np.float32)
                self.perform(session.listening.hear(frames, [level] * amount, self.now_s))
            case "text":
                to = (None, "control")[amount % 2]
                try:
                    self.perform(session.inputs.text("Hi", self.now_s, to=to, tag=amount))
                except RateLimited:
                    assert session.queue_size > 64
            case "cancel":
                self.perform(session.cancel(self.now_s, "control"))
            case "end_turn":
                self.perform(session.listening.end_turn(self.now_s))
            case "stall":
                self.perform(session.listening.stall(self.now_s))
            case "clear_history":
                self.forgotten.update(g.partition(".")[0] for g in self.running)
                self.remembered.clear()
                self.perform(session.clear_history())
            case "config":
                key = ("barge_in", "stream", "interim", "transcript")[amount % 4]
                changes: dict[str, object] = {key: amount % 2 == 0}
                if amount % 5 == 0:
                    changes["mode"] = ("chat", "transcribe")[amount % 2]
                self.perform(session.update_config(changes))
            case "late":
                for generation_id in self.over:
                    for event in (Delta("late", (0,)), HistoryTrimmed(1), DONE, FAILED):
                        assert session.on_event(generation_id, event, self.now_s) == []
            case _:
                self.engine(action, amount)

    def engine(self, action: str, amount: int) -> None:
        if not self.running:
            return
        generation_id = self.running[amount % len(self.running)]
        event: GenerationEvent
        match action:
            case "delta":
                ids = tuple(range(self.token, self.token + amount % 3))
                self.token += len(ids)
                self.tokens[generation_id.partition(".")[0]].extend(ids)
                event = Delta(f"word{self.token} ", ids)
            case "trimmed":
                turn_id = generation_id.partition(".")[0]
                if turn_id in self.transcripts or self.tokens[turn_id]:
                    return
                if turn_id not in self.forgotten and self.remembered:
                    del self.remembered[next(iter(self.remembered))]
                event = HistoryTrimmed(1)
            case "finished":
                self.end(generation_id)
                event = DONE
            case _:
                self.end(generation_id)
                event = FAILED
        self.perform(self.session.on_event(generation_id, event, self.now_s))


actions = st.lists(
    st.tuples(
        st.sampled_from(
            ["speech", "speech", "silence", "silence", "text", "text", "delta", "delta", "delta"]
            + ["finished", "finished", "failed", "trimmed", "cancel", "end_turn", "stall"]
            + ["clear_history", "config", "late"]
        ),
        st.integers(1, 40),
    ),
    min_size=10,
    max_size=60,
)


def kinds_of(messages: list[events.Event]) -> list[str]:
    texts = [written(event) for event in messages]
    return [str(m.fields.get("status", m.kind)) for m in texts]


def as_it_ended_last(messages: list[events.Event]) -> list[events.Event]:
    """What was sent of a turn, without what was taken back."""
    reopened = [n for n, m in enumerate(messages) if isinstance(m, events.TurnReopened)]
    for number in reopened:
        kinds = kinds_of(messages[:number])
        assert "speech_ended" in kinds[-5:] or "text_response" in kinds or "error" in kinds
    return [messages[0], *messages[reopened[-1] + 1 :]] if reopened else messages


@given(actions, st.sampled_from([1.0, 300.0]), st.sampled_from([0, 800]))
@settings(max_examples=150, deadline=None)
def test_every_turn_is_told_in_order_and_answered_once_with_what_was_delivered(
    done: list[tuple[str, int]], max_turn_s: float, reopen_ms: int
) -> None:
    world = Bookkeeper(max_turn_s, reopen_ms)
    for action, amount in done:
        world.act(action, amount)
    world.act("silence", 20)
    while world.running:
        world.act("finished", 0)
    world.act("late", 0)

    assert world.session.queue_size == 0
    said = [exchange.assistant.token_ids for exchange in world.session.history]
    assert said == list(world.remembered.values())
    for turn_id, all_messages in world.sent.items():
        beside = events.Partial | events.Transcript
        of_turn: list[events.Event] = [m for m in all_messages if not isinstance(m, beside)]
        messages = as_it_ended_last(of_turn)
        kinds = kinds_of(messages)
        if kinds == ["no_speech"]:
            continue
        if kinds[0] == "speech_started":
            assert kinds[1] == "speech_ended"
            del kinds[:2]
        assert kinds[0] == "processing"
        assert kinds[-1] in ("text_response", "error")
        assert sum(kind in ("text_response", "error") for kind in kinds) == 1
        middle = set(kinds[1:-1])
        assert middle <= {"text_delta", "history_trimmed", "cancelled", "interrupted"}
        deltas = [m for m in messages if isinstance(m, events.Delta)]
        last = messages[-1]
        if isinstance(last, events.Answered):
            assert "".join(m.text for m in deltas) == last.text or not deltas
            was_stopped = bool(middle & {"cancelled", "interrupted"})
            assert (last.finish_reason == "interrupted") == was_stopped
            assert last.turn_id == turn_id
        else:
            assert isinstance(last, events.Failed)


@given(actions)
@settings(max_examples=40, deadline=None)
def test_giving_up_at_any_moment_leaves_nothing_running(done: list[tuple[str, int]]) -> None:
    world = Bookkeeper()
    for action, amount in done:
        world.act(action, amount)
    world.perform(world.session.give_up())
    assert world.running == []
    assert world.session.queue_size == 0
    assert world.session.history == ()
    assert world.session.listening.stall(world.now_s) == []
    world.act("late", 0)
