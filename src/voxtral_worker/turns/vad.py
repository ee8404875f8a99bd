"""Says how likely each frame is speech, for all sessions in one batch.

One thread owns the model and every session's recurrent state. A tick takes one frame of
each session that has some waiting, so that many sessions cost little more than one. The
network runs in ONNX Runtime, whose kernels compute each row of a batch as they would alone;
PyTorch's choose another order of addition for each batch size.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import silero_vad
import torch
from numpy.typing import NDArray

from voxtral_worker import metrics
from voxtral_worker.audio.frames import FRAME_SAMPLES, SAMPLE_RATE
from voxtral_worker.errors import EngineFailure

log = logging.getLogger(__name__)

CONTEXT_SAMPLES = 64
STATE_SHAPE = (2, 128)
MAX_FRAMES = 4096
_RATE = np.array(SAMPLE_RATE, np.int64)
IDLE_WAIT_S = 1.0
# Frames of many sessions come one by one: those of so long share a tick.
GATHER_S = 0.02

Samples: TypeAlias = NDArray[np.float32]


@dataclass
class _Memory:
    """What the network remembers of one session."""

    context: Samples = field(default_factory=lambda: np.zeros(CONTEXT_SAMPLES, np.float32))
    state: Samples = field(default_factory=lambda: np.zeros(STATE_SHAPE, np.float32))


@dataclass
class _Task:
    """Frames of one session, float32 [k, 512], and how many are done."""

    key: str
    frames: Samples
    answer: "asyncio.Future[Samples]"
    probabilities: list[float] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        return len(self.probabilities) == len(self.frames)


class Vad:
    """A session's probabilities are, bit for bit, those of silero-VAD's ONNX network alone."""

    def __init__(self) -> None:
        threads = torch.get_num_threads()
        self._session: Any = silero_vad.load_silero_vad(onnx=True).session
        # The package sets one thread for the whole process when it is imported.
        torch.set_num_threads(threads)
        self._memory: dict[str, _Memory] = {}
        self._tasks: dict[str, _Task] = {}
        self._wake = threading.Condition()
        self._is_stopping = False
        self._gathered_s = 0.0
        self._thread = threading.Thread(target=self._serve, name="vad", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; whoever waits gets an EngineFailure."""
        with self._wake:
            self._is_stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(5.0)

    @property
    def is_alive(self) -> bool:
        """Whether frames will be answered."""
        return self._thread.is_alive()

    async def listen(self, key: str, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """Speech probabilities, float32 [k], of a session's next frames, float32 [k, 512].

        One call at a time for each key. Raises EngineFailure when the model fails.
        """
        if len(frames) > MAX_FRAMES or frames.shape[1:] != (FRAME_SAMPLES,):
            raise ValueError(f"frames of shape {frames.shape}")
        if not len(frames):
            return np.zeros(0, np.float32)
        task = _Task(key, frames, asyncio.get_running_loop().create_future())
        with self._wake:
            if self._is_stopping or not self.is_alive:
                raise EngineFailure("the VAD does not run")
            if key in self._tasks:
                raise RuntimeError(f"two calls at once for {key}")
            self._tasks[key] = task
            if len(self._tasks) == 1:
                self._wake.notify()
        return await task.answer

    def forget(self, key: str) -> None:
        """Wipe what is remembered of a session; heard again, it starts anew."""
        with self._wake:
            self._memory.pop(key, None)
            task = self._tasks.pop(key, None)
        if task is not None:
            task.answer.cancel()

    # What follows runs on the VAD's thread.

    def _serve(self) -> None:
        while not self._is_stopping:
            self._hear_next()
        self._end(list(self._tasks.values()), EngineFailure("the worker is stopping"))

    def _hear_next(self) -> None:
        """Wait for frames and hear one of each session; a return leaves no sound behind."""
        with self._wake:
            if not self._tasks and not self._is_stopping:
                self._wake.wait(IDLE_WAIT_S)
            if self._tasks:
                self._gather()
            if self._is_stopping or not self._tasks:  # forgotten while others were awaited
                return
            tasks = list(self._tasks.values())
            memories = [self._memory.setdefault(task.key, _Memory()) for task in tasks]
        try:
            self._tick(tasks, memories)
        except Exception as error:  # a broken VAD must not look like a silent user
            log.exception("vad: a tick failed")
            self._end(tasks, EngineFailure(f"the VAD failed: {type(error).__name__}"))
            return
        self._end([task for task in tasks if task.is_done or task.answer.cancelled()])

    def _gather(self) -> None:
        """Let frames join that are about to come; a session alone is heard at once."""
        if any(task.probabilities for task in self._tasks.values()):
            return
        ready_s = self._gathered_s + GATHER_S
        self._wake.wait_for(lambda: self._is_stopping, max(0.0, ready_s - time.monotonic()))
        self._gathered_s = time.monotonic()

    def _tick(self, tasks: list[_Task], memories: list[_Memory]) -> None:
        frames = np.stack([task.frames[len(task.probabilities)] for task in tasks])
        contexts = np.stack([memory.context for memory in memories])
        states = np.stack([memory.state for memory in memories], axis=1)
        inputs = np.concatenate([contexts, frames], axis=1)
        probabilities, states = self._model(inputs, states)
        for i, (task, memory) in enumerate(zip(tasks, memories, strict=True)):
            # Copies: a view would hold the frames of all these sessions.
            memory.context = inputs[i, -CONTEXT_SAMPLES:].copy()
            memory.state = states[:, i].copy()
            task.probabilities.append(float(probabilities[i, 0]))
        metrics.vad_frames.inc(len(tasks))

    def _model(self, inputs: Samples, states: Samples) -> tuple[Samples, Samples]:
        """Probabilities [n, 1] and new states [2, n, 128] of inputs [n, 64 + 512]."""
        feeds = {"input": inputs, "state": states, "sr": _RATE}
        probabilities, after = self._session.run(None, feeds)
        return probabilities, after

    def _end(self, tasks: list[_Task], error: EngineFailure | None = None) -> None:
        with self._wake:
            for task in tasks:
                if self._tasks.get(task.key) is task:
                    del self._tasks[task.key]
        # One call for all tasks of a loop: each of them wakes it by writing to a socket.
        for loop in {task.answer.get_loop() for task in tasks}:
            own = [task for task in tasks if task.answer.get_loop() is loop]
            # The loop is closed when the worker stops while frames are still heard.
            if not loop.is_closed():
                loop.call_soon_threadsafe(_answer, own, error)


def _answer(tasks: Iterable[_Task], error: EngineFailure | None) -> None:
    for task in tasks:
        if task.answer.done():  # whoever asked is gone
            continue
        if error is None:
            task.answer.set_result(np.array(task.probabilities, np.float32))
        else:
            task.answer.set_exception(error)
