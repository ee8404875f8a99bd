"""Computes how likely each frame is speech, for all sessions in one batch.

One thread owns the model and every session's recurrent state. A tick takes the same number of
frames from each session that has some waiting, so many sessions cost little more than one.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from voxtral_worker import metrics
from voxtral_worker.audio.frames import FRAME_SAMPLES
from voxtral_worker.errors import EngineFailure
from voxtral_worker.running_time import running_s
from voxtral_worker.turns.network import SpeechNetwork
from voxtral_worker.turns.recording import CONTEXT_SAMPLES, Network, probabilities_of
from voxtral_worker.turns.stream_memory import StreamMemory

log = logging.getLogger(__name__)

MAX_FRAMES = 4096
IDLE_WAIT_S = 1.0
# A tick takes milliseconds: one that takes this long will never end. Only time in which the
# process ran counts: after a pause of the machine, a tick is late but does not hang.
HUNG_S = 10.0
# Frames of many sessions come one by one. Those that come within this time share a tick.
GATHER_S = 0.02
# Frames of each session in one tick, so that a long chunk does not make the others wait for long.
MOST_AT_ONCE = 4

Samples: TypeAlias = NDArray[np.float32]


@dataclass
class _Task:
    """Frames of one session that are being heard."""

    # The session.
    key: str
    # Float32 [k, 512].
    frames: Samples
    # Gets the probabilities, or the error, on the loop of the caller.
    answer: "asyncio.Future[Samples]"
    # Float32 [k]; the first `done` of them are known.
    probabilities: Samples
    # How many frames were heard.
    done: int = 0
    # When the last of them was heard, or the task came, in running time.
    done_s: float = field(default_factory=running_s)
    # The timer that gives up on the task if no frame is heard for too long.
    watch: asyncio.TimerHandle | None = None

    @property
    def left(self) -> int:
        """How many frames were not heard yet."""
        return len(self.frames) - self.done


class Vad:
    """Each session gets the probabilities that silero-VAD computes for it alone, to 1e-4.

    The rest is rounding: products of another number of rows are summed up in another order.
    """

    def __init__(self, network: Network | None = None, memory: StreamMemory | None = None) -> None:
        """`network`: None stands for silero-VAD's. `memory`: None stands for an empty one."""
        self._network = network or SpeechNetwork()
        self._memory = memory or StreamMemory()
        # What is being heard, by session. `_wake` guards it.
        self._tasks: dict[str, _Task] = {}
        # Wakes the thread when the first task comes, or when it is to stop.
        self._wake = threading.Condition()
        self._is_stopping = False
        # When the thread last waited for frames that could share a tick.
        self._gathered_s = 0.0
        # When the tick under way began, in running time. None: between two ticks.
        self._tick_began_s: float | None = None
        self._thread = threading.Thread(target=self._serve, name="vad", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Calls that still wait raise EngineFailure."""
        with self._wake:
            self._is_stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(5.0)

    @property
    def is_alive(self) -> bool:
        """Whether frames will be heard: the thread lives, and no tick hangs."""
        began_s = self._tick_began_s
        hangs = began_s is not None and running_s() - began_s > HUNG_S
        return self._thread.is_alive() and not hangs

    async def listen(self, key: str, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """Speech probabilities, float32 [k], of a session's next frames, float32 [k, 512].

        A session may have one call at a time. Raises EngineFailure when the model fails, or hears
        no frame of these for `HUNG_S` seconds.
        """
        if len(frames) > MAX_FRAMES or frames.shape[1:] != (FRAME_SAMPLES,):
            raise ValueError(f"frames of shape {frames.shape}")
        if not len(frames):
            return np.zeros(0, np.float32)
        loop = asyncio.get_running_loop()
        task = _Task(key, frames, loop.create_future(), np.empty(len(frames), np.float32))
        with self._wake:
            if self._is_stopping or not self.is_alive:
                raise EngineFailure("the VAD does not run")
            if key in self._tasks:
                raise RuntimeError(f"two calls at once for {key}")
            self._tasks[key] = task
            if len(self._tasks) == 1:
                self._wake.notify()
        task.watch = loop.call_later(HUNG_S, self._look_whether_heard, task)
        try:
            return await task.answer
        finally:
            if task.watch is not None:
                task.watch.cancel()

    def _look_whether_heard(self, task: _Task) -> None:
        """Give up on a task of which no frame was heard for `HUNG_S` seconds of running time."""
        if task.answer.done():
            return
        left_s = HUNG_S - (running_s() - task.done_s)
        if left_s > 0:
            later = task.answer.get_loop().call_later
            task.watch = later(left_s, self._look_whether_heard, task)
            return
        log.error("vad: no frame was heard in %g s", HUNG_S)
        task.answer.set_exception(EngineFailure("the VAD does not answer"))
        self.forget(task.key)

    def survey(self, samples: Samples, is_over: threading.Event) -> Samples:
        """Speech probabilities, float32 [k], of the frames of a whole recording, float32 [n].

        Blocks, on the caller's thread: the frames of live sessions do not wait for a recording.
        Gives up when `is_over` is set. Raises EngineFailure when the model fails.
        """
        try:
            probabilities = probabilities_of(self._network, samples, is_over)
        except Exception as error:  # a broken VAD must not look like a silent recording
            log.exception("vad: a recording could not be heard")
            raise EngineFailure(f"the VAD failed: {type(error).__name__}") from error
        metrics.vad_frames.inc(len(probabilities))
        return probabilities

    def forget(self, key: str) -> None:
        """Wipe what is remembered of a session. If it is heard again, it starts from nothing."""
        with self._wake:
            self._memory.forget(key)
            task = self._tasks.pop(key, None)
        if task is not None:
            task.answer.cancel()

    # What follows runs on the VAD's thread.

    def _serve(self) -> None:
        _use_one_thread()
        reason = "the worker is stopping"
        try:
            while not self._is_stopping:
                self._hear_next_or_fail()
        except BaseException:  # the thread ends, and the calls that wait must get an error
            log.exception("vad: lost")
            reason = "the VAD is lost"
        with self._wake:
            # From here on `listen` takes no call, because it would wait without end.
            self._is_stopping = True
            tasks = list(self._tasks.values())
        self._end(tasks, EngineFailure(reason))

    def _hear_next_or_fail(self) -> None:
        try:
            self._hear_next()
        except Exception as error:  # what fails outside of a tick must not end the thread
            log.exception("vad: hearing failed")
            with self._wake:
                tasks = list(self._tasks.values())
            self._end(tasks, EngineFailure(f"the VAD failed: {type(error).__name__}"))

    def _hear_next(self) -> None:
        """Wait for frames, and hear some of each session.

        It is a function of its own, so that no variable keeps the sound of a session that has
        ended while the thread waits for the next frames.
        """
        with self._wake:
            if not self._tasks and not self._is_stopping:
                self._wake.wait(IDLE_WAIT_S)
            if self._tasks:
                self._gather()
            if self._is_stopping or not self._tasks:  # all were forgotten during the wait
                return
            tasks = list(self._tasks.values())
            rows = self._memory.rows_of(task.key for task in tasks)
        self._tick_began_s = running_s()
        try:
            self._tick(tasks, rows)
        except Exception as error:  # a broken VAD must not look like a silent user
            log.exception("vad: a tick failed")
            self._end(tasks, EngineFailure(f"the VAD failed: {type(error).__name__}"))
            return
        finally:
            self._tick_began_s = None
        self._end([task for task in tasks if not task.left or task.answer.cancelled()])

    def _gather(self) -> None:
        """Wait for frames of other sessions that are about to come.

        A frame that comes after a pause, as those of a session alone do, is heard at once.
        """
        if any(task.done for task in self._tasks.values()):
            return
        ready_s = self._gathered_s + GATHER_S
        self._wake.wait_for(lambda: self._is_stopping, max(0.0, ready_s - time.monotonic()))
        self._gathered_s = time.monotonic()

    def _tick(self, tasks: list[_Task], rows: list[int]) -> None:
        memory = self._memory
        # The same number of frames of each, so that they are one array.
        count = min(MOST_AT_ONCE, *(task.left for task in tasks))
        sound = np.empty((len(tasks), CONTEXT_SAMPLES + count * FRAME_SAMPLES), np.float32)
        sound[:, :CONTEXT_SAMPLES] = memory.contexts[rows]
        for line, task in zip(sound, tasks, strict=True):
            line[CONTEXT_SAMPLES:] = task.frames[task.done : task.done + count].reshape(-1)
        probabilities, memory.states[:, rows] = self._network(sound, memory.states[:, rows])
        memory.contexts[rows] = sound[:, -CONTEXT_SAMPLES:]
        done_s = running_s()
        for task, heard in zip(tasks, probabilities, strict=True):
            task.probabilities[task.done : task.done + count] = heard
            task.done += count
            task.done_s = done_s
        metrics.vad_frames.inc(count * len(tasks))

    def _end(self, tasks: list[_Task], error: EngineFailure | None = None) -> None:
        with self._wake:
            for task in tasks:
                if self._tasks.get(task.key) is task:
                    del self._tasks[task.key]
        # One call for all tasks of a loop: each of them wakes it by writing to a socket.
        for loop in {task.answer.get_loop() for task in tasks}:
            own = [task for task in tasks if task.answer.get_loop() is loop]
            # The loop is closed when the worker stops while frames are still heard. It may also
            # be closed between the check and the call.
            with suppress(RuntimeError):
                if not loop.is_closed():
                    loop.call_soon_threadsafe(_answer, own, error)


def _use_one_thread() -> None:
    """Let PyTorch use one thread here: products this small are faster on one.

    PyTorch keeps that number for each thread, and once for the threads that start later. Those
    get the number back that they would have had.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    restoring = threading.Thread(target=torch.set_num_threads, args=(before,), name="threads")
    restoring.start()
    restoring.join()


def _answer(tasks: Iterable[_Task], error: EngineFailure | None) -> None:
    for task in tasks:
        if task.answer.done():  # the caller has gone
            continue
        if error is None:
            task.answer.set_result(task.probabilities)
        else:
            task.answer.set_exception(error)
