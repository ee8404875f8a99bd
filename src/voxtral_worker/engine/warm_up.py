"""Answers a text and a sound at the start, so that no caller pays for first times."""

import queue
from collections.abc import Callable
from functools import partial

import numpy as np

from voxtral_worker.engine.conversation import Audio, Conversation, UserTurn
from voxtral_worker.engine.heartbeat import Heartbeat
from voxtral_worker.engine.request import (
    Failed,
    Finished,
    GenerationEvent,
    GenerationRequest,
    Listener,
    Sampling,
)
from voxtral_worker.errors import EngineFailure, WorkerError
from voxtral_worker.running_time import MOST_GAP_S, running_s

SAMPLES = 8000
SAMPLING = Sampling(0.5, 1.0, 4)

Submit = Callable[[GenerationRequest, Listener], object]
Ends = queue.Queue[WorkerError | None]


def warm_up(submit: Submit, heartbeat: Heartbeat, silence_s: float) -> None:
    """Answer a text and a sound; `submit` asks the engine, whose heart beats while it works.

    Raises EngineFailure when the model fails, or without a beat for `silence_s` seconds.
    """
    for part in ("hello", Audio(np.zeros(SAMPLES, np.float32))):
        ends: Ends = queue.Queue()
        conversation = Conversation(UserTurn((part,)))
        submit(GenerationRequest(conversation, SAMPLING), partial(_note_end, ends))
        error = end_of(ends, heartbeat, silence_s)
        if error is not None:
            raise error


def _note_end(ends: Ends, event: GenerationEvent) -> None:
    match event:
        case Failed(error):
            ends.put(error)
        case Finished():
            ends.put(None)


def end_of(ends: Ends, heartbeat: Heartbeat, silence_s: float) -> WorkerError | None:
    """Wait for the end of a request; returns its error, or None where it was answered."""
    beats, since_s = heartbeat.beats, running_s()
    while True:
        try:
            # Not longer than what counts between two readings of the clock.
            return ends.get(timeout=min(silence_s, MOST_GAP_S))
        except queue.Empty:
            if beats != heartbeat.beats:
                beats, since_s = heartbeat.beats, running_s()
            elif running_s() - since_s >= silence_s:
                return EngineFailure(
                    f"the model does not answer: nothing of it was done for {silence_s:g} s"
                )
