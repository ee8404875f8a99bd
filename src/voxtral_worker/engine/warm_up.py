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
    while True:
        beats = heartbeat.beats
        try:
            return ends.get(timeout=silence_s)
        except queue.Empty:
            if beats == heartbeat.beats:
                return EngineFailure(
                    f"the model does not answer: nothing of it was done for {silence_s:g} s"
                )
