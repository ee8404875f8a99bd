"""People talk with the engine in real time: how many, with long contexts, and with a long file."""

import asyncio
import heapq
import queue
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.gpu_scale import Scale, load_random
from bench.gpu_timing import in_ms, memory
from bench.token_times import TokenTimes
from tests.support.endless import endless_engine
from tests.support.windows import windows_of
from voxtral_worker.engine.conversation import (
    SAMPLE_RATE,
    WINDOW_SAMPLES,
    AssistantTurn,
    Audio,
    Conversation,
    Exchange,
    UserTurn,
)
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.generation import Generation
from voxtral_worker.engine.request import (
    Failed,
    Finished,
    GenerationRequest,
    Sampling,
    Urgency,
    Usage,
)
from voxtral_worker.engine.transcript import write_down
from voxtral_worker.turns.recording import take_all_as_speech

SECOND_OF_SPEECH = (0.1 * np.random.default_rng(1).standard_normal(SAMPLE_RATE)).astype(np.float32)
TURN = np.tile(SECOND_OF_SPEECH, 3)
# The cache of a session holds about so many spoken turns. Then a new person takes its place.
TURNS_KEPT = 4
WAIT_S = 300.0
# How long answers may take after the last question.
PATIENCE_S = 30.0
FILE_TOKENS = 64


@dataclass(eq=False)
class Talker:
    """One person: what was said so far, and the question that is being answered."""

    name: str
    history: tuple[Exchange, ...] = ()
    user: UserTurn = field(default_factory=lambda: UserTurn(()))
    generation: Generation | None = None
    asked_s: float = 0.0


@dataclass
class Heard:
    """What people waited for: first tokens and gaps between tokens, in seconds."""

    firsts_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    unanswered: int = 0

    def cells(self) -> str:
        """The cells of a table's row: turns, first tokens, gaps."""
        if not self.firsts_s or not self.gaps_s:
            return f"{len(self.firsts_s)} | - | - | - | - | -"
        figures = [
            percentile(self.firsts_s, 50),
            percentile(self.firsts_s, 95),
            percentile(self.gaps_s, 50),
            percentile(self.gaps_s, 99),
            max(self.gaps_s),
        ]
        return " | ".join([str(len(self.firsts_s)), *map(in_ms, figures)])

    def is_within(self, scale: Scale) -> bool:
        """Whether no one failed and nearly all waits were within the limits."""
        if self.failures or self.unanswered or not self.firsts_s or not self.gaps_s:
            return False
        is_soon = percentile(self.firsts_s, 95) <= scale.most_first_s
        return is_soon and percentile(self.gaps_s, 99) <= scale.most_gap_s


HEAD = "| turns | first token p50 | p95 | gap p50 | p99 | longest |"


def percentile(values: list[float], percent: float) -> float:
    """The value that so many percent do not exceed."""
    return float(np.percentile(np.array(values), percent, method="higher"))


class Crowd:
    """Talkers on one engine; each asks about every `turn_every_s`, and hears the answer out."""

    def __init__(self, engine: Engine, tokens: TokenTimes, scale: Scale, seed: int = 1) -> None:
        self._engine, self._tokens, self._scale = engine, tokens, scale
        self._random = np.random.default_rng(seed)
        self._done: queue.Queue[tuple[Talker, Finished | Failed]] = queue.Queue()
        self._people = 0
        self._talking: list[Talker] = []
        self._heard = Heard()

    def talk(self, count: int, is_over: Callable[[], bool]) -> Heard:
        """Let so many talk until the time is over and the last of them is answered."""
        self._heard, start_s = Heard(), time.monotonic()
        # A new queue: requests that were given up before may still report their end to the old one.
        self._done = queue.Queue()
        due = [
            (start_s + self._random.uniform(0, self._scale.turn_every_s), number)
            for number in range(count)
        ]
        heapq.heapify(due)
        talkers = [self._somebody() for _ in range(count)]
        until_s = float("inf")
        while time.monotonic() < until_s:
            if until_s == float("inf") and is_over():
                until_s, due = time.monotonic() + PATIENCE_S, []
            if not due and not self._talking:
                break
            while due and due[0][0] <= time.monotonic():
                self._ask(talkers[heapq.heappop(due)[1]])
            for talker in self._answered(due[0][0] if due else time.monotonic() + 0.1):
                number = talkers.index(talker)
                if len(talker.history) >= TURNS_KEPT:
                    self._engine.forget(talker.name)
                    talkers[number] = self._somebody()
                if until_s == float("inf"):
                    pause_s = self._scale.turn_every_s * self._random.uniform(0.5, 1.5)
                    heapq.heappush(due, (max(time.monotonic(), talker.asked_s + pause_s), number))
        for talker in self._talking:
            assert talker.generation is not None
            talker.generation.cancel()
            self._heard.unanswered += 1
        self._talking.clear()
        for talker in talkers:
            self._engine.forget(talker.name)
        return self._heard

    def _somebody(self) -> Talker:
        self._people += 1
        return Talker(f"talker {self._people}")

    def _ask(self, talker: Talker) -> None:
        talker.user = UserTurn((Audio(TURN),))
        conversation = Conversation(talker.user, talker.history)
        sampling = Sampling(max_tokens=self._scale.answer_tokens)
        request = GenerationRequest(conversation, sampling, owner=talker.name)
        done = self._done

        def listen(event: object) -> None:
            if isinstance(event, Finished | Failed):
                done.put((talker, event))

        talker.asked_s = time.monotonic()
        talker.generation = self._engine.submit(request, listen)
        self._talking.append(talker)

    def _answered(self, until_s: float) -> list[Talker]:
        """Yield the talkers that are answered next; wait until then, or 0.1 s."""
        wait_s = min(0.1, max(0.001, until_s - time.monotonic()))
        try:
            talker, event = self._done.get(timeout=wait_s)
        except queue.Empty:
            return []
        self._talking.remove(talker)
        assert talker.generation is not None
        made = self._tokens.of(talker.generation)
        if isinstance(event, Failed):
            self._heard.failures.append(event.error.message)
            return [talker]
        self._heard.firsts_s.append(made.times_s[0] - talker.asked_s)
        self._heard.gaps_s += made.gaps_s
        answer = AssistantTurn(tuple(made.token_ids))
        talker.history += (Exchange(talker.user, answer),)
        return [talker]


def for_seconds(seconds: float) -> Callable[[], bool]:
    """Whether so many have passed since now."""
    until_s = time.monotonic() + seconds
    return lambda: time.monotonic() >= until_s


def check_talkers(scale: Scale, folder: Path) -> None:
    """Double the talkers until they wait too long. Raises AssertionError if one fails."""
    settings = scale.settings
    engine = endless_engine(load_random(scale, folder), settings)
    tokens = TokenTimes(engine)
    print(
        f"\nturns of 3 s of speech about every {scale.turn_every_s:g} s, {scale.talk_s:g} s a ",
        end="",
    )
    print(f"line, answers of {scale.answer_tokens} tokens at temperature 0.2; limits: ", end="")
    print(f"{in_ms(scale.most_first_s)} (first p95), {in_ms(scale.most_gap_s)} (gap p99)\n")
    print(f"| talkers {HEAD} within |\n| {'--- | ' * 8}")
    most, count, failures = 0, scale.fewest_talkers, list[str]()
    while count <= scale.most_talkers:
        heard = Crowd(engine, tokens, scale, count).talk(count, for_seconds(scale.talk_s))
        is_within, failures = heard.is_within(scale), heard.failures
        print(f"| {count} | {heard.cells()} | {'yes' if is_within else 'no'} |", flush=True)
        if not is_within:
            break
        most, count = count, 2 * count
    engine.stop()
    of = f", of {scale.most_talkers} that were tried at most" if most == scale.most_talkers else ""
    print(f"\nmost talkers within the limits, by doubling: {most or 'none'}{of}")
    print(f"memory: {memory(scale.device)}")
    assert not failures, failures[0]
    assert most, f"the limits are missed by {scale.fewest_talkers} talkers"


def check_long(scale: Scale, folder: Path) -> None:
    """Measure a turn with a long context, and a long file together with talkers."""
    engine = endless_engine(load_random(scale, folder), scale.settings)
    tokens = TokenTimes(engine)
    _late_turn(engine, tokens, scale)
    _file(engine, tokens, scale)
    engine.stop()


@dataclass(frozen=True)
class Asked:
    """An answer that was waited for."""

    first_s: float
    whole_s: float
    usage: Usage
    token_ids: tuple[int, ...]


def ask(engine: Engine, tokens: TokenTimes, request: GenerationRequest) -> Asked:
    """Ask and wait for the end. Raises the error of a failed generation, TimeoutError."""
    events: queue.Queue[Finished | Failed] = queue.Queue()
    started_s = time.monotonic()
    generation = engine.submit(
        request, lambda e: events.put(e) if isinstance(e, Finished | Failed) else None
    )
    try:
        event = events.get(timeout=WAIT_S)
    except queue.Empty:
        generation.cancel()
        raise TimeoutError(f"no answer within {WAIT_S:.0f} s") from None
    if isinstance(event, Failed):
        raise event.error
    made = tokens.of(generation)
    first_s, whole_s = made.times_s[0] - started_s, time.monotonic() - started_s
    return Asked(first_s, whole_s, event.usage, tuple(made.token_ids))


def _late_turn(engine: Engine, tokens: TokenTimes, scale: Scale) -> None:
    sampling = Sampling(0, 1, 8)
    said = UserTurn(windows_of(np.tile(TURN, 10 * scale.late_windows)))
    first = ask(engine, tokens, GenerationRequest(Conversation(said), sampling, owner="late"))
    history = (Exchange(said, AssistantTurn(first.token_ids)),)
    cases = (
        ("alone", (), None),
        ("behind that context, kept in the cache", history, "late"),
        ("behind that context, computed again", history, None),
    )
    print(f"\nfirst turn: {first.usage.prompt_tokens} tokens, {in_ms(first.first_s)}\n")
    print("| a turn of 3 s | prompt tokens | computed | first token, median | longest |")
    print("| --- | --- | --- | --- | --- |")
    for name, before, owner in cases:
        answers = []
        for _ in range(scale.rounds):
            conversation = Conversation(UserTurn((Audio(TURN),)), before)
            answers.append(
                ask(engine, tokens, GenerationRequest(conversation, sampling, owner=owner))
            )
        firsts, usage = [answer.first_s for answer in answers], answers[-1].usage
        if owner is not None:
            assert usage.cached_tokens >= first.usage.prompt_tokens // 2, "the context was not kept"
        computed = usage.prompt_tokens - usage.cached_tokens
        print(f"| {name} | {usage.prompt_tokens} | {computed} ", end="")
        print(f"| {in_ms(statistics.median(firsts))} | {in_ms(max(firsts))} |", flush=True)
    engine.forget("late")
    print(f"\nmemory: {memory(scale.device)}")


def _file(engine: Engine, tokens: TokenTimes, scale: Scale) -> None:
    """One question about the whole file, alone and together with talkers; then its transcript."""
    sound = np.tile(SECOND_OF_SPEECH, scale.file_windows * WINDOW_SAMPLES // SAMPLE_RATE)
    minutes = len(sound) / SAMPLE_RATE / 60
    alone = ask(engine, tokens, _about(sound))
    crowd = Crowd(engine, tokens, scale)
    before = crowd.talk(scale.beside, for_seconds(scale.talk_s))
    ended: queue.Queue[Finished | Failed] = queue.Queue()
    started_s, is_late = time.monotonic(), for_seconds(scale.file_s)
    generation = engine.submit(
        _about(sound), lambda e: ended.put(e) if isinstance(e, Finished | Failed) else None
    )
    # A small file may be over before anyone has spoken.
    has_spoken = for_seconds(scale.turn_every_s)
    beside = crowd.talk(scale.beside, lambda: is_late() or (not ended.empty() and has_spoken()))
    assert not ended.empty(), f"the file took longer than {scale.file_s:.0f} s beside talkers"
    event = ended.get()
    if isinstance(event, Failed):
        raise event.error
    made = tokens.of(generation)
    after = crowd.talk(scale.beside, for_seconds(scale.talk_s))
    print(f"\na question about {minutes:g} minutes ({alone.usage.prompt_tokens} tokens), ", end="")
    print(f"first token: alone {alone.first_s:.2f} s, ", end="")
    print(f"beside {scale.beside} talkers {made.times_s[0] - started_s:.2f} s\n")
    print(f"| {scale.beside} talkers {HEAD}\n| {'--- | ' * 7}")
    for name, heard in (("alone", before), ("beside the file", beside), ("alone again", after)):
        print(f"| {name} | {heard.cells()} |")
        assert not heard.failures, heard.failures[0]
        assert not heard.unanswered, f"{heard.unanswered} turns were not answered"
    started_s = time.monotonic()
    windows = asyncio.run(take_all_as_speech(sound))
    sampling = Sampling(0, 1, FILE_TOKENS)
    asyncio.run(write_down(engine, sound, windows, sampling, None, "file", lambda _: None))
    took_s = time.monotonic() - started_s
    print(f"\nits transcript, {FILE_TOKENS} tokens a window: {took_s:.1f} s, ", end="")
    print(f"{60 * minutes / took_s:.0f} times as fast as it was spoken")
    print(f"memory: {memory(scale.device)}", flush=True)


def _about(sound: np.ndarray) -> GenerationRequest:
    parts = UserTurn((*windows_of(sound), "what was said"))
    return GenerationRequest(Conversation(parts), Sampling(0, 1, FILE_TOKENS), Urgency.JOB)
