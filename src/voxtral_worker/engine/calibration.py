"""Measures how many people the engine can answer within a latency goal."""

import math
import queue
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from voxtral_worker.engine.conversation import Audio, Conversation, UserTurn
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.layout import layout_of
from voxtral_worker.engine.request import Delta, Failed, Finished, GenerationRequest, Sampling
from voxtral_worker.errors import EngineFailure

# A turn as people speak: a few words, and a sentence in answer.
TURN_SAMPLES = 3 * 16_000
TURN_TOKENS = 24
# Seconds from one turn of a person to the next: they speak, and listen to the answer.
TURN_EVERY_S = 6.0
# A conversation keeps so many turns of speech with their answers in the KV cache. Each turn takes
# so many tokens in addition to its audio.
TURNS_KEPT = 4
TOKENS_BESIDE_AUDIO = 25
SIDE_BY_SIDE = 8
LATE_SHARE = 0.05
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Calibration:
    """How many sessions may talk at once, and the measurements that this was computed from."""

    sessions: int
    first_delta_s: float
    turns_per_s: float
    sessions_in_memory: int


def calibrate(engine: Engine, goal_s: float) -> Calibration:
    """Let the engine answer noise, one turn alone and several at once. Takes a few seconds.

    `goal_s`: seconds until the first text. The second run of each is measured, as libraries set
    themselves up in the first. Raises EngineFailure when the engine does not answer.
    """
    _first_deltas(engine, 1)
    first_s = _first_deltas(engine, 1)[0]
    count = min(SIDE_BY_SIDE, engine.most_side_by_side)
    _first_deltas(engine, count)
    started_s = time.monotonic()
    _first_deltas(engine, count)
    turn_s = (time.monotonic() - started_s) / count
    in_memory = max(1, engine.kv_tokens // session_tokens(engine.window_tail))
    in_time = sessions_within(goal_s, first_s, turn_s)
    return Calibration(min(in_time, in_memory), first_s, 1 / turn_s, in_memory)


def session_tokens(window_tail: str) -> int:
    """Rows of KV cache that a conversation keeps."""
    turn = layout_of(TURN_SAMPLES, window_tail).rows + TOKENS_BESIDE_AUDIO
    return TURNS_KEPT * turn


def sessions_within(goal_s: float, first_delta_s: float, turn_s: float) -> int:
    """The most sessions of which 95 % of the turns get a first text within the goal; at least 1.

    `first_delta_s`: seconds to the first text of a turn alone. `turn_s`: seconds of the engine's
    time that a turn takes when many are answered. Turns of many people come at random, so this
    is the queue M/D/1; the distribution of its waiting times is Erlang's (1909).
    """
    slack_s = goal_s - first_delta_s
    busy = max(
        (
            share / 100
            for share in range(1, 100)
            if _late(share / 100, slack_s / turn_s) <= LATE_SHARE
        ),
        default=0.0,
    )
    return max(1, int(busy * TURN_EVERY_S / turn_s))


def _late(busy: float, slack: float) -> float:
    """Share of turns that wait for longer than `slack`, in units of one turn's time.

    P(W <= t) = (1 - p) * sum over k <= t of (p(k - t))^k / k! * exp(-p(k - t))
    """
    if slack <= 0:
        return 1.0
    # Terms of alternating sign lose all digits beyond this; a queue is never that long.
    if slack > 20:
        return 0.0 if busy < 0.9 else 1.0
    in_time = (1 - busy) * math.fsum(
        (busy * (k - slack)) ** k / math.factorial(k) * math.exp(-busy * (k - slack))
        for k in range(int(slack) + 1)
    )
    return 1.0 - in_time


def _first_deltas(engine: Engine, count: int) -> Sequence[float]:
    """Answer `count` turns at once, to their end; returns seconds until the first delta of each."""
    events: queue.Queue[tuple[int, float, Delta | Finished | Failed]] = queue.Queue()
    noise = np.random.default_rng(count)
    started_s = time.monotonic()
    for number in range(count):

        def listen(event: object, number: int = number) -> None:
            if isinstance(event, Delta | Finished | Failed):
                events.put((number, time.monotonic() - started_s, event))

        samples = (0.05 * noise.standard_normal(TURN_SAMPLES)).astype(np.float32)
        conversation = Conversation(UserTurn((Audio(samples),)))
        engine.submit(GenerationRequest(conversation, Sampling(1.0, 1.0, TURN_TOKENS)), listen)
    first: dict[int, float] = {}
    open_turns = count
    while open_turns:
        try:
            number, after_s, event = events.get(timeout=TIMEOUT_S)
        except queue.Empty:
            raise EngineFailure("the model does not answer") from None
        if isinstance(event, Failed):
            raise event.error
        first.setdefault(number, after_s)
        open_turns -= isinstance(event, Finished)
    return [first[number] for number in range(count)]
