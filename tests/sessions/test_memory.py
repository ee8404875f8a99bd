"""What a session holds is counted to the byte, and never more than it may be."""

import asyncio
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.native_session import native
from voxtral_worker.engine.conversation import AssistantTurn, Audio, Exchange, UserTurn
from voxtral_worker.engine.request import (
    Delta,
    Failed,
    Finished,
    GenerationEvent,
    GenerationRequest,
    HistoryTrimmed,
    Timings,
    Usage,
)
from voxtral_worker.errors import BadInput, EngineFailure, RateLimited
from voxtral_worker.server.channels import AUDIO
from voxtral_worker.server.native.dialect import CONTROL, NativeDialect
from voxtral_worker.sessions import events
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import Cancel, Effect, Generate, Tell
from voxtral_worker.sessions.history import History
from voxtral_worker.sessions.memory import INBOX_BYTES, SessionMemory
from voxtral_worker.sessions.session import Session
from voxtral_worker.sessions.turn import Turn

# About 2 MB for what is said.
LIMIT = 9 << 19
DONE = Finished("stop", Usage(1, 1, 0), Timings())
FAILED = Failed(EngineFailure("it broke"))


def size_of(text: str | None) -> int:
    return sys.getsizeof(text) if text else 0


def size_of_parts(parts: tuple[str | Audio, ...]) -> int:
    return sum(p.nbytes if isinstance(p, Audio) else size_of(p) for p in parts)


def size_of_exchange(exchange: Exchange) -> int:
    user, answer = exchange.user, exchange.assistant
    words = size_of(user.heard) + size_of(answer.text) + size_of(answer.words)
    return size_of_parts(user.parts) + words + 36 * len(answer.token_ids)


def size_of_turn(turn: Turn) -> int:
    delivered = sum(map(size_of, turn.response.texts)) + 36 * len(turn.response.token_ids)
    assert delivered <= turn.answer_bytes, "an answer keeps within what was set aside for it"
    options = size_of(turn.own.config.system_prompt) if turn.own.config else 0
    asked = size_of_parts(turn.user.parts) + size_of(turn.user.heard)
    return asked + options + turn.answer_bytes


def recount(session: Session, dialect: NativeDialect) -> int:
    """What can be found in the session, looked at piece by piece."""
    total = session.memory.inbox_bytes + size_of(session.config.system_prompt)
    total += sum(frame.nbytes for frame, *_ in session.listening.heard._frames)
    total += sum(size_of_parts(parts) for parts in session.inputs.pending._said.values())
    total += sum(map(size_of_exchange, session.history))
    answers = session.answers
    turns = list(answers.queue)
    total += sum(map(size_of_turn, turns))
    kept = session.listening.turns.reopening.kept
    is_held = kept is not None and (
        kept.turn_id in [turn.turn_id for turn in turns] or answers.history.has(kept.turn_id)
    )
    if kept is not None and not is_held:
        total += kept.audio.nbytes
    guess = session.listening.turns.speculator.speculation
    if guess is not None:
        total += size_of_parts(guess.request.conversation.user.parts[-1:])
        total += 256 * guess.request.sampling.max_tokens
    partials = session.listening.turns.partials
    stable = partials._stable
    total += sum(map(sys.getsizeof, {*stable._last, *stable._shown}))
    total += partials._asked_bytes
    assert (partials._asked_bytes > 0) == (partials.generation_id is not None)
    held = [text for each in dialect._numberings.values() for _, text in each._held]
    return total + sum(map(len, held))


class HeldSession:
    """Does what a session asks for, as a driver and an engine would."""

    def __init__(self) -> None:
        config = SessionConfig().updated({"silence_ms": 100, "max_length": 40})
        self.session = Session("s", config, 0.0, speculates=True, max_bytes=LIMIT)
        self.dialect = native(self.session)
        self.now_s = 0.0
        self.running: dict[str, GenerationRequest] = {}
        self.made: dict[str, int] = {}
        self.said = 0
        self.refused = 0

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Generate(generation_id, request):
                    self.running[generation_id] = request
                    self.made[generation_id] = 0
                case Cancel(generation_id):
                    self.running.pop(generation_id, None)
                case Tell(event, to):
                    self.dialect.tell(event, to)
                    assert self.session.memory.bytes <= LIMIT

    def act(self, action: str, amount: int) -> None:
        self.now_s += 1
        try:
            self.perform(self.effects(action, amount))
        except RateLimited:
            self.refused += 1
        except BadInput:
            pass
        assert self.session.memory.bytes == recount(self.session, self.dialect)
        assert self.session.memory.bytes <= LIMIT

    def effects(self, action: str, amount: int) -> list[Effect]:
        session, to = self.session, (None, CONTROL)[amount % 2]
        match action:
            case "speech" | "silence":
                frames = np.zeros((4 * amount, 512), np.float32)
                session.listening.require_room(frames.nbytes)
                level = 0.9 if action == "speech" else 0.0
                return session.listening.hear(frames, [level] * len(frames), self.now_s)
            case "text":
                return session.inputs.text("a\U0001f600"[amount % 2] * 999, self.now_s, to=to)
            case "say":
                self.said += 1
                sound = Audio(np.zeros(4000 * amount, np.float32))
                return session.inputs.say(str(self.said % 9), ("x" * amount * 99, sound))
            case "unsay":
                return session.inputs.unsay(str(amount % 9)) or []
            case "respond":
                own = SessionConfig(system_prompt="y" * 99 * amount, max_length=amount)
                return session.inputs.respond(self.now_s, own if amount % 2 else None, to=to)
            case "remember":
                return session.inputs.remember("z" * 999 * amount)
            case "config":
                changes: dict[str, object] = {
                    "max_length": 10 * amount,
                    "system_prompt": "p" * 300 * amount if amount % 3 else None,
                    "interim": amount % 2 == 0,
                    "barge_in": amount % 5 > 0,
                    "mode": "transcribe" if amount % 7 == 0 else "chat",
                }
                return session.update_config(changes, to)
            case "inbox":
                session.memory.inbox_bytes = INBOX_BYTES * (amount % 3) // 2
                return []
            case "cancel":
                return session.cancel(self.now_s, to)
            case "end_turn":
                return session.listening.end_turn(self.now_s, to)
            case "stall":
                return session.listening.stall(self.now_s)
            case "clear_history":
                return session.clear_history(to)
            case "forget":
                return session.listening.forget_turn()
        return self.engine(action, amount)

    def engine(self, action: str, amount: int) -> list[Effect]:
        if not self.running:
            return []
        generation_id = list(self.running)[amount % len(self.running)]
        event: GenerationEvent = HistoryTrimmed(1)
        if action == "delta":
            most = self.running[generation_id].sampling.max_tokens
            effects: list[Effect] = []
            for number in range(min(amount, most - self.made[generation_id])):
                self.made[generation_id] += 1
                delta = Delta(f"w\u00f6rd{number} ", (number,))
                effects += self.session.on_event(generation_id, delta, self.now_s)
            return effects
        if action != "trimmed":
            del self.running[generation_id]
            event = DONE if action == "finished" else FAILED
        return self.session.on_event(generation_id, event, self.now_s)


actions = st.lists(
    st.tuples(
        st.sampled_from(
            ["speech", "speech", "speech", "silence", "silence", "silence", "text", "text", "say"]
            + ["unsay", "respond", "respond", "remember", "delta", "delta", "finished", "finished"]
            + ["finished", "failed", "trimmed", "config", "inbox", "cancel", "end_turn", "stall"]
            + ["clear_history", "forget"]
        ),
        st.integers(1, 40),
    ),
    min_size=10,
    max_size=80,
)


@given(actions)
@settings(max_examples=100, deadline=None)
def test_the_account_is_what_a_recount_finds_and_within_the_bound(
    done: list[tuple[str, int]],
) -> None:
    world = HeldSession()
    for action, amount in done:
        world.act(action, amount)
    world.perform(world.session.give_up())
    asyncio.run(world.dialect.close())
    session = world.session
    left = size_of(session.config.system_prompt) + session.memory.inbox_bytes
    assert session.memory.bytes - session.listening.turns.partials._stable.bytes == left


def test_a_full_session_refuses_all_that_makes_it_larger_and_goes_on_when_it_is_cleared() -> None:
    world = HeldSession()
    while not world.refused:
        world.act("speech", 10)
        world.act("silence", 3)
        world.act("finished", 0)
    session = world.session
    frames = np.zeros((40, 512), np.float32)
    for refused in (
        lambda: session.listening.require_room(frames.nbytes),
        lambda: session.inputs.text("x" * 99_999, 0.0, to=CONTROL, tag="mine"),
        lambda: session.inputs.say("key", ("x",)),
        lambda: session.update_config({"system_prompt": "\U0001f600" * 30_000}),
    ):
        with pytest.raises(RateLimited, match="the session is full: it holds") as told:
            refused()
        assert told.value.retry_after_s == 1.0
    before = session.config
    assert before.system_prompt is None
    world.act("clear_history", 1)
    world.refused = 0
    world.act("speech", 10)
    world.act("text", 1)
    assert not world.refused


def test_a_turn_that_has_no_room_when_it_ends_is_told_so() -> None:
    session = Session("s", SessionConfig().updated({"max_length": 1}), 0.0, max_bytes=LIMIT)
    frames = np.zeros((40, 512), np.float32)
    session.listening.hear(frames, [0.9] * 40, 0.0)
    # Longer answers while nothing waits need no room yet; then another one takes what there is.
    session.update_config({"max_length": 4096})
    session.answers.history.append(Exchange(UserTurn(("x" * 1_800_000,)), AssistantTurn(text="y")))
    effects = session.listening.end_turn(0.0)
    last = effects[-1]
    assert isinstance(last, Tell) and isinstance(last.event, events.Failed)
    assert (last.event.error.code, last.event.turn_id) == ("RATE_LIMITED", "1")
    assert session.queue_size == 0
    assert session.listening.heard.bytes < 40 * 2048


def test_longer_answers_than_turns_that_wait_have_room_for_are_refused() -> None:
    session = Session("s", SessionConfig().updated({"max_length": 1}), 0.0, max_bytes=LIMIT)
    for _ in range(10):
        session.inputs.text("hello", 0.0)
    with pytest.raises(RateLimited):
        session.update_config({"max_length": 4096})
    assert session.config.max_length == 1


@pytest.mark.parametrize(("taken", "asked"), [(1_900_000, set()), (1_000, {"partial", "ahead"})])
def test_neither_a_guess_nor_a_partial_is_asked_for_without_room(
    taken: int, asked: set[str]
) -> None:
    world = HeldSession()
    session = world.session
    session.update_config({"interim": True, "silence_ms": 1000})
    session.answers.history.append(Exchange(UserTurn(("x" * taken,)), AssistantTurn(text="y")))
    world.act("speech", 10)
    world.act("silence", 2)
    assert not world.refused
    assert {name.split("-")[0] for name in world.running} == asked


def test_messages_held_for_a_resume_give_way_the_oldest_first_and_are_counted_as_missed() -> None:
    session = Session("s", SessionConfig(), 0.0, max_bytes=LIMIT)
    dialect = native(session)
    numbering = dialect._numberings[AUDIO]
    for number in range(300):
        dialect.tell(events.Delta(str(number), "x" * 9999), None)
    assert session.memory.bytes <= LIMIT - INBOX_BYTES
    held, missed = numbering.after(0)
    assert missed > 0
    assert len(held) + missed == 300
    # What was said goes before them.
    session.inputs.say("key", ("x" * 500_000,))
    still_held, more_missed = dialect._numberings[AUDIO].after(0)
    assert more_missed > missed
    assert still_held == held[-len(still_held) :]


def test_one_message_that_is_larger_than_all_room_is_not_held() -> None:
    session = Session("s", SessionConfig(), 0.0, max_bytes=LIMIT)
    dialect = native(session)
    dialect.tell(events.Delta("1", "x" * LIMIT), None)
    assert session.memory.bytes == 0
    assert dialect._numberings[AUDIO].after(0) == ([], 1)


def test_nothing_spare_is_no_reason_to_wait() -> None:
    memory = SessionMemory(LIMIT)
    memory.hold(lambda: 2 * LIMIT)
    memory.fit()
    assert not memory.has_room(0)


def test_a_history_counts_what_it_holds() -> None:
    history = History()
    exchange = Exchange(UserTurn(("hello",)), AssistantTurn((1, 2), words="Yes."))
    history.extend([exchange, exchange, exchange])
    assert history.bytes == 3 * size_of_exchange(exchange)
    history.forget_oldest(1)
    assert (history.bytes, list(history)) == (2 * size_of_exchange(exchange), [exchange] * 2)
    history.forget_oldest(9)
    assert (history.bytes, list(history)) == (0, [])
