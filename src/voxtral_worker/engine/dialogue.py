"""Puts messages of any roles, in any order, into the turns that a prompt is made of."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from voxtral_worker.engine.conversation import AssistantTurn, Audio, Exchange, Round, UserTurn
from voxtral_worker.engine.tools import ToolCall, ToolResult, known_call_id
from voxtral_worker.errors import BadInput

P = TypeVar("P")

BETWEEN_TEXTS = "\n\n"


@dataclass(frozen=True)
class Said(Generic[P]):
    """One message, or the neighbours of one role as one.

    `role` is system, user, assistant or tool. An assistant's may call tools; a tool's is the
    result of the call `result_of`. `rounds` of tools came before the assistant's parts.
    """

    role: str
    parts: tuple[P, ...]
    calls: tuple[ToolCall, ...] = ()
    result_of: str = ""
    rounds: tuple[Round, ...] = ()


@dataclass(frozen=True)
class Dialogue(Generic[P]):
    """`turns` alternate and begin with the user's, of which some may have no parts.

    They end with the user's, or with rounds of tools that the assistant has to go on from.
    """

    system: str | None
    turns: tuple[Said[P | str], ...]


def dialogue(messages: Iterable[Said[P]]) -> Dialogue[P]:
    """The turns that messages mean.

    Texts of blanks say nothing, and a message without parts is none: histories hold answers
    that were interrupted. System messages at the beginning are the system text; later ones
    open the user's next turn. Where nothing new was said, the system text is what is answered,
    in the user's place: the model takes no turn of its own accord. Ids of calls become those
    that the model may read. Raises BadInput that names a call which has not one result.
    """
    heard = [
        dataclasses.replace(said, parts=_without_blanks(said.parts))
        for said in _with_rounds(list(messages))
    ]
    said = [each for each in heard if each.parts or each.rounds]
    begins = next((at for at, each in enumerate(said) if each.role != "system"), len(said))
    system = BETWEEN_TEXTS.join(_text(each.parts) for each in said[:begins]) or None
    turns = _joined(
        [
            dataclasses.replace(each, role="user") if each.role == "system" else each
            for each in said[begins:]
        ]
    )
    if turns and turns[0].role == "assistant":
        turns.insert(0, Said("user", ()))
    if not turns or (turns[-1].role == "assistant" and turns[-1].parts):
        turns.append(Said("user", () if system is None else (system,)))
        system = None
    return Dialogue(system, tuple(turns))


def exchanges(
    turns: tuple[Said[str | Audio], ...],
) -> tuple[tuple[Exchange, ...], UserTurn, tuple[Round, ...]]:
    """The history, the user's last turn and the rounds since, of turns as `Dialogue` has them."""
    rounds: tuple[Round, ...] = ()
    if turns[-1].role == "assistant":
        turns, rounds = turns[:-1], turns[-1].rounds
    users = [UserTurn(turn.parts) for turn in turns[::2]]
    pairs = zip(users[:-1], turns[1::2], strict=True)
    history = tuple(
        Exchange(user, AssistantTurn(text=_text(answer.parts)), answer.rounds)
        for user, answer in pairs
    )
    return history, users[-1], rounds


def _with_rounds(messages: list[Said[P]]) -> list[Said[P]]:
    """The same with the calls and results between two turns of the user in one message."""
    told: list[Said[P]] = []
    rounds = _Rounds[P]()
    later: list[Said[P]] = []
    for message in messages:
        if message.role in ("assistant", "tool"):
            rounds.take(message)
        elif message.role == "system" and rounds.waits:
            # Between a call and its result nobody can say anything.
            later.append(message)
        else:
            told += [*rounds.end(), *later, message]
            later = []
    return [*told, *rounds.end(), *later]


class _Rounds(Generic[P]):
    """What the assistant and its tools say between two turns of the user."""

    def __init__(self) -> None:
        self._messages: list[Said[P]] = []
        self._calls: list[ToolCall] = []
        self._results: dict[str, ToolResult] = {}
        self._rounds: list[Round] = []

    @property
    def waits(self) -> bool:
        """Whether a call has no result yet."""
        return bool(self._calls)

    def take(self, message: Said[P]) -> None:
        """One more message. Raises BadInput."""
        if message.role == "tool":
            self._result(message)
            return
        if self._results:
            self._refuse_dangling()
        if not message.calls and not self._calls:
            self._messages.append(message)
            return
        for call in message.calls:
            if call.call_id in [each.call_id for each in self._calls]:
                raise BadInput(f"the id {call.call_id[:60]!a} stands at two calls of tools")
            self._calls.append(call)
        self._messages.append(message)

    def end(self) -> list[Said[P]]:
        """All of it, as messages of the assistant. Raises BadInput for a call without result."""
        if self._calls:
            self._refuse_dangling()
        messages = self._messages
        if self._rounds:
            parts = tuple(part for each in messages for part in each.parts)
            messages = [Said("assistant", parts, rounds=tuple(self._rounds))]
        self._messages, self._rounds = [], []
        return messages

    def _result(self, message: Said[P]) -> None:
        call_id = message.result_of
        if call_id not in [call.call_id for call in self._calls]:
            raise BadInput(f"no call of a tool that waits has the id {call_id[:60]!a}")
        if call_id in self._results:
            raise BadInput(f"the call {call_id[:60]!a} of a tool has two results")
        content = _text(message.parts)
        self._results[call_id] = ToolResult(known_call_id(call_id), content)
        if len(self._results) < len(self._calls):
            return
        text = BETWEEN_TEXTS.join(t for each in self._messages if (t := _text(each.parts).strip()))
        calls = [
            dataclasses.replace(call, call_id=known_call_id(call.call_id)) for call in self._calls
        ]
        results = [self._results[call.call_id] for call in self._calls]
        self._rounds.append(Round(AssistantTurn(text=text), tuple(calls), tuple(results)))
        self._messages, self._calls, self._results = [], [], {}

    def _refuse_dangling(self) -> None:
        missing = next(c.call_id for c in self._calls if c.call_id not in self._results)
        raise BadInput(f"the call {missing[:60]!a} of a tool has no result before what follows it")


def _without_blanks(parts: tuple[P, ...]) -> tuple[P, ...]:
    return tuple(part for part in parts if not (isinstance(part, str) and not part.strip()))


def _joined(said: list[Said[P]]) -> list[Said[P | str]]:
    turns: list[Said[Any]] = []
    for each in said:
        if not turns or turns[-1].role != each.role:
            turns.append(each)
            continue
        before = turns[-1]
        if each.rounds:
            first = each.rounds[0]
            texts = [text for text in (_text(before.parts), first.said.text) if text]
            first = dataclasses.replace(first, said=AssistantTurn(text=BETWEEN_TEXTS.join(texts)))
            rounds = (*before.rounds, first, *each.rounds[1:])
            turns[-1] = dataclasses.replace(each, rounds=rounds)
        else:
            turns[-1] = dataclasses.replace(before, parts=_neighbours(before.parts, each.parts))
    return turns


def _neighbours(before: tuple[Any, ...], after: tuple[Any, ...]) -> tuple[Any, ...]:
    if not before or not after:
        return before + after
    last, first = before[-1], after[0]
    # One text, as mistral-common joins them before it makes tokens of them.
    is_one = isinstance(last, str) and isinstance(first, str)
    between = (f"{last}{BETWEEN_TEXTS}{first}",) if is_one else (last, first)
    return (*before[:-1], *between, *after[1:])


def _text(parts: tuple[P, ...]) -> str:
    return "".join(part for part in parts if isinstance(part, str))
