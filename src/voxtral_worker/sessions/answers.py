"""Answers the turns of one conversation, one at a time, in the order in which they ended."""

from collections import deque

from voxtral_worker.engine.conversation import (
    TRANSCRIPT_TOKENS_PER_WINDOW,
    WINDOW_SAMPLES,
    AssistantTurn,
    Audio,
    Conversation,
    Exchange,
    Round,
    UserTurn,
)
from voxtral_worker.engine.request import (
    ArgumentsDelta,
    CallFinished,
    CallStarted,
    Delta,
    Failed,
    Finished,
    GenerationEvent,
    GenerationRequest,
    HistoryTrimmed,
    Sampling,
    Timings,
    Urgency,
    Usage,
)
from voxtral_worker.engine.tools import (
    INTERRUPTED,
    NO_TOOLS,
    UNANSWERED,
    ToolCall,
)
from voxtral_worker.errors import RateLimited
from voxtral_worker.sessions import events
from voxtral_worker.sessions.calling import OpenExchange, not_found, toolbox_of_round
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import (
    Cancel,
    Commit,
    CountCalls,
    Effect,
    Generate,
    Settle,
    Tell,
    WakeUp,
)
from voxtral_worker.sessions.history import History
from voxtral_worker.sessions.memory import TOKEN_BYTES, SessionMemory, bytes_of_text, bytes_of_tools
from voxtral_worker.sessions.speaking import Speaking
from voxtral_worker.sessions.speculation import Speculation
from voxtral_worker.sessions.turn import Turn

# Turns that may wait behind the one being answered; a client that sends more gets RateLimited.
MAX_WAITING = 64


class Answers:
    """The queue of turns: each one waits, is being answered, or is over.

    At most one turn is being answered. An answered turn is in the history with exactly the
    tokens that were delivered, so that the next prompt continues the engine's kept prefix.
    """

    def __init__(
        self, owner: str, config: SessionConfig, memory: SessionMemory | None = None
    ) -> None:
        self.config = config
        self.memory = memory or SessionMemory()
        self.history = History()
        self.speaking = Speaking()
        # Audio up to here belongs to turns that are over and answered.
        self.settled_bytes = 0
        # The session's id. The engine reuses work among the requests of one owner only.
        self._owner = owner
        # Counts how often the history was cleared. A turn whose answer began in an earlier epoch
        # is not recorded: it belongs to a conversation that was forgotten.
        self._epoch = 0
        # The exchange whose last response called tools, if the client itself asks for the next
        # response once it has the results. None: no such exchange.
        self.open: OpenExchange | None = None
        # Turns behind the current one, oldest first, and the turn being answered.
        self._waiting: deque[Turn] = deque()
        self._current: Turn | None = None
        self.memory.hold(lambda: self.bytes)

    @property
    def bytes(self) -> int:
        """Size of the history, the turns, their answers, the system prompt and the tools."""
        turns = sum(turn.bytes for turn in self._waiting)
        if self._current is not None:
            turns += self._current.bytes
        if self.open is not None:
            turns += self.open.bytes
        options = bytes_of_text(self.config.system_prompt) + bytes_of_tools(self.config.tools)
        return options + self.history.bytes + turns

    @property
    def is_idle(self) -> bool:
        """Whether no turn waits or is being answered."""
        return self._current is None and not self._waiting

    @property
    def queue_size(self) -> int:
        """Number of turns that wait or are being answered."""
        return len(self._waiting) + (self._current is not None)

    def require_room(self) -> None:
        """Raises RateLimited when too many turns wait."""
        if len(self._waiting) >= MAX_WAITING:
            raise RateLimited(f"{MAX_WAITING} turns wait already", retry_after_s=1.0)

    def bytes_to_answer(self, samples: int = 0, config: SessionConfig | None = None) -> int:
        """Most bytes that an answer may take: to `samples` of sound, or to a text."""
        config = config or self.config
        transcribes = config.mode == "transcribe" and samples > 0
        windows = max(1, -(-samples // WINDOW_SAMPLES))
        most_tokens = _most_tokens(config, windows, transcribes=transcribes)
        return most_tokens * TOKEN_BYTES

    def use_config(self, config: SessionConfig) -> None:
        """Change the options. Raises RateLimited when the longer answers have no room."""
        # Turns that wait are answered with the new options, so the room that is set aside for
        # their answers changes. The turn being answered keeps what it was asked with.
        answers = [self._answer_bytes(turn, config) for turn in self._waiting]
        before = sum(turn.answer_bytes for turn in self._waiting)
        prompts = [
            bytes_of_text(each.system_prompt) + bytes_of_tools(each.tools)
            for each in (config, self.config)
        ]
        more = sum(answers) - before + prompts[0] - prompts[1]
        if more > 0:
            self.memory.require(more)
        self.config = config
        for turn, size in zip(self._waiting, answers, strict=True):
            turn.answer_bytes = size

    def add(self, turn: Turn, now_s: float) -> list[Effect]:
        """Queue a turn; it is answered once those before it are over.

        A turn that finds no room gets a Failed event in place of an answer.
        """
        turn.answer_bytes = self._answer_bytes(turn, self.config)
        try:
            self.require_room()
            self.memory.require(turn.bytes)
        except RateLimited as error:
            return [Tell(events.Failed(turn.turn_id, error), turn.to)]
        self._waiting.append(turn)
        return self._answer_next(now_s)

    def adopt(self, turn: Turn, speculation: Speculation, now_s: float) -> list[Effect]:
        """Answer a turn with a generation that was asked for before the turn was over.

        No other turn may wait or be answered. The events that were withheld are replayed as if
        they came now.
        """
        closed = self._begin(turn)
        turn.answer_bytes = speculation.answer_bytes
        turn.asked_s, turn.was_asked_ahead = speculation.asked_s, True
        turn.generation_id = speculation.generation_id
        effects: list[Effect] = [*closed, Commit(turn.generation_id)]
        for event in speculation.withheld:
            effects += self.on_event(turn.generation_id, event, now_s)
        return effects

    def request(
        self,
        user: UserTurn,
        urgency: Urgency,
        *,
        is_audio: bool,
        config: SessionConfig | None = None,
        history: tuple[Exchange, ...] | None = None,
        rounds: tuple[Round, ...] = (),
    ) -> GenerationRequest:
        """The engine request that would answer this turn now.

        `config`, `history` and `rounds` replace the session's; without them the request is for
        the conversation so far.
        """
        config = config or self.config
        transcribes = config.mode == "transcribe" and is_audio
        said = self.said() if history is None else history
        box = NO_TOOLS if transcribes else toolbox_of_round(config.toolbox, len(rounds))
        conversation = Conversation(
            user,
            () if transcribes else said,
            config.system_prompt,
            transcribes,
            config.language,
            rounds,
            box,
        )
        sampling = _sampling(config, user, transcribes=transcribes)
        return GenerationRequest(conversation, sampling, urgency, self._owner)

    def on_event(self, generation_id: str, event: GenerationEvent, now_s: float) -> list[Effect]:
        """Take an event of a generation; events of cancelled ones are ignored."""
        turn = self._current
        if turn is None or turn.generation_id != generation_id:
            return []
        match event:
            case Delta():
                turn.deliver(event, now_s)
                spoken = self.speaking.say(turn.turn_id, event.text, turn.speech)
                if not turn.streams:
                    return spoken
                return [Tell(events.Delta(turn.turn_id, event.text, turn.tag), turn.to), *spoken]
            case CallStarted(index, call_id, name):
                turn.started[index] = event
                return [Tell(events.CallBegun(turn.turn_id, index, call_id, name), turn.to)]
            case ArgumentsDelta(index, text):
                return [Tell(events.CallDelta(turn.turn_id, index, text), turn.to)]
            case CallFinished(index, arguments):
                started = turn.started[index]
                turn.calls.append(ToolCall(started.call_id, started.name, arguments))
                return []
            case Finished("tool_calls"):
                return self._wait_for_results(turn, event, now_s)
            case HistoryTrimmed(exchanges):
                # The engine counted in the history it was given. It still is that history only
                # if it was not cleared since, and if the turn had no history of its own.
                if turn.epoch == self._epoch and turn.history is None:
                    self.history.forget_oldest(exchanges)
                return [Tell(events.HistoryTrimmed(turn.turn_id, exchanges), turn.to)]
            case Failed(error):
                self._current = None
                self._settle(turn)
                failed = Tell(events.Failed(turn.turn_id, error, turn.tag), turn.to)
                ended = self.speaking.end(turn.turn_id)
                return [failed, *ended, *_settled(turn, Timings()), *self._answer_next(now_s)]
        self._current = None
        return self._finish(turn, event, now_s)

    def stop(self, why: events.Why, now_s: float) -> list[Effect]:
        """Stop the response being made and all speech, then answer the next turn.

        No effects if no response is being made and no speech is being played.
        """
        turn = self._current
        effects, heard = self._hush(why, now_s, None if turn is None else turn.turn_id)
        if turn is None:
            return effects
        return effects + self._stop(turn, why, now_s, heard.get(turn.turn_id))

    def played(self, turn_id: str, played_ms: float, now_s: float, *, is_all: bool) -> str | None:
        """Note that a client has played `played_ms` of a turn's speech. Returns those words.

        None if no speech of the turn is known. If the turn was interrupted, or with `is_all`,
        the client will play no more of it, and the history keeps these words alone.
        """
        heard = self.speaking.playback.played(turn_id, played_ms, now_s)
        if heard is None:
            return None
        if is_all or self.speaking.was_cut(turn_id):
            self.history.shorten(turn_id, heard.text)
        return heard.text

    def holds(self, turn_id: str) -> bool:
        """Whether a turn waits, is being answered, or is remembered."""
        return self._find(turn_id) is not None or self.history.has(turn_id)

    def withdraw(self, turn_id: str, start_bytes: int, now_s: float) -> list[Effect]:
        """Take back a turn that continues: its answer counts as not given.

        Its audio began after `start_bytes` of the stream, and is no longer settled.
        """
        effects: list[Effect] = []
        heard: dict[str, str] = {}
        if self.speaking.is_heard(turn_id, now_s):
            effects, heard = self._hush(events.Why.SPOKEN_OVER, now_s, turn_id)
        # The turn will be answered again, under the same id, with speech of its own.
        self.speaking.forget(turn_id)
        turn = self._find(turn_id)
        if turn is None:
            self.history.remove(turn_id)
            if turn_id in heard:
                effects.append(Tell(events.Stopped(turn_id, events.Why.SPOKEN_OVER)))
        else:
            turn.records_history = False
            effects += self._stop(turn, events.Why.SPOKEN_OVER, now_s)
        self.settled_bytes = min(self.settled_bytes, start_bytes)
        return effects

    def set_words(self, turn_id: str, words: str) -> None:
        """Add the transcript of a spoken turn to it, wherever the turn is."""
        turn = self._find(turn_id)
        if turn is not None:
            turn.know_words(words)
        self.history.set_words(turn_id, words)

    def take_result(self, call_id: str, content: str, now_s: float) -> list[Effect]:
        """Take the result of a tool call.

        With the last result the turn continues, if it is the session that runs the rounds; an
        `open` exchange continues when the client asks. Raises CallNotFound if no such call waits
        for a result, RateLimited when the session's memory is full.
        """
        turn = self._current
        pending = turn.pending if turn is not None else None
        if pending is None and self.open is not None:
            pending = self.open.pending
        if pending is None:
            raise not_found(call_id)
        self.memory.require(bytes_of_text(content))
        pending.take(call_id, content)
        if turn is None or turn.pending is None or not pending.is_complete:
            return []
        return self._go_on(turn, now_s, INTERRUPTED)

    def wake(self, now_s: float) -> list[Effect]:
        """Continue without the results that are overdue; a filler takes their place."""
        turn = self._current
        if turn is None or turn.pending is None or turn.results_due_s is None:
            return []
        if now_s < turn.results_due_s:
            # This wake-up was for an earlier round.
            return [WakeUp(turn.results_due_s)]
        missing = len(turn.pending.missing)
        return [CountCalls("timed_out", missing), *self._go_on(turn, now_s, UNANSWERED)]

    def said(self) -> tuple[Exchange, ...]:
        """The exchanges so far, as they go into the next prompt."""
        if self.open is None:
            return tuple(self.history)
        return (*self.history, self.open.closed())

    def close_open(self, answer: AssistantTurn | None = None) -> list[Effect]:
        """Move the open exchange, if there is one, into the history with this answer."""
        waiting, self.open = self.open, None
        if waiting is None:
            return []
        self.history.append(waiting.closed(answer))
        missing = len(waiting.pending.missing)
        return [CountCalls("interrupted", missing)] if missing else []

    def _wait_for_results(self, turn: Turn, finished: Finished, now_s: float) -> list[Effect]:
        config = turn.config or self.config
        wait_s = config.tool_timeout_ms / 1000
        due_s = now_s + wait_s if wait_s and config.runs_rounds else None
        told: list[Effect] = [
            Tell(events.CallMade(turn.turn_id, index, call, turn.tag), turn.to)
            for index, call in enumerate(turn.calls)
        ]
        answered = self._answered(turn, finished, now_s)
        settled = _settled(turn, finished.timings)
        pending = turn.wait(now_s, due_s)
        if config.runs_rounds:
            # The turn stays the current one: later turns wait until it has its final answer.
            wake = [] if due_s is None else [WakeUp(due_s)]
            return [*told, answered, *settled, *wake]
        # The client decides when to continue, so later turns need not wait for it.
        self._current = None
        self._settle(turn)
        if turn.records_history and turn.epoch == self._epoch:
            user = turn.user if turn.history is None else UserTurn(())
            self.open = OpenExchange(user, turn.rounds, pending)
        ended = self.speaking.end(turn.turn_id)
        return [*told, answered, *ended, *settled, *self._answer_next(now_s)]

    def _go_on(self, turn: Turn, now_s: float, filler: str) -> list[Effect]:
        """Generate the next response of a turn; `filler` is the result of calls without one."""
        turn.close_round(now_s, filler)
        return [Generate(turn.generation_id, self._request_of(turn))]

    def clear_history(self) -> None:
        """Forget the conversation. A response being made will not be remembered either."""
        self.history.clear()
        self.open = None
        self._epoch += 1

    def give_up(self) -> list[Effect]:
        """Stop all work and forget everything."""
        turn, self._current = self._current, None
        self._waiting.clear()
        self.history.clear()
        self.open = None
        return [*self.speaking.give_up(), *([] if turn is None else [Cancel(turn.generation_id)])]

    def _find(self, turn_id: str) -> Turn | None:
        """The turn of an id, if it waits or is being answered."""
        turns = [*self._waiting, *([self._current] if self._current else [])]
        return next((turn for turn in turns if turn.turn_id == turn_id), None)

    def _hush(
        self, why: events.Why, now_s: float, spared: str | None
    ) -> tuple[list[Effect], dict[str, str]]:
        """Stop all speech. Returns the effects, and the heard words by turn.

        Each turn gets a Stopped event, but for the one that is `spared`: its caller reports it.
        """
        effects, heard = self.speaking.cut(now_s)
        for turn_id, text in heard.items():
            if turn_id != spared:
                # The text of this turn is complete and in the history; only its speech stops.
                # The history keeps what the user heard, as the model should not build on the rest.
                self.history.shorten(turn_id, text)
                effects.append(Tell(events.Stopped(turn_id, why)))
        return effects, heard

    def _stop(
        self, turn: Turn, why: events.Why, now_s: float, heard: str | None = None
    ) -> list[Effect]:
        """Stop one turn. `heard`: the words of its speech that were heard; None: not spoken."""
        said = Finished("interrupted", Usage(0, len(turn.token_ids)), Timings())
        stopped: list[Effect] = [Tell(events.Stopped(turn.turn_id, why), turn.to)]
        if turn is self._current:
            # First of all effects, so that the engine stops computing as early as possible.
            stopped.insert(0, Cancel(turn.generation_id))
            self._current = None
            if turn.pending is not None:
                stopped.append(CountCalls("interrupted", len(turn.pending.missing)))
                turn.close_round(now_s, INTERRUPTED)
        else:
            self._waiting.remove(turn)
            turn.asked_s = now_s
        return [*stopped, *self._finish(turn, said, now_s, heard)]

    def _answer_bytes(self, turn: Turn, config: SessionConfig) -> int:
        config = turn.config or config
        transcribes = config.mode == "transcribe" and turn.source == "audio"
        return answer_bytes(_sampling(config, turn.user, transcribes=transcribes))

    def _begin(self, turn: Turn) -> list[Effect]:
        self._current = turn
        turn.epoch = self._epoch
        # `stream` is read once for each response. A change in its middle would send some deltas
        # but not all, and a client that joins deltas would get half a text.
        turn.streams = self.config.stream
        turn.speech = self.speaking.format_of(turn.config or self.config)
        transcribes = self.config.mode == "transcribe" and turn.source == "audio"
        turn.records_history = turn.joins and not transcribes
        return self.close_open() if turn.joins and turn.history is None else []

    def _answer_next(self, now_s: float) -> list[Effect]:
        if self._current is not None or not self._waiting:
            return []
        turn = self._waiting.popleft()
        closed = self._begin(turn)
        turn.asked_s = now_s
        return [*closed, Generate(turn.generation_id, self._request_of(turn))]

    def _request_of(self, turn: Turn) -> GenerationRequest:
        return self.request(
            turn.user,
            Urgency.TURN,
            is_audio=turn.source == "audio",
            config=turn.config,
            history=turn.history,
            rounds=turn.rounds,
        )

    def _finish(
        self, turn: Turn, finished: Finished, now_s: float, heard: str | None = None
    ) -> list[Effect]:
        """Record and report an answer. `heard` replaces its text in the history, if given."""
        self._settle(turn)
        if turn.records_history and turn.epoch == self._epoch:
            answer = AssistantTurn(tuple(turn.token_ids), words=turn.text)
            if heard is not None:
                answer = AssistantTurn(text=heard)
            # A context of its own is not part of the conversation; only the answer joins it.
            user = turn.user if turn.history is None else UserTurn(())
            self.history.append(Exchange(user, answer, turn.rounds), turn.turn_id)
        answered = self._answered(turn, finished, now_s)
        ended = [*self.speaking.end(turn.turn_id), *_settled(turn, finished.timings)]
        return [answered, *ended, *self._answer_next(now_s)]

    def _answered(self, turn: Turn, finished: Finished, now_s: float) -> Tell:
        usage, timings = finished.usage, finished.timings
        answered = events.Answered(
            turn.turn_id,
            turn.text,
            turn.source,
            finished.finish_reason,
            usage,
            turn.metrics(now_s, usage, timings),
            turn.tag,
            self.speaking.is_spoken(turn.turn_id),
        )
        return Tell(answered, turn.to)

    def _settle(self, turn: Turn) -> None:
        self.settled_bytes = max(self.settled_bytes, turn.audio_bytes)


def answer_bytes(sampling: Sampling) -> int:
    """Most bytes that an answer may take."""
    return sampling.max_tokens * TOKEN_BYTES


def _sampling(config: SessionConfig, user: UserTurn, *, transcribes: bool) -> Sampling:
    temperature = config.temperature
    if transcribes and "temperature" not in config.given:
        # The model card recommends temperature 0.2 for chat and 0 for transcription.
        temperature = 0.0
    windows = sum(part.windows for part in user.parts if isinstance(part, Audio))
    most_tokens = _most_tokens(config, windows, transcribes=transcribes)
    return Sampling(temperature, config.top_p, most_tokens, config.stop, config.seed)


def _most_tokens(config: SessionConfig, windows: int, *, transcribes: bool) -> int:
    if transcribes and "max_length" not in config.given:
        return TRANSCRIPT_TOKENS_PER_WINDOW * windows
    return config.max_length


def _settled(turn: Turn, timings: Timings) -> list[Effect]:
    if not turn.was_asked_ahead:
        return []
    return [Settle("committed" if turn.is_speculative(timings) else "yielded")]
