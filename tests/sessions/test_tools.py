"""Turns that call tools: rounds, results, time limits, interruptions."""

import numpy as np
import pytest

from tests.sessions.test_session import CONTROL, DONE, Talk, requests, response, told
from voxtral_worker.engine.conversation import AssistantTurn, Audio, Round, UserTurn
from voxtral_worker.engine.request import (
    ArgumentsDelta,
    CallFinished,
    CallStarted,
    Failed,
    Finished,
    Timings,
    Usage,
)
from voxtral_worker.engine.tools import INTERRUPTED, UNANSWERED, ToolCall, ToolResult
from voxtral_worker.errors import BadInput, CallNotFound, RateLimited, ToolCallInvalid
from voxtral_worker.sessions import events
from voxtral_worker.sessions.calling import MOST_ROUNDS
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import CountCalls, Effect, Generate, WakeUp
from voxtral_worker.sessions.record import read_record
from voxtral_worker.sessions.session import Session

TOOLS = [
    {"type": "function", "name": "light", "parameters": {"type": "object", "properties": {}}},
    {"type": "function", "name": "timer", "parameters": {"type": "object", "properties": {}}},
]
LIGHT = ToolCall("aaaaaaaa1", "light", '{"on": true}')
TIMER = ToolCall("aaaaaaaa2", "timer", "{}")
CALLED = Finished("tool_calls", Usage(10, 5, 0), Timings(0.0, 0.0, 0.01))


class Acting(Talk):
    """A session that is offered two tools."""

    def __init__(self, **options: object) -> None:
        super().__init__(tools=TOOLS, **options)

    def calls(self, generation_id: str, *calls: ToolCall) -> list[Effect]:
        """The model calls tools, and nothing else."""
        effects: list[Effect] = []
        for index, call in enumerate(calls):
            for event in (
                CallStarted(index, call.call_id, call.name),
                ArgumentsDelta(index, call.arguments),
                CallFinished(index, call.arguments),
            ):
                effects += self.session.on_event(generation_id, event, self.now_s)
        return effects + self.finishes(generation_id, CALLED)

    def result(self, call_id: str, content: str = "ok", **options: bool) -> list[Effect]:
        return self.session.answers.take_result(call_id, content, self.now_s, **options)


def counts(effects: list[Effect]) -> dict[str, int]:
    return {effect.outcome: effect.calls for effect in effects if isinstance(effect, CountCalls)}


def made(*calls: ToolCall, said: str = "", results: tuple[str, ...] = ("ok", "ok")) -> Round:
    pairs = zip(calls, results, strict=False)
    return Round(
        AssistantTurn(words=said),
        calls,
        tuple(ToolResult(call.call_id, content) for call, content in pairs),
    )


def test_a_turn_that_calls_goes_on_with_the_last_result() -> None:
    talk = Acting()
    asked = requests(talk.text())["1"]
    assert [tool.name for tool in asked.conversation.tools.tools] == ["light", "timer"]
    talk.says("1", "One moment.", 7, 8)
    effects = talk.calls("1", LIGHT, TIMER)
    assert [event for event in told(effects) if isinstance(event, events.CallMade)] == [
        events.CallMade("1", 0, LIGHT),
        events.CallMade("1", 1, TIMER),
    ]
    answered = response(effects)
    assert (answered.finish_reason, answered.text) == ("tool_calls", "One moment.")
    talk.now_s += 2.0
    assert requests(talk.result("aaaaaaaa2", "3")) == {}
    effects = talk.result("aaaaaaaa1", "done")
    assert counts(effects) == {"answered": 1}
    (request,) = requests(effects).values()
    first = Round(
        AssistantTurn((7, 8), words="One moment."),
        (LIGHT, TIMER),
        (ToolResult("aaaaaaaa1", "done"), ToolResult("aaaaaaaa2", "3")),
    )
    assert request.conversation.rounds == (first,)
    assert request.conversation.user == asked.conversation.user
    talk.says("1-1", "Done.", 9)
    effects = talk.finishes("1-1")
    answered = response(effects)
    assert (answered.turn_id, answered.text, answered.finish_reason) == ("1", "Done.", "stop")
    assert answered.metrics["tool_ms"] == 2000.0
    (exchange,) = talk.session.history
    assert exchange.rounds == (first,)
    assert exchange.assistant.token_ids == (9,)


def test_no_call_is_told_before_all_of_a_response_are_whole() -> None:
    talk = Acting()
    talk.text()
    effects: list[Effect] = []
    for event in (CallStarted(0, LIGHT.call_id, "light"), CallFinished(0, LIGHT.arguments)):
        effects += talk.session.on_event("1", event, 0.0)
    cut = Finished("length", Usage(10, 5, 0), Timings())
    effects += talk.finishes("1", cut)
    assert not [event for event in told(effects) if isinstance(event, events.CallMade)]
    assert response(effects).finish_reason == "length"
    assert talk.session.history[0].rounds == ()
    with pytest.raises(CallNotFound):
        talk.result(LIGHT.call_id)


def test_a_choice_holds_for_the_first_round_of_each_turn() -> None:
    talk = Acting(tool_choice={"name": "light"}, parallel_tool_calls=False)
    for turn in ("1", "2"):
        box = requests(talk.text())[turn].conversation.tools
        assert (box.named, box.parallel) == ("light", False)
        talk.calls(turn, LIGHT)
        (request,) = requests(talk.result(LIGHT.call_id)).values()
        box = request.conversation.tools
        assert (box.choice, box.named, box.parallel) == ("auto", None, False)
        talk.finishes(f"{turn}-1")


def test_after_the_last_round_a_turn_has_to_answer() -> None:
    talk = Acting()
    talk.text()
    choices = []
    generation_id = "1"
    for number in range(MOST_ROUNDS):
        call = ToolCall(f"aaaaaaaa{number}", "light", "{}")
        talk.calls(generation_id, call)
        ((generation_id, request),) = requests(talk.result(call.call_id)).items()
        choices.append(request.conversation.tools.choice)
        assert len(request.conversation.rounds) == number + 1
    assert choices == ["auto"] * (MOST_ROUNDS - 1) + ["none"]


@pytest.mark.parametrize("call_id", ["bbbbbbbb1", "aaaaaaaa1"])
def test_a_result_that_nobody_waits_for_is_refused(call_id: str) -> None:
    talk = Acting()
    with pytest.raises(CallNotFound, match=call_id):
        talk.result(call_id)
    talk.text()
    with pytest.raises(CallNotFound):
        talk.result(call_id)
    talk.calls("1", LIGHT, TIMER)
    if call_id == LIGHT.call_id:
        talk.result(call_id)
    with pytest.raises(CallNotFound):
        talk.result(call_id)


def test_a_result_that_does_not_come_is_told_to_the_model_in_time() -> None:
    talk = Acting(tool_timeout_ms=500)
    talk.text()
    effects = talk.calls("1", LIGHT, TIMER)
    assert effects[-1] == WakeUp(0.5)
    talk.result(TIMER.call_id, "7")
    assert talk.session.answers.wake(0.4) == [WakeUp(0.5)]
    effects = talk.session.answers.wake(0.5)
    assert counts(effects) == {"timed_out": 1}
    (request,) = requests(effects).values()
    assert request.conversation.rounds == (made(LIGHT, TIMER, results=(UNANSWERED, "7")),)
    with pytest.raises(CallNotFound):
        talk.result(LIGHT.call_id)
    assert talk.session.answers.wake(9.0) == []


def test_without_a_limit_a_result_is_waited_for() -> None:
    talk = Acting(tool_timeout_ms=0)
    talk.text()
    effects = talk.calls("1", LIGHT)
    assert not [effect for effect in effects if isinstance(effect, WakeUp)]
    assert talk.session.answers.wake(1e9) == []
    assert requests(talk.result(LIGHT.call_id))


@pytest.mark.parametrize("by_speech", [True, False])
def test_an_interruption_leaves_no_call_without_a_result(by_speech: bool) -> None:
    talk = Acting()
    talk.text("Go")
    talk.says("1", "One moment.", 7)
    talk.calls("1", LIGHT, TIMER)
    talk.result(TIMER.call_id, "7")
    effects = talk.hear((0.9, 20)) if by_speech else talk.session.cancel(talk.now_s)
    assert counts(effects) == {"interrupted": 1}
    answered = response(effects)
    assert (answered.finish_reason, answered.text) == ("interrupted", "")
    (exchange,) = talk.session.history
    said = AssistantTurn((7,), words="One moment.")
    results = (ToolResult("aaaaaaaa1", INTERRUPTED), ToolResult("aaaaaaaa2", "7"))
    assert exchange.rounds == (Round(said, (LIGHT, TIMER), results),)
    assert exchange.assistant == AssistantTurn()
    with pytest.raises(CallNotFound):
        talk.result(LIGHT.call_id)


def test_an_interruption_in_a_later_round_keeps_the_rounds_before() -> None:
    talk = Acting()
    talk.text()
    talk.calls("1", LIGHT)
    talk.result(LIGHT.call_id)
    talk.says("1-1", "It is", 5)
    effects = talk.session.cancel(0.0)
    assert response(effects).text == "It is"
    (exchange,) = talk.session.history
    assert exchange.rounds == (made(LIGHT),)
    assert exchange.assistant.token_ids == (5,)


def test_what_is_said_while_a_tool_is_awaited_waits_for_the_turn() -> None:
    talk = Acting(barge_in=False)
    talk.text("First")
    talk.calls("1", LIGHT)
    assert requests(talk.text("Second")) == {}
    assert talk.session.queue_size == 2
    talk.result(LIGHT.call_id)
    effects = talk.finishes("1-1")
    (request,) = requests(effects).values()
    assert request.conversation.user == UserTurn(("Second",))
    assert [len(exchange.rounds) for exchange in request.conversation.history] == [1]


def test_a_history_that_was_cleared_does_not_remember_a_round_under_way() -> None:
    talk = Acting()
    talk.text()
    talk.calls("1", LIGHT)
    talk.session.clear_history()
    talk.result(LIGHT.call_id)
    talk.finishes("1-1")
    assert talk.session.history == ()


def test_a_call_that_is_no_call_fails_its_turn_alone() -> None:
    talk = Acting()
    talk.text()
    effects = talk.session.on_event("1", Failed(ToolCallInvalid("no call")), 0.0)
    (failed,) = [event for event in told(effects) if isinstance(event, events.Failed)]
    assert failed.error.code == "TOOL_CALL_INVALID"
    assert talk.session.queue_size == 0


def test_a_call_is_withheld_until_the_turn_is_over() -> None:
    session = Session("s", SessionConfig().updated({"tools": TOOLS}), 0.0, speculates=True)
    talk = Acting()
    talk.session = session
    (ahead,) = requests(talk.hear((0.9, 20), (0.0, 6)))
    assert not told(talk.calls(ahead, LIGHT))
    effects = talk.hear((0.0, 12))
    kinds = [type(event) for event in told(effects)]
    assert kinds.index(events.SpeechEnded) < kinds.index(events.CallMade)
    assert response(effects).finish_reason == "tool_calls"
    assert requests(talk.result(LIGHT.call_id))


def test_what_tools_say_is_held_within_the_sessions_bound() -> None:
    talk = Acting()
    talk.session.memory.limit_bytes = 4 << 20
    talk.text()
    talk.calls("1", LIGHT, TIMER)
    before = talk.session.memory.bytes
    talk.result(LIGHT.call_id, "x" * 500_000)
    assert talk.session.memory.bytes >= before + 499_000
    with pytest.raises(RateLimited):
        talk.result(TIMER.call_id, "x" * 4_000_000)
    talk.result(TIMER.call_id)
    talk.finishes("1-1")
    assert talk.session.memory.bytes >= 499_000


def test_another_worker_goes_on_from_calls_and_results() -> None:
    talk = Acting(tool_choice="required")
    talk.text("Go")
    talk.says("1", "One moment.", 7)
    talk.calls("1", LIGHT)
    talk.result(LIGHT.call_id, "läuft")
    talk.says("1-1", "Done.", 8)
    talk.finishes("1-1")
    record = read_record(talk.session.record().as_json())
    (exchange,) = record.history
    (kept,) = exchange.rounds
    assert kept.said == AssistantTurn(text="One moment.")
    assert (kept.calls, kept.results) == ((LIGHT,), (ToolResult(LIGHT.call_id, "läuft"),))
    assert exchange.assistant == AssistantTurn(text="Done.")
    assert record.config.toolbox == talk.session.config.toolbox


# Where the client says when the turn continues.


class Asking(Acting):
    """A session whose turns continue when a client asks for it."""

    def __init__(self) -> None:
        super().__init__()
        config = SessionConfig(tools=self.session.config.tools, runs_rounds=False)
        self.session = Session("s", config, 0.0)

    def respond(self) -> list[Effect]:
        return self.session.inputs.respond(self.now_s, to=CONTROL)


def test_a_turn_goes_on_when_it_is_asked_for() -> None:
    talk = Asking()
    talk.text("Go")
    effects = talk.calls("1", LIGHT)
    assert not [effect for effect in effects if isinstance(effect, WakeUp)]
    assert talk.session.queue_size == 0
    with pytest.raises(BadInput, match="'aaaaaaaa1' of a tool has no result yet"):
        talk.respond()
    assert requests(talk.result(LIGHT.call_id)) == {}
    effects = talk.respond()
    (request,) = requests(effects).values()
    assert request.conversation.user == UserTurn(("Go",))
    assert request.conversation.rounds == (made(LIGHT),)
    assert request.conversation.history == ()
    talk.finishes("2")
    (exchange,) = talk.session.history
    assert (exchange.user, exchange.rounds) == (UserTurn(("Go",)), (made(LIGHT),))


def test_what_is_said_instead_closes_the_round() -> None:
    talk = Asking()
    talk.text("Go")
    talk.calls("1", LIGHT)
    effects = talk.text("Never mind")
    assert counts(effects) == {"interrupted": 1}
    (request,) = requests(effects).values()
    (exchange,) = request.conversation.history
    assert exchange.rounds == (made(LIGHT, results=(INTERRUPTED,)),)
    with pytest.raises(CallNotFound):
        talk.result(LIGHT.call_id)


def test_a_guess_knows_the_round_as_it_will_be_closed() -> None:
    talk = Asking()
    talk.session = Session("s", talk.session.config, 0.0, speculates=True)
    talk.text("Go")
    talk.calls("1", LIGHT)
    ((ahead, request),) = requests(talk.hear((0.9, 20), (0.0, 6))).items()
    assert [exchange.rounds for exchange in request.conversation.history] == [
        (made(LIGHT, results=(INTERRUPTED,)),)
    ]
    effects = talk.hear((0.0, 12))
    assert not [effect for effect in effects if isinstance(effect, Generate)]
    assert talk.finishes(ahead, DONE)
    assert len(talk.session.history) == 2


def test_calls_from_outside_are_rounds_of_what_was_said_before_them() -> None:
    talk = Asking()
    session = talk.session
    session.inputs.say("a", ("Go",))
    session.inputs.remember_call(LIGHT, 0.0)
    session.inputs.remember_call(TIMER, 0.0)
    talk.result(LIGHT.call_id)
    talk.result(TIMER.call_id)
    session.inputs.remember_call(ToolCall("call_of_another_server", "light", "{}"), 0.0)
    talk.result("call_of_another_server", "7")
    session.inputs.remember("Done.")
    (exchange,) = session.history
    assert (exchange.user, exchange.assistant) == (UserTurn(("Go",)), AssistantTurn(text="Done."))
    first, second = exchange.rounds
    assert first.calls == (LIGHT, TIMER)
    assert second.calls[0].call_id == second.results[0].call_id
    assert len(second.calls[0].call_id) == 9


def test_a_call_from_outside_with_nothing_said_before_it_closes_what_waits() -> None:
    talk = Asking()
    talk.text("Go")
    talk.calls("1", LIGHT)
    talk.session.inputs.say("b", ("And",))
    assert counts(talk.session.inputs.remember_call(TIMER, 0.0)) == {"interrupted": 1}
    talk.session.inputs.say("c", ("More",))
    assert counts(talk.session.inputs.remember("Yes.")) == {"interrupted": 1}
    users = [exchange.user.parts for exchange in talk.session.history]
    assert users == [("Go",), ("And",), ("More",)]


def test_a_context_of_its_own_may_end_with_results() -> None:
    talk = Asking()
    context = ((), UserTurn(("Go",)), (made(LIGHT),))
    effects = talk.session.inputs.respond(0.0, context=context, joins=False)
    (request,) = requests(effects).values()
    assert request.conversation.rounds == (made(LIGHT),)
    talk.calls("1", TIMER)
    assert talk.session.history == ()
    with pytest.raises(CallNotFound):
        talk.result(TIMER.call_id)


def test_the_end_of_a_session_forgets_what_waits() -> None:
    talk = Asking()
    talk.session.inputs.say("a", (Audio(np.zeros(160, np.float32)),))
    talk.respond()
    talk.calls("1", LIGHT)
    talk.session.clear_history()
    assert talk.session.history == ()
    talk.text("Go")
    talk.calls("2", LIGHT)
    talk.session.give_up()
    assert talk.session.history == ()
