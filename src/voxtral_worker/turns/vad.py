"""Says how likely each frame is speech, for all sessions in one batch.

One thread owns the model and every session's recurrent state. A tick takes one frame of
each session that has some waiting, so that many sessions cost little more than one.
"""

import asyncio
import logging
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import silero_vad
import torch
from numpy.typing import NDArray

from voxtral_worker import metrics
from voxtral_worker.audio.frames import FRAME_SAMPLES
from voxtral_worker.errors import EngineFailure

log = logging.getLogger(__name__)

CONTEXT_SAMPLES = 64
STATE_SHAPE = (2, 128)
MAX_FRAMES = 4096
IDLE_WAIT_S = 1.0


@dataclass
class _Memory:
    """What the network remembers of one session."""

    context: torch.Tensor = field(default_factory=lambda: torch.zeros(CONTEXT_SAMPLES))
    state: torch.Tensor = field(default_factory=lambda: torch.zeros(STATE_SHAPE))


@dataclass
class _Task:
    """Frames of one session, float32 [k, 512], and how many are done."""

    key: str
    frames: torch.Tensor
    answer: "Future[NDArray[np.float32]]"
    probabilities: list[float] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        return len(self.probabilities) == len(self.frames)


class Vad:
    """A session's probabilities are those it would get alone, to within 1e-6."""

    def __init__(self) -> None:
        threads = torch.get_num_threads()
        self._model: Any = silero_vad.load_silero_vad()._model
        # The package sets one thread for the whole process when it is imported.
        torch.set_num_threads(threads)
        self._memory: dict[str, _Memory] = {}
        self._tasks: dict[str, _Task] = {}
        self._wake = threading.Condition()
        self._is_stopping = False
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
        task = _Task(key, torch.from_numpy(np.ascontiguousarray(frames)), Future())
        with self._wake:
            if self._is_stopping or not self.is_alive:
                raise EngineFailure("the VAD does not run")
            if key in self._tasks:
                raise RuntimeError(f"two calls at once for {key}")
            self._tasks[key] = task
            self._wake.notify()
        return await asyncio.wrap_future(task.answer)

    def forget(self, key: str) -> None:
        """Wipe what is remembered of a session; heard again, it starts anew."""
        with self._wake:
            self._memory.pop(key, None)
            task = self._tasks.pop(key, None)
        if task is not None:
            task.answer.cancel()

    # What follows runs on the VAD's thread.

    def _serve(self) -> None:
        torch.set_num_threads(1)
        while True:
            with self._wake:
                while not self._tasks and not self._is_stopping:
                    self._wake.wait(IDLE_WAIT_S)
                if self._is_stopping:
                    break
                tasks = list(self._tasks.values())
                memories = [self._memory.setdefault(task.key, _Memory()) for task in tasks]
            try:
                self._tick(tasks, memories)
            except Exception as error:  # a broken VAD must not look like a silent user
                log.exception("vad: a tick failed")
                for task in tasks:
                    self._end(task, error)
                continue
            for task in tasks:
                if task.is_done or task.answer.cancelled():
                    self._end(task, None)
        for task in list(self._tasks.values()):
            self._end(task, EngineFailure("the worker is stopping"))

    @torch.inference_mode()
    def _tick(self, tasks: list[_Task], memories: list[_Memory]) -> None:
        frames = torch.stack([task.frames[len(task.probabilities)] for task in tasks])
        contexts = torch.stack([memory.context for memory in memories])
        states = torch.stack([memory.state for memory in memories], dim=1)
        inputs = torch.cat([contexts, frames], dim=1)
        probabilities, states = self._model(inputs, states)
        for i, (task, memory) in enumerate(zip(tasks, memories, strict=True)):
            memory.context = inputs[i, -CONTEXT_SAMPLES:]
            memory.state = states[:, i]
            task.probabilities.append(float(probabilities[i, 0]))
        metrics.vad_frames.inc(len(tasks))

    def _end(self, task: _Task, error: Exception | None) -> None:
        with self._wake:
            if self._tasks.get(task.key) is task:
                del self._tasks[task.key]
        if not task.answer.set_running_or_notify_cancel():
            return
        if error is None:
            task.answer.set_result(np.array(task.probabilities, np.float32))
        else:
            task.answer.set_exception(EngineFailure(f"the VAD failed: {type(error).__name__}"))
