"""The thread that owns the model: it takes requests and runs one step after the other.

Other threads talk to it through a bounded inbox and through the handle of each generation.
"""

import logging
import threading
import time

from voxtral_worker import metrics
from voxtral_worker.engine.core import EngineCore
from voxtral_worker.engine.generation import Generation
from voxtral_worker.engine.grammar import Grammars, Shape
from voxtral_worker.engine.heartbeat import HANG_S, Heartbeat
from voxtral_worker.engine.inbox import Asked, Inbox, Left
from voxtral_worker.engine.input_processor import InputProcessor
from voxtral_worker.engine.kv_cache import BLOCK_TOKENS
from voxtral_worker.engine.request import Failed, GenerationRequest, Listener
from voxtral_worker.engine.tools import Toolbox
from voxtral_worker.engine.warm_up import warm_up
from voxtral_worker.errors import EngineFailure, NotReady

log = logging.getLogger(__name__)

# A warm-up without a sign of life for so long has failed: a GPU's libraries may compile for
# minutes within one step.
SILENCE_S = 300.0
# Compiling and recording every shape may take so long, before the first step.
PREPARE_S = 3600.0


class Engine:
    """Takes requests from any thread and runs them on its own.

    After `start` it serves until `stop`. A step that fails ends the generations that it is for,
    and the loop continues. A device that no longer answers makes the engine unhealthy for good, a
    step that hangs for as long as it hangs.
    """

    def __init__(
        self, core: EngineCore, inbox: Inbox | None = None, heartbeat: Heartbeat | None = None
    ) -> None:
        """From `start` on the core belongs to the engine's thread.

        `inbox`: where requests wait; an empty one where it is None. `heartbeat`: where it is
        None, one whose limit fits the device.
        """
        # Only the engine's thread uses it once that has started.
        self._core = core
        # Compiles the schemas of tools on a thread of its own.
        self.grammars = Grammars(core.loaded.tokenizer, core.outputs.masks.call_token)
        # How requests come in from other threads, and what makes sequences of them.
        self._inbox = inbox or Inbox()
        self._inputs = InputProcessor(core, self._inbox, self.grammars)
        # Shows other threads whether a step hangs.
        self._heartbeat = heartbeat or Heartbeat(HANG_S[core.loaded.device.type])
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        # Set once all that is compiled, recorded or measured is there.
        self._is_prepared = threading.Event()
        # Set by `stop`: the thread ends after its step.
        self._stopping = threading.Event()
        # Sequences at the end of the last step; read by other threads.
        self.running = 0
        self.waiting = 0

    def start(self) -> None:
        """Start the thread."""
        self._heartbeat.follow(self._core.long_layers)
        self.grammars.start()
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the thread; generations under way fail with a reason."""
        self._stopping.set()
        self.grammars.stop()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self._heartbeat.unfollow()
            # The engine is part of a reference cycle: the garbage collector may come too late
            # for another engine that wants this memory.
            self._core.runner.let_go()

    @property
    def is_healthy(self) -> bool:
        """Whether requests will be answered."""
        is_lost = self._core.faults.is_device_lost or self._heartbeat.is_late
        return self._thread.is_alive() and not is_lost

    @property
    def window_tail(self) -> str:
        """What is computed of the silence that fills a window: see `layout_of`."""
        return self._core.window_tail

    @property
    def attention(self) -> str:
        """How decode steps read the KV cache: `paged` (a kernel) or `gathered`."""
        return self._core.runner.attention

    @property
    def most_side_by_side(self) -> int:
        """Responses that are made at the same time, at most."""
        return self._core.scheduler.places

    @property
    def context_tokens(self) -> int:
        """Positions of the longest prompt with its answer."""
        return self._core.context_tokens

    @property
    def kv_tokens(self) -> int:
        """Tokens that fit into the KV cache."""
        return self._core.scheduler.cache.total * BLOCK_TOKENS

    def submit(self, request: GenerationRequest, listener: Listener) -> Generation:
        """Ask for a response; `listener` is called on the engine's thread and must not block.

        Raises AtCapacity when too many wait, NotReady when the engine does not run.
        """
        if not self.is_healthy or self._stopping.is_set():
            raise NotReady("the engine does not run", retry_after_s=5)
        generation = Generation(request, listener)
        self._inbox.put(generation)
        return generation

    def check_tools(self, box: Toolbox) -> None:
        """Return once the tools can be called; blocks for as long as their schemas are compiled.

        Raises BadSchema that names the tool whose schema cannot be followed, or AtCapacity.
        """
        self.grammars.check(Shape(box))

    def forget(self, owner: str) -> None:
        """Drop what is kept of an owner's earlier turns, as the owner is gone.

        That happens after the engine has taken what the owner has asked for before.
        """
        self._inbox.leave(owner)

    def warm_up(self, silence_s: float = SILENCE_S) -> None:
        """Answer a text and a sound, so that the first caller does not pay for first times.

        The whole may take as long as it does while the heart beats. Raises EngineFailure when
        the model fails, or when nothing of it is done for `silence_s` seconds.
        """
        until_s = time.monotonic() + PREPARE_S
        while not self._is_prepared.wait(1.0):
            if not self._thread.is_alive() or time.monotonic() > until_s:
                raise EngineFailure("the model is not prepared")
        self.grammars.is_prepared.wait(silence_s)
        warm_up(self.submit, self._heartbeat, silence_s)

    # What follows runs on the engine's thread.

    def _serve(self) -> None:
        self._core.prepare()
        self._is_prepared.set()
        while not self._stopping.is_set():
            try:
                self._take()
                if self._core.step():
                    self._heartbeat.beat()
                self._publish()
            except Exception:  # the loop must outlive any step
                log.exception("engine: a step failed outside a generation")
                self._core.end(EngineFailure("the engine failed at a step"))
        self._heartbeat.rest()
        self._refuse_the_rest()

    def _take(self) -> None:
        """Take what has come; an engine without work waits for that."""
        scheduler = self._core.scheduler
        is_idle = not (scheduler.running or scheduler.waiting or self._inbox.has_jobs)
        if is_idle:
            self._heartbeat.rest()
        for item in self._inbox.take(wait=is_idle):
            self._heartbeat.begin()
            match item:
                case Asked():
                    self._inputs.process(item)
                case Left(owner):
                    scheduler.forget(owner)
        self._heartbeat.begin()
        for asked in self._inbox.take_held():
            self._inputs.process(asked)
        for asked in self._inbox.take_jobs():
            self._inputs.process(asked)

    def _publish(self) -> None:
        scheduler = self._core.scheduler
        self.running, self.waiting = len(scheduler.running), scheduler.waiting
        metrics.generations_waiting.set(self.waiting + self._inbox.waiting)

    def _refuse_the_rest(self) -> None:
        """Fail everything that waits or runs, as the worker is stopping."""
        stopping = NotReady("the worker is stopping")
        for asked in self._inbox.take_rest():
            asked.generation.report(Failed(stopping))
        self._core.end(stopping)
