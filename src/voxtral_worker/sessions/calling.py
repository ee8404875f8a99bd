"""Tool calls that wait for their results, and what happens to those that never get one."""

from collections.abc import Iterable

from voxtral_worker.engine.conversation import AssistantTurn, Exchange, Round, UserTurn
from voxtral_worker.engine.tools import (
    INTERRUPTED,
    Toolbox,
    ToolCall,
    ToolResult,
    known_call_id,
)
from voxtral_worker.errors import CallNotFound
from voxtral_worker.sessions.memory import bytes_of_round, bytes_of_turn

# Rounds of tool calls in one turn. Then the model has to answer with what it knows: a model that
# calls again and again would otherwise never answer.
MOST_ROUNDS = 4


class PendingRound:
    """The calls of one response; each takes one result."""

    def __init__(
        self,
        said: AssistantTurn,
        calls: Iterable[ToolCall],
        since_s: float,
        due_s: float | None = None,
    ) -> None:
        """`said`: the response's text before the calls. `since_s`: when they were made.

        `due_s`: when the results must have come. None: they may take any time.
        """
        self.said = said
        self.calls = list(calls)
        self.since_s = since_s
        self.due_s = due_s
        self._results: dict[str, ToolResult] = {}

    @property
    def is_complete(self) -> bool:
        """Whether every call has its result."""
        return len(self._results) == len(self.calls)

    @property
    def has_no_result(self) -> bool:
        """Whether no result has come yet."""
        return not self._results

    @property
    def missing(self) -> list[ToolCall]:
        """The calls that have no result."""
        return [call for call in self.calls if call.call_id not in self._results]

    def take(self, call_id: str, content: str) -> None:
        """Take the result of a call. Raises CallNotFound if that call waits for none."""
        if known_call_id(call_id) not in [call.call_id for call in self.missing]:
            raise not_found(call_id)
        result = ToolResult(known_call_id(call_id), content)
        self._results[result.call_id] = result

    def closed(self, filler: str = INTERRUPTED) -> Round:
        """The round, with `filler` as the result of the calls that have none."""
        results = [
            self._results.get(call.call_id, ToolResult(call.call_id, filler)) for call in self.calls
        ]
        return Round(self.said, tuple(self.calls), tuple(results))


class OpenExchange:
    """An exchange that called tools and has no answer yet. The client asks for that later."""

    def __init__(self, user: UserTurn, rounds: tuple[Round, ...], pending: PendingRound) -> None:
        self.user = user
        self.rounds = rounds
        self.pending = pending

    @property
    def bytes(self) -> int:
        """Its size."""
        rounds = (*self.rounds, self.pending.closed())
        return bytes_of_turn(self.user) + sum(bytes_of_round(each) for each in rounds)

    def all_rounds(self) -> tuple[Round, ...]:
        """All rounds with the last one; a call without result counts as interrupted."""
        return (*self.rounds, self.pending.closed())

    def closed(self, answer: AssistantTurn | None = None) -> Exchange:
        """The exchange as it goes into the history."""
        return Exchange(self.user, answer or AssistantTurn(), self.all_rounds())


def not_found(call_id: str) -> CallNotFound:
    """The error for a result that no call waits for."""
    return CallNotFound(f"no call {call_id[:60]!a} waits for a result, or not any more")


def toolbox_of_round(box: Toolbox, rounds: int) -> Toolbox:
    """The tools that a turn may call after so many rounds.

    A forced choice applies to the first response only: otherwise the model could never answer.
    After the last round no call is allowed.
    """
    if rounds == 0:
        return box
    freed = box.freed()
    return freed if rounds < MOST_ROUNDS else Toolbox(freed.tools, "none", None, freed.parallel)
