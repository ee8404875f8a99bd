"""Answers the turns of one conversation, one at a time, in the order in which they ended."""

from voxtral_worker.engine.conversation import AssistantTurn, Exchange
from voxtral_worker.engine.request import (
    ArgumentsDelta,
    CallFinished,
    CallStarted,
    Delta,
    Failed,
    Finished,
    GenerationEvent,
    HistoryTrimmed,
    Timings,
    Usage,
)
from voxtral_worker.engine.tools import INTERRUPTED, UNANSWERED
from voxtral_worker.errors import RateLimited
from voxtral_worker.sessions import events
from voxtral_worker.sessions.calling import OpenExchange, not_found
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import (
    Cancel,
    Commit,
    CountCalls,
    Effect,
    Settle,
    Tell,
    WakeUp,
)
from voxtral_worker.sessions.history import History
from voxtral_worker.sessions.memory import SessionMemory, bytes_of_text
from voxtral_worker.sessions.request_builder import RequestBuilder, bytes_of_options
from voxtral_worker.sessions.speaking import Speaking
from voxtral_worker.sessions.speculation import Speculation
from voxtral_worker.sessions.turn import Turn
from voxtral_worker.sessions.turn_queue import TurnQueue


class Answers:
    """Moves each turn from the queue, by way of the engine, into the history.

    An answered turn is in the history with exactly the tokens that were delivered, so that the
    next prompt continues the engine's kept prefix.
    """

    def __init__(self, owner: str, config: SessionConfig, memory: SessionMemory) -> None:
        """`owner`: the session's id."""
        self.memory = memory
        self.queue = TurnQueue()
        self.history = History()
        self.requests = RequestBuilder(owner, config, self.history)
        self.speaking = Speaking(self.history)

    def use_config(self, config: SessionConfig) -> None:
        """Change the options. Raises RateLimited when the longer answers have no room."""
        # Turns that wait are answered with the new options, so the room that is set aside for
        # their answers changes. The turn being answered keeps what it was asked with.
        waiting = self.queue.waiting
        sizes = [self.requests.bytes_to_answer_turn(turn, config) for turn in waiting]
        more = sum(sizes) - sum(turn.answer_bytes for turn in waiting)
        more += bytes_of_options(config) - self.requests.bytes
        if more > 0:
            self.memory.require(more)
        self.requests.config = config
        for turn, size in zip(waiting, sizes, strict=True):
            turn.answer_bytes = size

    def add(self, turn: Turn, now_s: float) -> list[Effect]:
        """Queue a turn; it is answered once those before it are over.

        A turn that finds no room gets a Failed event in place of an answer.
        """
        turn.answer_bytes = self.requests.bytes_to_answer_turn(turn)
        try:
            self.queue.require_room()
            self.memory.require(turn.bytes)
        except RateLimited as error:
            return [Tell(events.Failed(turn.turn_id, error), turn.to)]
        self.queue.add(turn)
        return self._answer_next(now_s)

    def adopt(self, turn: Turn, speculation: Speculation, now_s: float) -> list[Effect]:
        """Answer a turn with a generation that was asked for before the turn was over.

        No other turn may wait or be answered. The events that were withheld are replayed as if
        they came now.
        """
        turn.answer_bytes = speculation.answer_bytes
        response = turn.response
        response.generation_id = speculation.generation_id
        response.asked_s, response.was_asked_ahead = speculation.asked_s, True
        self.queue.add(turn)
        self.queue.next()
        effects: list[Effect] = [*self._begin(turn), Commit(response.generation_id)]
        for event in speculation.withheld:
            effects += self.on_event(speculation.generation_id, event, now_s)
        return effects

    def on_event(self, generation_id: str, event: GenerationEvent, now_s: float) -> list[Effect]:
        """Take an event of a generation; events of cancelled ones are ignored."""
        turn = self.queue.current
        if turn is None or turn.response.generation_id != generation_id:
            return []
        match event:
            case Delta():
                turn.response.deliver(event, now_s)
                spoken = self.speaking.say(turn.turn_id, event.text, turn.speech)
                if not turn.streams:
                    return spoken
                return [Tell(events.Delta(turn.turn_id, event.text, turn.tag), turn.to), *spoken]
            case CallStarted(index, call_id, name):
                turn.response.begin_call(event)
                return [Tell(events.CallBegun(turn.turn_id, index, call_id, name), turn.to)]
            case ArgumentsDelta(index, text):
                return [Tell(events.CallDelta(turn.turn_id, index, text), turn.to)]
            case CallFinished():
                turn.response.end_call(event)
                return []
            case HistoryTrimmed(exchanges):
                # The engine counted in the history it was given. It still is that history only
                # if it was not cleared since, and if the turn had no history of its own.
                if turn.epoch == self.history.epoch and turn.own.history is None:
                    self.history.forget_oldest(exchanges)
                return [Tell(events.HistoryTrimmed(turn.turn_id, exchanges), turn.to)]
            case Failed(error):
                failed = Tell(events.Failed(turn.turn_id, error, turn.tag), turn.to)
                return [failed, *self._end(turn, Timings(), now_s)]
            case Finished("tool_calls"):
                return self._wait_for_results(turn, event, now_s)
        return self._finish(turn, event, now_s)

    def stop(self, why: events.Why, now_s: float) -> list[Effect]:
        """Stop the response being made and all speech, then answer the next turn.

        No effects if no response is being made and no speech is being played.
        """
        turn = self.queue.current
        spared = None if turn is None else turn.turn_id
        effects, heard = self.speaking.stop(why, now_s, spared)
        if turn is None:
            return effects
        return effects + self._stop(turn, why, now_s, heard.get(turn.turn_id))

    def holds(self, turn_id: str) -> bool:
        """Whether a turn waits, is being answered, or is remembered."""
        return self.queue.find(turn_id) is not None or self.history.has(turn_id)

    def withdraw(self, turn_id: str, start_bytes: int, now_s: float) -> list[Effect]:
        """Take back a turn that continues: its answer counts as not given.

        Its audio began after `start_bytes` of the stream, and is no longer settled.
        """
        effects: list[Effect] = []
        heard: dict[str, str] = {}
        if self.speaking.is_heard(turn_id, now_s):
            effects, heard = self.speaking.stop(events.Why.SPOKEN_OVER, now_s, turn_id)
        # The turn will be answered again, under the same id, with speech of its own.
        self.speaking.forget(turn_id)
        turn = self.queue.find(turn_id)
        if turn is None:
            self.history.remove(turn_id)
            if turn_id in heard:
                effects.append(Tell(events.Stopped(turn_id, events.Why.SPOKEN_OVER)))
        else:
            turn.epoch = None
            effects += self._stop(turn, events.Why.SPOKEN_OVER, now_s)
        self.queue.unsettle(start_bytes)
        return effects

    def set_words(self, turn_id: str, words: str) -> None:
        """Add the transcript of a spoken turn to it, wherever the turn is."""
        turn = self.queue.find(turn_id)
        if turn is not None:
            turn.know_words(words)
        self.history.set_words(turn_id, words)

    def take_result(
        self, call_id: str, content: str, now_s: float, *, is_error: bool = False
    ) -> list[Effect]:
        """Take the result of a tool call.

        With the last result the turn continues, if it is the session that runs the rounds; an
        open exchange continues when the client asks. Raises CallNotFound if no such call waits
        for a result, RateLimited when the session's memory is full.
        """
        turn, open_exchange = self.queue.current, self.history.open
        pending = turn.pending if turn is not None else None
        if pending is None and open_exchange is not None:
            pending = open_exchange.pending
        if pending is None:
            raise not_found(call_id)
        self.memory.require(bytes_of_text(content))
        pending.take(call_id, content)
        counted: list[Effect] = [CountCalls("failed" if is_error else "answered")]
        if turn is None or turn.pending is None or not pending.is_complete:
            return counted
        return [*counted, *self._go_on(turn, now_s, INTERRUPTED)]

    def wake(self, now_s: float) -> list[Effect]:
        """Continue without the results that are overdue; a filler takes their place."""
        turn = self.queue.current
        if turn is None or turn.pending is None or turn.pending.due_s is None:
            return []
        if now_s < turn.pending.due_s:
            # This wake-up was for an earlier round.
            return [WakeUp(turn.pending.due_s)]
        missing = len(turn.pending.missing)
        return [CountCalls("timed_out", missing), *self._go_on(turn, now_s, UNANSWERED)]

    def give_up(self) -> list[Effect]:
        """Stop all work and forget everything."""
        turn = self.queue.current
        self.queue.clear()
        self.history.clear()
        cancelled = [] if turn is None else [Cancel(turn.response.generation_id)]
        return [*self.speaking.give_up(), *cancelled]

    def _answer_next(self, now_s: float) -> list[Effect]:
        turn = self.queue.next()
        if turn is None:
            return []
        closed = self._begin(turn)
        turn.response.asked_s = now_s
        return [*closed, self.requests.generate(turn)]

    def _begin(self, turn: Turn) -> list[Effect]:
        config = self.requests.config
        # `stream` is read once for each response. A change in its middle would send some deltas
        # but not all, and a client that joins deltas would get half a text.
        turn.streams = config.stream
        turn.speech = self.speaking.format_of(turn.own.config or config)
        transcribes = config.mode == "transcribe" and turn.source == "audio"
        turn.epoch = self.history.epoch if turn.own.joins and not transcribes else None
        return self.history.close_open() if turn.own.joins and turn.own.history is None else []

    def _wait_for_results(self, turn: Turn, finished: Finished, now_s: float) -> list[Effect]:
        config = turn.own.config or self.requests.config
        wait_s = config.tool_timeout_ms / 1000
        due_s = now_s + wait_s if wait_s and config.runs_rounds else None
        told: list[Effect] = [
            Tell(events.CallMade(turn.turn_id, index, call, turn.tag), turn.to)
            for index, call in enumerate(turn.response.calls)
        ]
        told.append(turn.report(finished, now_s, is_spoken=self.speaking.is_spoken(turn.turn_id)))
        pending = turn.wait(now_s, due_s)
        if config.runs_rounds:
            # The turn stays the current one: later turns wait until it has its final answer.
            wake = [] if due_s is None else [WakeUp(due_s)]
            return [*told, *_settled(turn, finished.timings), *wake]
        # The client decides when to continue, so later turns need not wait for it.
        if turn.epoch == self.history.epoch:
            self.history.open = OpenExchange(turn.joining, turn.rounds, pending)
        return [*told, *self._end(turn, finished.timings, now_s)]

    def _go_on(self, turn: Turn, now_s: float, filler: str) -> list[Effect]:
        """Generate the next response of a turn; `filler` is the result of calls without one."""
        turn.close_round(now_s, filler)
        return [self.requests.generate(turn)]

    def _stop(
        self, turn: Turn, why: events.Why, now_s: float, heard: str | None = None
    ) -> list[Effect]:
        """Stop one turn. `heard`: the words of its speech that were heard; None: not spoken."""
        said = Finished("interrupted", Usage(0, len(turn.response.token_ids)), Timings())
        stopped: list[Effect] = [Tell(events.Stopped(turn.turn_id, why), turn.to)]
        if turn is self.queue.current:
            # First of all effects, so that the engine stops computing as early as possible.
            stopped.insert(0, Cancel(turn.response.generation_id))
            if turn.pending is not None:
                stopped.append(CountCalls("interrupted", len(turn.pending.missing)))
                turn.close_round(now_s, INTERRUPTED)
        else:
            turn.response.asked_s = now_s
        return [*stopped, *self._finish(turn, said, now_s, heard)]

    def _finish(
        self, turn: Turn, finished: Finished, now_s: float, heard: str | None = None
    ) -> list[Effect]:
        """Record and report an answer. `heard` replaces its text in the history, if given."""
        if turn.epoch == self.history.epoch:
            answer = turn.response.said if heard is None else AssistantTurn(text=heard)
            self.history.append(Exchange(turn.joining, answer, turn.rounds), turn.turn_id)
        is_spoken = self.speaking.is_spoken(turn.turn_id)
        answered = turn.report(finished, now_s, is_spoken=is_spoken)
        return [answered, *self._end(turn, finished.timings, now_s)]

    def _end(self, turn: Turn, timings: Timings, now_s: float) -> list[Effect]:
        """Forget a turn that is over, and answer the next one."""
        self.queue.remove(turn)
        ended = [*self.speaking.end(turn.turn_id), *_settled(turn, timings)]
        return [*ended, *self._answer_next(now_s)]


def _settled(turn: Turn, timings: Timings) -> list[Effect]:
    """How a speculation that became the answer ended."""
    if not turn.response.was_asked_ahead:
        return []
    return [Settle("committed" if turn.response.is_speculative(timings) else "yielded")]
