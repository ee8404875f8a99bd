"""Makes the turns of a prompt from messages of any roles in any order."""

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
    """One message, or neighbouring messages of one role that were joined.

    `role` is system, user, assistant or tool. An assistant's message may call tools; a tool's is
    the result of the call `result_of`. `rounds` of tools came before the assistant's parts.
    """

    role: str
    parts: tuple[P, ...]
    calls: tuple[ToolCall, ...] = ()
    result_of: str = ""
    rounds: tuple[Round, ...] = ()


@dataclass(frozen=True)
class Dialogue(Generic[P]):
    """`turns` alternate and begin with the user's; some of the user's may have no parts.

    The last turn is the user's, or rounds of tools after which the assistant continues.
    """

    system: str | None
    turns: tuple[Said[P | str], ...]


def dialogue(messages: Iterable[Said[P]]) -> Dialogue[P]:
    """Make turns of messages.

    Texts of blanks and messages without parts are left out: histories hold answers that were
    interrupted. System messages at the beginning are the system text; later ones open the user's
    next turn. Where nothing new was said, the system text takes the place of the user's turn, as
    the model answers only the user. Ids of calls become ids that the model can read. Raises
    BadInput that names a call which does not have exactly one result.
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
    """Split the turns of a `Dialogue`: the history, the user's last turn, and the rounds since."""
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
    """Join the calls and results between two turns of the user into one message."""
    told: list[Said[P]] = []
    rounds = _Rounds[P]()
    later: list[Said[P]] = []
    for message in messages:
        if message.role in ("assistant", "tool"):
            rounds.take(message)
        elif message.role == "system" and rounds.waits:
            # A message cannot stand between a call and its result.
            later.append(message)
        else:
            told += [*rounds.end(), *later, message]
            later = []
    return [*told, *rounds.end(), *later]


class _Rounds(Generic[P]):
    """Collects what the assistant and its tools say between two turns of the user."""

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
        """Take one more message. Raises BadInput where its calls and results do not match."""
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
        """Everything as messages of the assistant. Raises BadInput for a call without a result."""
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
