"""Measures late turns of long conversations, and how a long file slows other talkers down."""

import statistics
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import torch

from bench.throughput import SETTINGS, SOUND
from tests.support.endless import endless_engine
from tests.support.windows import windows_of
from voxtral_worker.engine.conversation import (
    AssistantTurn,
    Audio,
    Conversation,
    Exchange,
    UserTurn,
)
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.model import LoadedModel, load_model
from voxtral_worker.engine.prompt import PromptEncoder
from voxtral_worker.engine.request import (
    Delta,
    Failed,
    Finished,
    GenerationRequest,
    Sampling,
    Urgency,
)

TURNS = 20
ROUNDS = 3
TALKERS = 8
TALK_S = 40.0
FILE_MINUTES = 25
WAIT_S = 600.0


@dataclass
class Answer:
    """The result of one request, with the times of its deltas."""

    started_s: float
    token_ids: tuple[int, ...] = ()
    delta_s: list[float] = field(default_factory=list)
    ended: Finished | Failed | None = None
    is_over: threading.Event = field(default_factory=threading.Event)

    @property
    def first_s(self) -> float:
        """Seconds to the first delta."""
        return self.delta_s[0] - self.started_s

    def hear(self, event: object) -> None:
        """Take an event of the engine."""
        if isinstance(event, Delta):
            self.delta_s.append(time.monotonic())
            self.token_ids += event.token_ids
        if isinstance(event, Finished | Failed):
            self.ended = event
            self.is_over.set()


def ask(engine: Engine, request: GenerationRequest) -> Answer:
    """Ask and wait for the end. Raises the error of a failed generation."""
    answer = Answer(time.monotonic())
    generation = engine.submit(request, answer.hear)
    if not answer.is_over.wait(WAIT_S):
        generation.cancel()
        raise TimeoutError("no answer")
    if isinstance(answer.ended, Failed):
        raise answer.ended.error
    return answer


def late_turns() -> None:
    """First token of each turn of a spoken conversation, compared with generate() on all of it."""
    plain = load_model(SETTINGS)
    engine = endless_engine(load_model(SETTINGS), SETTINGS)
    ours: dict[int, list[float]] = {}
    theirs: dict[int, list[float]] = {}
    computed: dict[int, int] = {}
    shown = (1, 2, 5, 10, 15, TURNS)
    for number in range(ROUNDS):
        history: tuple[Exchange, ...] = ()
        for turn in range(1, TURNS + 1):
            user = UserTurn((Audio(SOUND),))
            conversation = Conversation(user, history)
            if turn in shown:
                theirs.setdefault(turn, []).append(_generate_one(plain, conversation))
            request = GenerationRequest(conversation, Sampling(0, 1, 8), owner=f"round {number}")
            answer = ask(engine, request)
            assert answer.ended is not None
            ours.setdefault(turn, []).append(answer.first_s)
            usage = answer.ended.usage  # type: ignore[union-attr]
            computed[turn] = usage.prompt_tokens - usage.cached_tokens
            history += (Exchange(user, AssistantTurn(answer.token_ids)),)
    engine.stop()
    print(
        f"\nA spoken conversation: ms to the first token, medians of {ROUNDS} interleaved rounds\n"
    )
    print(
        "| turn | generate() on the whole history | engine | ratio | prompt tokens computed", end=""
    )
    print(" | growth since turn 1 | attention alone, growth |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for turn in shown:
        plain_ms = 1000 * statistics.median(theirs[turn])
        ours_ms = 1000 * statistics.median(ours[turn])
        ratio = plain_ms / ours_ms
        growth = ours_ms - 1000 * statistics.median(ours[1])
        alone = _attention_ms(plain, computed[turn], turn) - _attention_ms(plain, computed[1], 1)
        print(f"| {turn} | {plain_ms:.0f} | {ours_ms:.0f} | {ratio:.1f} ", end="")
        print(f"| {computed[turn]} | {growth:.0f} | {alone:.0f} |")


def _attention_ms(loaded: LoadedModel, rows: int, turn: int) -> float:
    """PyTorch's attention, and nothing else, of a turn's rows over the context, all layers."""
    config, context = loaded.model.config.text_config, rows * turn
    query = torch.randn(1, config.num_attention_heads, rows, config.head_dim)
    key = torch.randn(1, config.num_key_value_heads, context, config.head_dim)
    mask = torch.ones(rows, context, dtype=torch.bool).tril(context - rows)
    times = []
    for _ in range(9):
        started_s = time.monotonic()
        for _ in range(config.num_hidden_layers):
            torch.nn.functional.scaled_dot_product_attention(
                query, key, key, attn_mask=mask, enable_gqa=True
            )
        times.append(time.monotonic() - started_s)
    return 1000 * statistics.median(times)


@torch.inference_mode()
def _generate_one(loaded: LoadedModel, conversation: Conversation) -> float:
    """Seconds that plain generate() takes for one token: features, encoder, whole prompt."""
    pieces = [exchange.user.parts[0] for exchange in conversation.history]
    pieces.append(conversation.user.parts[0])
    prompt = PromptEncoder(loaded.tokenizer).encode(conversation, 100_000)
    ids = torch.tensor([prompt.ids])
    started_s = time.monotonic()
    features = loaded.processor.feature_extractor(
        [SOUND] * len(pieces), sampling_rate=16_000, return_tensors="pt"
    )["input_features"]
    loaded.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        input_features=features,
        do_sample=False,
        max_new_tokens=1,
    )
    return time.monotonic() - started_s


def _talk(engine: Engine, name: str, until_s: float, gaps: list[float]) -> None:
    """One talker: audio turns one after the other; collects the gaps between its deltas."""
    history: tuple[Exchange, ...] = ()
    rng = np.random.default_rng(sum(map(ord, name)))
    while time.monotonic() < until_s:
        user = UserTurn((Audio(SOUND),))
        request = GenerationRequest(Conversation(user, history), Sampling(0, 1, 24), owner=name)
        answer = ask(engine, request)
        gaps += list(np.diff(answer.delta_s))
        history = (*history[-2:], Exchange(user, AssistantTurn(answer.token_ids)))
        time.sleep(float(rng.uniform(0.5, 2.5)))


def _gaps(engine: Engine) -> list[float]:
    gaps: list[float] = []
    until_s = time.monotonic() + TALK_S
    talkers = [
        threading.Thread(target=_talk, args=(engine, f"talker {i}", until_s, gaps))
        for i in range(TALKERS)
    ]
    for talker in talkers:
        talker.start()
    for talker in talkers:
        talker.join()
    return gaps


def file_beside_talkers() -> None:
    """Gaps between the deltas of talkers, alone and together with a 25-minute file."""
    engine = endless_engine(load_model(SETTINGS), SETTINGS)
    sound = np.tile(SOUND, FILE_MINUTES * 60 // 3)
    alone = _gaps(engine)
    stop = threading.Event()
    done = [0, 0]

    def file_job() -> None:
        """As a question about the whole file: one prompt, all its windows in it."""
        while not stop.is_set():
            parts = UserTurn((*windows_of(sound), "what was said"))
            answer = Answer(time.monotonic())
            request = GenerationRequest(Conversation(parts), Sampling(0, 1, 64), Urgency.JOB)
            generation = engine.submit(request, answer.hear)
            done[0] += 1
            while not answer.is_over.wait(0.1):
                if stop.is_set():
                    generation.cancel()
            done[1] += bool(answer.delta_s)

    job = threading.Thread(target=file_job)
    job.start()
    beside = _gaps(engine)
    stop.set()
    job.join()
    again = _gaps(engine)
    engine.stop()
    print(
        f"\n{TALKERS} talkers, spoken turns of 24 tokens, {TALK_S:.0f} s each; ms between deltas\n"
    )
    print("| | deltas | p50 | p99 | longest |\n| --- | --- | --- | --- | --- |")
    for name, gaps in (
        ("talkers alone", alone),
        (f"beside a {FILE_MINUTES}-minute file", beside),
        ("talkers alone, again", again),
    ):
        p50, p99 = 1000 * np.percentile(gaps, 50), 1000 * np.percentile(gaps, 99)
        print(f"| {name} | {len(gaps)} | {p50:.0f} | {p99:.0f} | {1000 * max(gaps):.0f} |")
    growth = np.percentile(beside, 99) / np.percentile([*alone, *again], 99)
    print(f"\nThe p99 gap grows {growth:.2f} ×; files begun {done[0]}, that spoke {done[1]}.")


def run() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    late_turns()
    file_beside_talkers()
