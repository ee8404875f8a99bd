"""What holds of a session whatever its user, its clients and its engine do."""

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

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
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import Cancel, Effect, Generate, LineName, Send
from voxtral_worker.sessions.messages import (
    ErrorMessage,
    ServerMessage,
    Status,
    TextDelta,
    TextInput,
    TextResponse,
    TranscriptPartial,
)
from voxtral_worker.sessions.session import Session

DONE = Finished("stop", Usage(1, 1, 0), Timings())
FAILED = Failed(EngineFailure("it broke"))


class World:
    """Performs a session's effects as the driver would, and keeps the books."""

    def __init__(self) -> None:
        self.session = Session("s", SessionConfig(silence_ms=100), 0.0)
        self.now_s = 0.0
        self.token = 0
        self.over: list[str] = []
        self.running: list[str] = []
        self.sent: defaultdict[str, list[ServerMessage]] = defaultdict(list)
        self.tokens: defaultdict[str, list[int]] = defaultdict(list)
        self.remembered: list[tuple[int, ...]] = []
        self.forgotten: set[str] = set()
        self.transcripts: set[str] = set()

    def perform(self, effects: list[Effect]) -> None:
        assert len({e.line for e in effects if isinstance(e, Send)}) <= 2
        for effect in effects:
            match effect:
                case Generate(generation_id, request):
                    assert generation_id not in self.running + self.over, "asked once only"
                    self.running.append(generation_id)
                    if request.conversation.transcribe:
                        self.transcripts.add(generation_id)
                    else:
                        said = [e.assistant.token_ids for e in request.conversation.history]
                        assert said == self.remembered
                case Cancel(generation_id):
                    self.end(generation_id)
                case Send(_, message):
                    self.take(message)
        turns = [g for g in self.running if not g.startswith("partial")]
        assert len(turns) <= 1, "one response at a time"

    def take(self, message: ServerMessage) -> None:
        turn_id = getattr(message, "turn_id", None)
        if turn_id is None:
            assert not message.is_numbered
            return
        self.sent[turn_id].append(message)
        is_remembered = turn_id not in self.transcripts | self.forgotten
        if isinstance(message, TextResponse) and is_remembered:
            self.remembered.append(tuple(self.tokens[turn_id]))

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
                self.perform(session.hear(frames, [level] * amount, self.now_s))
            case "text":
                line = (LineName.AUDIO, LineName.CONTROL)[amount % 2]
                try:
                    self.perform(session.text(line, TextInput("Hi", amount), self.now_s))
                except RateLimited:
                    assert session.queue_size > 64
            case "cancel":
                self.perform(session.cancel(LineName.CONTROL, self.now_s))
            case "end_turn":
                self.perform(session.end_turn(LineName.AUDIO, self.now_s))
            case "stall":
                self.perform(session.stall(self.now_s))
            case "clear_history":
                self.forgotten.update(g for g in self.running)
                self.remembered.clear()
                self.perform(session.clear_history(LineName.AUDIO))
            case "config":
                key = ("barge_in", "stream", "interim")[amount % 3]
                changes: dict[str, object] = {key: amount % 2 == 0}
                if amount % 5 == 0:
                    changes["mode"] = ("chat", "transcribe")[amount % 2]
                self.perform(session.update_config(LineName.AUDIO, changes))
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
                self.tokens[generation_id].extend(ids)
                event = Delta(f"word{self.token} ", ids)
            case "trimmed":
                if generation_id in self.transcripts or self.tokens[generation_id]:
                    return
                if generation_id not in self.forgotten:
                    del self.remembered[:1]
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


def kinds_of(messages: list[ServerMessage]) -> list[str]:
    return [m.status if isinstance(m, Status) else m.kind for m in messages]


@given(actions)
@settings(max_examples=100, deadline=None)
def test_every_turn_is_told_in_order_and_answered_once_with_what_was_delivered(
    done: list[tuple[str, int]],
) -> None:
    world = World()
    for action, amount in done:
        world.act(action, amount)
    world.act("silence", 20)
    while world.running:
        world.act("finished", 0)
    world.act("late", 0)

    assert world.session.queue_size == 0
    said = [exchange.assistant.token_ids for exchange in world.session.history]
    assert said == world.remembered
    for turn_id, messages in world.sent.items():
        kinds = kinds_of([m for m in messages if not isinstance(m, TranscriptPartial)])
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
        deltas = [m for m in messages if isinstance(m, TextDelta)]
        last = messages[-1]
        if isinstance(last, TextResponse):
            assert "".join(m.text for m in deltas) == last.text or not deltas
            was_stopped = bool(middle & {"cancelled", "interrupted"})
            assert (last.finish_reason == "interrupted") == was_stopped
            assert last.turn_id == turn_id
        else:
            assert isinstance(last, ErrorMessage)


@given(actions)
@settings(max_examples=40, deadline=None)
def test_giving_up_at_any_moment_leaves_nothing_running(done: list[tuple[str, int]]) -> None:
    world = World()
    for action, amount in done:
        world.act(action, amount)
    world.perform(world.session.give_up())
    assert world.running == []
    assert world.session.queue_size == 0
    assert world.session.history == ()
    assert world.session.stall(world.now_s) == []
    world.act("late", 0)
