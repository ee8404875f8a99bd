"""The thread that owns the model: admit, encode, prefill, decode, deliver.

Everything else talks to it through a bounded inbox and per-generation handles.
"""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy

from voxtral_worker import metrics
from voxtral_worker.engine.budget import MOST_ROWS, PrefillBudget, context_per_row
from voxtral_worker.engine.constraint import Constraint
from voxtral_worker.engine.conversation import Audio, Conversation, UserTurn
from voxtral_worker.engine.delivery import Delivery, tell_end
from voxtral_worker.engine.detokenizer import Detokenizer
from voxtral_worker.engine.encoder import Encoder
from voxtral_worker.engine.faults import attempt
from voxtral_worker.engine.generation import Generation
from voxtral_worker.engine.grammar import COMPILE_S, Grammar, Grammars, Shape, took_too_long
from voxtral_worker.engine.heartbeat import HANG_S, Heartbeat
from voxtral_worker.engine.kv_cache import BLOCK_TOKENS, KvCache, blocks_for
from voxtral_worker.engine.layout import EXACT
from voxtral_worker.engine.memory import DeviceBytes
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.packing import Chunk
from voxtral_worker.engine.prompt import PromptEncoder
from voxtral_worker.engine.request import (
    Failed,
    Finished,
    GenerationRequest,
    HistoryTrimmed,
    Listener,
    Sampling,
    Timings,
    Urgency,
    Usage,
)
from voxtral_worker.engine.runner import Runner
from voxtral_worker.engine.scheduler import Scheduler
from voxtral_worker.engine.sequence import Sequence
from voxtral_worker.engine.step_size import measure
from voxtral_worker.engine.tools import NO_TOOLS, Toolbox
from voxtral_worker.errors import (
    AtCapacity,
    EngineFailure,
    NotReady,
    OutOfMemory,
    ToolCallInvalid,
    WorkerError,
)
from voxtral_worker.settings import Settings

log = logging.getLogger(__name__)

INBOX_SIZE = 1024
# For how long a step makes prompts of jobs.
JOBS_STEP_S = 0.005
# Owners that wait to be forgotten; an engine that hangs takes none.
MOST_GONE = 10_000
WARM_UP_SAMPLES = 8000
IDLE_WAIT_S = 0.5
# Without a beat for so long the warm-up hangs: a GPU's libraries may compile within a step.
SILENCE_S = 300.0
# Compiling and recording every shape, which ends before the first step.
PREPARE_S = 3600.0


class Engine:
    """Takes requests from any thread; runs them on its own.

    After `start` it serves until `stop`. A step that fails ends the generations in it with
    a reason and the loop goes on; a device that no longer answers makes it unhealthy for good,
    a step that hangs for as long as it does.
    """

    def __init__(
        self, loaded: LoadedModel, settings: Settings, hang_s: float | None = None
    ) -> None:
        """`hang_s`: seconds after which a step hangs; by the device where it is not given."""
        self._loaded = loaded
        # What is computed of the silence that fills a window: see layout_of.
        self.window_tail = settings.window_tail or loaded.window_tail
        self._prompts = PromptEncoder(loaded.tokenizer, self.window_tail)
        self._encoder = Encoder(
            loaded,
            most_idle_bytes=settings.embeddings_cache_bytes,
            window_tail=self.window_tail,
        )
        self._runner = Runner(loaded, settings, self.window_tail)
        self._device_bytes = DeviceBytes(loaded, self._runner)
        self._context_per_row = context_per_row(loaded.model.config.text_config)
        self._most_rows = MOST_ROWS
        self._cache = KvCache(self._runner.blocks)
        self._scheduler: Scheduler[Sequence] = Scheduler(
            settings.max_batch_size, self._cache.total, self._place, self._put_back
        )
        self._delivery = Delivery(loaded, settings.response_cache_size, self.window_tail)
        self.grammars = Grammars(loaded.tokenizer, self._delivery.masks.call_token)
        # Requests whose grammar is being compiled.
        self._uncompiled: list[_Asked] = []
        # None wakes the thread up.
        self._inbox: queue.Queue[_Asked | None] = queue.Queue(INBOX_SIZE)
        # Jobs whose prompts are not made yet, which takes 30 ms for half a million characters.
        self._jobs: deque[_Asked] = deque()
        self._gone: deque[str] = deque()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self._device_is_lost = False
        self._is_prepared = threading.Event()
        self._heartbeat = Heartbeat(HANG_S[loaded.device.type] if hang_s is None else hang_s)
        # On a GPU layers are short, and compiled code is no place for hooks.
        self._has_long_layers = loaded.device.type == "cpu" and not settings.enable_torch_compile
        self.running = 0
        self.waiting = 0
        metrics.kv_blocks.labels("total").set(self._cache.total)

    def start(self) -> None:
        """Start the thread."""
        if self._has_long_layers:
            model = self._loaded.model.model
            self._heartbeat.follow([*model.audio_tower.layers, *model.language_model.layers])
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
            # The engine is part of a reference cycle: the collector may come too late for
            # another one that wants this memory.
            self._runner.let_go()

    @property
    def is_healthy(self) -> bool:
        """Whether requests will be answered."""
        is_lost = self._device_is_lost or self._heartbeat.is_late
        return self._thread.is_alive() and not is_lost

    @property
    def attention(self) -> str:
        """How decode steps read the KV cache: `paged` (a kernel) or `gathered`."""
        return self._runner.attention

    @property
    def most_side_by_side(self) -> int:
        """Responses that are made at the same time."""
        return self._scheduler.places

    @property
    def context_tokens(self) -> int:
        """Positions of the longest prompt with its answer."""
        if self.window_tail == EXACT:
            # As many rows, which have to fit into the KV cache.
            return min(self._runner.context_tokens, self._runner.blocks * BLOCK_TOKENS)
        return self._runner.context_tokens

    @property
    def kv_tokens(self) -> int:
        """Tokens that fit into the KV cache."""
        return self._cache.total * BLOCK_TOKENS

    def submit(self, request: GenerationRequest, listener: Listener) -> Generation:
        """Ask for a response; `listener` is called on the engine's thread and must not block.

        Raises AtCapacity when too many wait, NotReady when the engine does not run.
        """
        if not self.is_healthy or self._stopping.is_set():
            raise NotReady("the engine does not run", retry_after_s=5)
        generation = Generation(request, listener)
        try:
            if request.urgency == Urgency.JOB and len(self._jobs) >= INBOX_SIZE:
                raise queue.Full
            if len(self._uncompiled) >= INBOX_SIZE:
                raise queue.Full
            self._inbox.put_nowait(_Asked(generation, time.monotonic()))
        except queue.Full:
            raise AtCapacity("too many requests wait for the engine", retry_after_s=1) from None
        return generation

    def check_tools(self, box: Toolbox) -> None:
        """Return once the tools can be called; blocks for as long as their schemas are compiled.

        Raises BadSchema that names the tool whose schema cannot be followed, or AtCapacity.
        """
        self.grammars.check(Shape(box))

    def forget(self, owner: str) -> None:
        """An owner is gone: what is kept of its earlier turns is wiped.

        Also when the inbox is full: once what it has asked for before has been taken.
        """
        if len(self._gone) >= MOST_GONE:
            # Its blocks are the first to go when others need them.
            log.error("engine: too many owners wait to be forgotten, one is not")
            return
        self._gone.append(owner)
        self._wake()

    def warm_up(self, silence_s: float = SILENCE_S) -> None:
        """Answer a text and a sound, so that the first caller does not pay for first times.

        The whole may take as long as it does while the heart beats. Raises EngineFailure when
        the model fails, or nothing of it is done for `silence_s`.
        """
        until_s = time.monotonic() + PREPARE_S
        while not self._is_prepared.wait(1.0):
            if not self._thread.is_alive() or time.monotonic() > until_s:
                raise EngineFailure("the model is not prepared")
        self.grammars.is_prepared.wait(silence_s)
        for part in ("hello", Audio(np.zeros(WARM_UP_SAMPLES, np.float32))):
            self._try_out(Conversation(UserTurn((part,))), silence_s)

    def _try_out(self, conversation: Conversation, silence_s: float) -> None:
        done: queue.Queue[WorkerError | None] = queue.Queue()

        def listener(event: object) -> None:
            match event:
                case Failed(error):
                    done.put(error)
                case Finished():
                    done.put(None)

        self.submit(GenerationRequest(conversation, Sampling(0.5, 1.0, 4)), listener)
        error = self._wait(done, silence_s)
        if error is not None:
            raise error

    def _wait(
        self, done: "queue.Queue[WorkerError | None]", silence_s: float
    ) -> WorkerError | None:
        """What ends a request; None is success."""
        while True:
            beats = self._heartbeat.beats
            try:
                return done.get(timeout=silence_s)
            except queue.Empty:
                if beats == self._heartbeat.beats:
                    return EngineFailure(
                        f"the model does not answer: nothing of it was done for {silence_s:g} s"
                    )

    # What follows runs on the engine's thread.

    def _serve(self) -> None:
        self._guarded([], self._runner.prepare)
        if self._loaded.device.type == "cuda":
            # A CPU serves people who try things out, each of whose steps is slow.
            self._guarded([], self._fit_steps)
        self._guarded([], self._encoder.prepare)
        self._is_prepared.set()
        while not self._stopping.is_set():
            try:
                is_idle = not (self._scheduler.running or self._scheduler.waiting or self._jobs)
                self._take(wait=is_idle)
                self._look_at_uncompiled()
                self._prepare_jobs()
                self._heartbeat.begin()
                self._step()
            except Exception:  # the loop must outlive any step
                log.exception("engine: a step failed outside a generation")
                self._fail_everyone(EngineFailure("the engine failed at a step"))
        self._heartbeat.rest()
        self._take(wait=False)
        stopping = NotReady("the worker is stopping")
        for asked in [*self._jobs, *self._uncompiled]:
            asked.generation.report(Failed(stopping))
        self._fail_everyone(stopping)

    def _fit_steps(self) -> None:
        size = measure(self._encoder, self._runner)
        self._encoder.at_once, self._most_rows = size.windows, size.rows

    def _take(self, *, wait: bool) -> None:
        if wait:
            self._heartbeat.rest()
        item = self._next(wait=wait)
        # Whoever is gone by now has asked for nothing that is not in the inbox already. To forget
        # an owner before its last request would keep that one's blocks for nobody.
        gone = len(self._gone)
        while item is not None or not self._inbox.empty():
            if item is not None:
                self._heartbeat.begin()
                if item.generation.urgency == Urgency.JOB:
                    self._jobs.append(item)
                else:
                    self._prepare_one(item)
            item = self._next(wait=False)
        for _ in range(gone):
            self._forget(self._gone.popleft())

    def _prepare_jobs(self) -> None:
        """Some of the jobs that wait, at least one: what is being spoken waits along."""
        until_s = time.monotonic() + JOBS_STEP_S
        while self._jobs:
            self._prepare_one(self._jobs.popleft())
            if time.monotonic() > until_s:
                return

    def _prepare_one(self, asked: "_Asked") -> None:
        self._guarded([], partial(self._prepare, asked), asked.generation)

    def _look_at_uncompiled(self) -> None:
        """Prepare those whose grammar is compiled by now, and end those that wait in vain."""
        waiting, self._uncompiled = self._uncompiled, []
        for asked in waiting:
            self._prepare_one(asked)

    def _grammar_of(self, asked: "_Asked", shape: Shape) -> Grammar | None:
        """The grammar of a request; one that is not compiled yet lets the request wait.

        Raises BadInput where it cannot be compiled, or not in time.
        """
        grammar = self.grammars.find(shape)
        if grammar is not None:
            return grammar
        if time.monotonic() - asked.submitted_s > COMPILE_S:
            raise took_too_long(shape)
        self._uncompiled.append(asked)
        if not asked.has_asked:
            asked.has_asked = True
            self.grammars.ask(shape, self._wake)
        return None

    def _wake(self) -> None:
        with suppress(queue.Full):
            self._inbox.put_nowait(None)

    def _next(self, *, wait: bool) -> "_Asked | None":
        try:
            return self._inbox.get(wait, IDLE_WAIT_S if wait else None)
        except queue.Empty:
            return None

    def _forget(self, owner: str) -> None:
        self._cache.forget(owner)
        for sequence in self._scheduler.everyone():
            if sequence.owner == owner:
                # There will be no next turn to keep anything for.
                sequence.owner = None

    def _step(self) -> None:
        """Admit, encode, prefill and decode in one packed step, deliver."""
        self._drop_cancelled()
        for sequence in self._scheduler.admit():
            # The first time counts of one that was put back meanwhile.
            sequence.admitted_s = sequence.admitted_s or time.monotonic()
        had_work = bool(self._scheduler.running)
        self._encode()
        # A window takes a while, and whoever is cancelled meanwhile need not be computed.
        self._drop_cancelled()
        self._run(self._chunks())
        self._publish()
        if had_work:
            self._heartbeat.beat()

    def _drop_cancelled(self) -> None:
        for sequence in self._scheduler.everyone():
            if sequence.generation.is_cancelled:
                self._finish(sequence, "interrupted")

    def _place(self, sequence: Sequence) -> None:
        """Give a sequence its blocks of KV cache."""
        admission = self._cache.admit(sequence.owner, sequence.prompt.keys, sequence.most_tokens)
        assert admission is not None, "the scheduler counts blocks as the cache does"
        self._runner.clear(sequence.place(admission))
        self._runner.weigh(sequence)
        metrics.tokens_cached.inc(admission.cached_tokens)

    def _put_back(self, sequence: Sequence) -> None:
        """Take its blocks for a turn; what they hold is computed again when it is placed."""
        self._encoder.forget(sequence.waiting_audio())
        self._put_away(sequence.prompt.audio)
        self._cache.release(None, sequence.leave())
        metrics.generations_put_back.inc()

    def _encode(self) -> None:
        waiting = sorted(self._scheduler.running, key=lambda sequence: sequence.urgency)
        pieces = [piece for sequence in waiting for piece in sequence.waiting_audio()]
        for failed, error in self._encoder.encode_some(pieces):
            for sequence in waiting:
                if failed in sequence.waiting_audio():
                    self._fail_by(sequence, error)
        now_s = time.monotonic()
        for sequence in self._scheduler.running:
            if sequence.encoded_s == 0.0 and not sequence.waiting_audio():
                sequence.encoded_s = now_s

    def _chunks(self) -> list[Chunk]:
        decoding = sorted(self._scheduler.decoding(), key=lambda sequence: sequence.stored)
        decodes = [Chunk(each, each.stored, each.stored + 1) for each in decoding]
        urgent = min((each.urgency for each in self._scheduler.running), default=0)
        budget = PrefillBudget(self._context_per_row, self._most_rows)
        prefills = []
        for sequence in self._scheduler.prefilling():
            if sequence.waiting_audio():
                continue
            most = sequence.prefill_tokens - sequence.stored
            rows = budget.take(most, sequence.stored, is_urgent=sequence.urgency == urgent)
            if rows:
                prefills.append(Chunk(sequence, sequence.stored, sequence.stored + rows))
        return decodes + prefills

    def _run(self, chunks: list[Chunk]) -> None:
        if chunks:
            for chunk, error in attempt(chunks, self._compute):
                self._fail_by(chunk.sequence, error)

    def _compute(self, chunks: list[Chunk]) -> None:
        """One step, and what follows of it. Nothing is raised once the step has succeeded."""
        logits = self._runner.step(chunks)
        for chunk in chunks:
            chunk.sequence.stored = chunk.stop
            if not chunk.is_decode:
                metrics.tokens_prefilled.inc(chunk.stop - chunk.start)
        ready = [chunk.sequence for chunk in chunks if chunk.wants_logits]
        chosen, failures = self._delivery.choose(ready, logits)
        for sequence, error in failures:
            self._fail_by(sequence, error)
        for sequence, token_id in chosen:
            self._guarded([sequence], partial(self._deliver, sequence, token_id))
        # Behind the delivery: a copy waits for the device, as the choice has done already.
        self._put_away(
            audio
            for chunk in chunks
            if not chunk.is_decode
            for audio in chunk.sequence.stored_audio()
        )

    def _put_away(self, pieces: Iterable[Audio]) -> None:
        self._guarded([], partial(self._encoder.embeddings.put_away, pieces))

    def _deliver(self, sequence: Sequence, token_id: int) -> None:
        sequence.vouched = sequence.stored
        finish_reason = self._delivery.take(sequence, token_id)
        if finish_reason is not None:
            self._finish(sequence, finish_reason)

    def _publish(self) -> None:
        self.running, self.waiting = len(self._scheduler.running), self._scheduler.waiting
        metrics.generations_running.set(self.running)
        metrics.generations_waiting.set(self.waiting + self._inbox.qsize() + len(self._jobs))
        metrics.kv_blocks.labels("kept").set(self._cache.kept)
        metrics.kv_blocks.labels("free").set(self._cache.free)
        # No step is planned now that would need what is dropped.
        self._encoder.embeddings.trim()

    def _prepare(self, asked: "_Asked") -> None:
        generation = asked.generation
        request = generation.request
        if asked.has_asked and generation.is_cancelled:
            # Whoever waited for a grammar is gone by now.
            generation.report(Finished("interrupted", Usage(), Timings()))
            return
        shape = _shape_of(request)
        grammar = None
        if not shape.is_free:
            grammar = self._grammar_of(asked, shape)
            if grammar is None:
                return
        context, rows = self.context_tokens, self._most_rows_of(request)
        reserve = min(request.sampling.max_tokens, min(context, rows) // 4)
        prompt = self._prompts.encode(request.conversation, context - reserve, rows - reserve)
        positions = len(prompt.ids) + prompt.skipped
        max_tokens = min(request.sampling.max_tokens, context - positions, rows - len(prompt.ids))
        if prompt.trimmed:
            generation.report(HistoryTrimmed(prompt.trimmed))
        sequence = Sequence(
            generation,
            prompt,
            max_tokens,
            Detokenizer(self._loaded.tokenizer, SpecialTokenPolicy.IGNORE),
            Constraint(shape, grammar),
        )
        sequence.submitted_s = asked.submitted_s
        if not self._scheduler.can_ever_run(sequence):
            raise OutOfMemory(f"the KV cache cannot hold {sequence.most_tokens} tokens")
        if not self._delivery.replay(sequence):
            self._scheduler.add(sequence)

    def _most_rows_of(self, request: GenerationRequest) -> int:
        """Rows of prompt and answer; what is no turn gets at most half of the KV cache."""
        if request.urgency < Urgency.JOB:
            return self._runner.blocks * BLOCK_TOKENS
        return self._scheduler.background_blocks * BLOCK_TOKENS

    def _finish(self, sequence: Sequence, finish_reason: str) -> None:
        if finish_reason != "interrupted":
            self._delivery.complete(sequence, finish_reason)
        self._release(sequence)
        tell_end(sequence, finish_reason)

    def _fail(self, sequence: Sequence, error: WorkerError) -> None:
        # What it computed may be the fault, and is nobody's prefix.
        sequence.owner = None
        self._release(sequence)
        metrics.engine_failures.inc()
        if isinstance(error, ToolCallInvalid):
            metrics.tool_calls.labels("invalid").inc()
        sequence.generation.report(Failed(error))

    def _fail_by(self, sequence: Sequence, error: Exception) -> None:
        """Fail one sequence by what went wrong at a step; once, however often it is told."""
        if sequence not in self._scheduler.running:
            return
        told = sequence.generation.context.run(_as_told, error)
        self._fail(sequence, told)
        self._look_at_device(told)

    def _fail_everyone(self, error: WorkerError) -> None:
        for sequence in self._scheduler.everyone():
            self._fail(sequence, error)

    def _release(self, sequence: Sequence) -> None:
        was_placed = bool(sequence.blocks)
        self._scheduler.release(sequence)
        self._encoder.forget(sequence.waiting_audio())
        # One that is ended early has not stored all of them, and a history may hold them.
        self._put_away(sequence.prompt.audio)
        # Not at every step: the allocator takes a while to count.
        self._device_bytes.publish(self._encoder.embeddings.bytes)
        if was_placed:
            owner, keys = sequence.owner, sequence.stored_keys()[: sequence.vouched]
            self._cache.release(owner, sequence.leave(), keys)
            if owner is not None:
                kept = blocks_for(len(keys)) * BLOCK_TOKENS
                metrics.session_kv_bytes.observe(kept * self._runner.bytes_per_token)

    def _guarded(
        self,
        sequences: list[Sequence],
        work: Callable[[], None],
        generation: Generation | None = None,
    ) -> None:
        """Do work whose failure ends only the generations it is for."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 - the engine step: one of the named places
            for sequence in sequences:
                self._fail_by(sequence, error)
            if sequences:
                return
            told = generation.context.run(_as_told, error) if generation else _as_told(error)
            if generation is not None:
                metrics.engine_failures.inc()
                generation.report(Failed(told))
            self._look_at_device(told)

    def _look_at_device(self, told: WorkerError) -> None:
        if isinstance(told, EngineFailure) and not self._runner.answers():
            log.critical("engine: the device no longer answers")
            self._device_is_lost = True


@dataclass(eq=False)
class _Asked:
    """A request in the inbox."""

    generation: Generation
    submitted_s: float
    # Whether its grammar is being compiled for it.
    has_asked: bool = False


def _shape_of(request: GenerationRequest) -> Shape:
    if request.conversation.transcribe:
        return Shape(NO_TOOLS)
    return Shape(request.conversation.tools, request.sampling.schema)


def _as_told(error: Exception) -> WorkerError:
    if isinstance(error, WorkerError):
        return error
    if isinstance(error, torch.OutOfMemoryError):
        log.error("engine: out of memory: %s", error)
        return OutOfMemory("the GPU has no memory left for this request")
    log.error("engine: a generation failed", exc_info=error)
    return EngineFailure("the model failed on this request")
