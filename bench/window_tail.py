"""Whole windows compared with a sampled tail: whether answers are the same, and what they cost.

`python -m bench.window_tail [PART ...]`; parts are throughput, agreement, conversations.

Both modes in one process and in turn. Times are CPU time of the process, of which one thread
computes: other programs on the machine make them longer, and both modes alike.
"""

import dataclasses
import queue
import random
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.throughput import SETTINGS
from builder.voxtral_tiny import voices
from builder.voxtral_tiny.evaluation import edits
from builder.voxtral_tiny.vocabulary import KINDS, bare, sentence
from tests.support.sounds import clips, silence
from voxtral_worker.engine.conversation import (
    AssistantTurn,
    Audio,
    Conversation,
    Exchange,
    UserTurn,
)
from voxtral_worker.engine.core import EngineCore
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.layout import WINDOW_TAILS
from voxtral_worker.engine.model import load_model
from voxtral_worker.engine.prompt import PromptEncoder
from voxtral_worker.engine.request import Delta, Failed, Finished, GenerationRequest, Sampling

PER_KIND = 15
CONVERSATIONS = 10
TURNS = 20
ROUNDS = 5
GROUPS = (1, 8, 16, 32)
PARTS = ("throughput", "agreement", "conversations")
ANSWER = Sampling(0.0, 1.0, 48)
WAIT_S = 600.0
CLIP_SAMPLES = 48_000

Samples = NDArray[np.float32]


@dataclasses.dataclass
class Answer:
    """Tokens of one answer, its text, what it cost, and CPU seconds to its first delta."""

    tokens: tuple[int, ...] = ()
    text: str = ""
    first_s: float | None = None
    ended: Finished | None = None


def ask(
    engine: Engine, conversations: Sequence[Conversation], sampling: Sampling, owner: str | None
) -> tuple[list[Answer], float]:
    """Ask all at once; the answers, and the CPU seconds of all."""
    events: queue.Queue[tuple[int, float, Any]] = queue.Queue()
    began_s = time.process_time()
    for number, conversation in enumerate(conversations):

        def listen(event: object, number: int = number) -> None:
            events.put((number, time.process_time() - began_s, event))

        engine.submit(GenerationRequest(conversation, sampling, owner=owner), listen)
    answers = [Answer() for _ in conversations]
    while any(answer.ended is None for answer in answers):
        number, after_s, event = events.get(timeout=WAIT_S)
        answer = answers[number]
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Delta):
            answer.tokens += event.token_ids
            answer.text += event.text
            answer.first_s = answer.first_s or after_s
        if isinstance(event, Finished):
            answer.ended = event
    return answers, time.process_time() - began_s


def spoken(per_kind: int) -> list[tuple[str, Samples]]:
    """Sentences of the vocabulary by a voice that was never trained on, as turns are cut."""
    rng = random.Random(4242)
    found = []
    for kind in KINDS:
        for _ in range(per_kind):
            words = sentence(rng, kind)
            said = voices.speak(words).astype(np.float32) / np.float32(32_768)
            found.append((words, np.pad(said, (4800, 8000))))
    return found


def agreement(engines: dict[str, Engine], per_kind: int) -> None:
    """Print how many answers are the same in both modes, and the words each gets wrong."""
    said_by_rms = spoken(per_kind)
    print(f"\n{len(said_by_rms)} sentences of a held-out voice (flite rms)\n")
    print("| task | same tokens | word errors, exact | sampled | words |")
    print("| --- | --- | --- | --- | --- |")
    for task in ("transcription", "chat"):
        same, words, errors = 0, 0, dict.fromkeys(WINDOW_TAILS, 0)
        for said, samples in said_by_rms:
            answers = {}
            for tail, engine in engines.items():
                user = UserTurn((Audio(samples),))
                conversation = Conversation(user, transcribe=task == "transcription")
                answers[tail] = ask(engine, [conversation], ANSWER, None)[0][0]
                heard = bare(answers[tail].text.removeprefix("You said:")).split()
                errors[tail] += edits(said.split(), heard)
            words += len(said.split())
            same += answers["exact"].tokens == answers["sampled"].tokens
        cells = [f"{100 * errors[tail] / words:.1f} %" for tail in WINDOW_TAILS]
        if task == "chat":
            # Not every kind of sentence is answered by what was said.
            cells = ["-", "-"]
        print(
            f"| {task} | {same} of {len(said_by_rms)} | {' | '.join(cells)} | {words} |", flush=True
        )


def conversations(engines: dict[str, Engine], count: int, turns: int) -> None:
    """Print agreement, first tokens and rows over long spoken conversations."""
    sounds = [samples for _, samples in spoken(-(-turns * count // len(KINDS)))]
    random.Random(7).shuffle(sounds)
    shown = [turn for turn in (1, 2, 5, 10, 15, 20) if turn <= turns]
    first: dict[tuple[str, int], list[float]] = {}
    rows: dict[tuple[str, int], list[int]] = {}
    same = 0
    others: list[tuple[int, str, str]] = []
    for number in range(count):
        # The exact answers are the history of both modes; its audio is of each mode's own.
        history: dict[str, tuple[Exchange, ...]] = dict.fromkeys(WINDOW_TAILS, ())
        for turn in range(1, turns + 1):
            samples = sounds[(number * turns + turn) % len(sounds)]
            users, answers = {}, {}
            for tail, engine in engines.items():
                users[tail] = UserTurn((Audio(samples),))
                conversation = Conversation(users[tail], history[tail])
                (answer,), _ = ask(engine, [conversation], ANSWER, f"conversation {number}")
                answers[tail] = answer
                assert answer.first_s is not None
                assert answer.ended is not None
                first.setdefault((tail, turn), []).append(answer.first_s)
                rows.setdefault((tail, turn), []).append(answer.ended.usage.prompt_tokens)
            if answers["exact"].tokens == answers["sampled"].tokens:
                same += 1
            else:
                others.append((turn, answers["exact"].text, answers["sampled"].text))
            for tail in WINDOW_TAILS:
                said = Exchange(users[tail], AssistantTurn(answers["exact"].tokens))
                history[tail] += (said,)
        for engine in engines.values():
            engine.forget(f"conversation {number}")
    print(f"\n{count} conversations of {turns} spoken turns: {same} of {count * turns} answers the")
    print("same; CPU ms to the first token, medians, and rows of the prompt\n")
    print("| turn | exact | sampled | ratio | rows, exact | sampled |")
    print("| --- | --- | --- | --- | --- | --- |")
    for turn in shown:
        exact, sampled = (1000 * statistics.median(first[tail, turn]) for tail in WINDOW_TAILS)
        lengths = [f"{statistics.median(rows[tail, turn]):.0f}" for tail in WINDOW_TAILS]
        cells = f"{exact:.0f} | {sampled:.0f} | {exact / sampled:.1f} | {' | '.join(lengths)}"
        print(f"| {turn} | {cells} |", flush=True)
    for turn, exact_text, sampled_text in others:
        print(f"\nturn {turn}, exact: {exact_text!r}, sampled: {sampled_text!r}", flush=True)


def of_three_seconds() -> list[Samples]:
    """The bundled sentences, filled up with a quiet room."""
    found = []
    for data in clips().values():
        said = np.frombuffer(data, "<i2")[:CLIP_SAMPLES].astype(np.float32) / np.float32(32_768)
        room = np.frombuffer(silence(100), "<i2")[:CLIP_SAMPLES].astype(np.float32) / np.float32(
            32_768
        )
        room[: len(said)] = said
        found.append(room)
    return found


class Padded:
    """`generate()` on a padded batch; all prompts are of one length here."""

    def __init__(self) -> None:
        self._loaded = load_model(SETTINGS)
        self._prompts = PromptEncoder(self._loaded.tokenizer)

    @torch.inference_mode()
    def generate(self, sounds: Sequence[Samples]) -> float:
        """CPU seconds until all are answered."""
        began_s = time.process_time()
        prompts = [
            self._prompts.encode(Conversation(UserTurn((Audio(samples),))), 1000).ids
            for samples in sounds
        ]
        ids = torch.tensor(prompts)
        features = self._loaded.processor.feature_extractor(
            list(sounds), sampling_rate=16_000, return_tensors="pt"
        )["input_features"]
        self._loaded.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            input_features=features,
            do_sample=False,
            max_new_tokens=ANSWER.max_tokens,
        )
        return time.process_time() - began_s


def throughput(engines: dict[str, Engine], rounds: int) -> None:
    """Print what groups of requests cost in both modes, and in the library's padded batch."""
    padded, sounds = Padded(), of_three_seconds()

    def group(engine: Engine, count: int) -> tuple[float, float]:
        asked = [
            Conversation(UserTurn((Audio(sounds[number % len(sounds)]),)))
            for number in range(count)
        ]
        answers, whole_s = ask(engine, asked, ANSWER, None)
        return statistics.median(answer.first_s or 0.0 for answer in answers), whole_s

    print(
        "\nGroups of spoken requests of 3 s, answered to their end: CPU ms of the whole group, and"
    )
    print(f"median to a request's first token; medians of {rounds} interleaved rounds\n")
    print(
        "| requests | padded batch | exact | sampled | padded / sampled | exact / sampled ", end=""
    )
    print("| first token, exact | sampled | exact / sampled |\n|" + " --- |" * 9)
    for count in GROUPS:
        alone, exact, sampled = [], [], []
        for _ in range(rounds):
            alone.append(padded.generate([sounds[i % len(sounds)] for i in range(count)]))
            exact.append(group(engines["exact"], count))
            sampled.append(group(engines["sampled"], count))
        whole = [
            1000 * statistics.median(each)
            for each in (alone, [whole for _, whole in exact], [whole for _, whole in sampled])
        ]
        first = [1000 * statistics.median(first for first, _ in side) for side in (exact, sampled)]
        cells = [f"audio × {count}", *(f"{each:.0f}" for each in whole)]
        cells += [f"{whole[0] / whole[2]:.1f}", f"{whole[1] / whole[2]:.1f}"]
        cells += [f"{first[0]:.0f}", f"{first[1]:.0f}", f"{first[0] / first[1]:.1f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


def run(
    per_kind: int = PER_KIND,
    count: int = CONVERSATIONS,
    turns: int = TURNS,
    rounds: int = ROUNDS,
    parts: Sequence[str] = PARTS,
) -> None:
    """Print the tables of some parts."""
    torch.set_num_threads(1)
    engines = {}
    for tail in WINDOW_TAILS:
        settings = SETTINGS.model_copy(update={"window_tail": tail})
        engines[tail] = Engine(EngineCore(load_model(settings), settings))
        engines[tail].start()
        engines[tail].warm_up()
    has_voice = shutil.which("flite") is not None
    if "throughput" in parts:
        throughput(engines, rounds)
    if "agreement" in parts and has_voice:
        agreement(engines, per_kind)
    if "conversations" in parts and has_voice:
        conversations(engines, count, turns)
    if not has_voice:
        print("\nagreement: skipped, it needs flite: apt-get install flite")
    for engine in engines.values():
        engine.stop()


if __name__ == "__main__":
    if unknown := set(sys.argv[1:]) - set(PARTS):
        sys.exit(f"no part {sorted(unknown)[0]!r}; there are {', '.join(PARTS)}")
    run(parts=sys.argv[1:] or PARTS)
