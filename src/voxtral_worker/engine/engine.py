"""The thread that owns the model: admit, encode, prefill, decode, deliver.

Everything else talks to it through a bounded inbox and per-generation handles.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy

from voxtral_worker import metrics
from voxtral_worker.engine.budget import PrefillBudget, context_per_row
from voxtral_worker.engine.conversation import Audio, Conversation, UserTurn
from voxtral_worker.engine.delivery import Delivery, tell_end
from voxtral_worker.engine.detokenizer import Detokenizer
from voxtral_worker.engine.encoder import Encoder
from voxtral_worker.engine.generation import Generation
from voxtral_worker.engine.kv_cache import BLOCK_TOKENS, KvCache, blocks_for
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
)
from voxtral_worker.engine.runner import Runner
from voxtral_worker.engine.scheduler import Scheduler
from voxtral_worker.engine.sequence import Sequence
from voxtral_worker.errors import AtCapacity, EngineFailure, NotReady, OutOfMemory, WorkerError
from voxtral_worker.settings import Settings

log = logging.getLogger(__name__)

INBOX_SIZE = 1024
WARM_UP_SAMPLES = 8000
IDLE_WAIT_S = 0.5


class Engine:
    """Takes requests from any thread; runs them on its own.

    After `start` it serves until `stop`. A step that fails ends the generations in it with
    a reason and the loop goes on; a device that no longer answers makes it unhealthy for good.
    """

    def __init__(self, loaded: LoadedModel, settings: Settings) -> None:
        self._loaded = loaded
        self._prompts = PromptEncoder(loaded.tokenizer)
        self._encoder = Encoder(loaded)
        self._runner = Runner(loaded, settings)
        self._context_per_row = context_per_row(loaded.model.config.text_config)
        self._cache = KvCache(self._runner.blocks)
        self._scheduler: Scheduler[Sequence] = Scheduler(settings.max_batch_size, self._place)
        self._delivery = Delivery(loaded, settings.response_cache_size)
        self.context_tokens = min(
            loaded.context_tokens, settings.max_context_tokens or loaded.context_tokens
        )
        self._inbox: queue.Queue[_Asked | _Forget] = queue.Queue(INBOX_SIZE)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self._device_is_lost = False
        self.running = 0
        self.waiting = 0
        metrics.kv_blocks.labels("total").set(self._cache.total)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the thread; generations under way fail with a reason."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    @property
    def is_healthy(self) -> bool:
        """Whether requests will be answered."""
        return self._thread.is_alive() and not self._device_is_lost

    @property
    def most_side_by_side(self) -> int:
        """Responses that are made at the same time."""
        return self._scheduler.places

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
            self._inbox.put_nowait(_Asked(generation, time.monotonic()))
        except queue.Full:
            raise AtCapacity("too many requests wait for the engine", retry_after_s=1) from None
        return generation

    def forget(self, owner: str) -> None:
        """An owner is gone: what is kept of its earlier turns is wiped."""
        try:
            self._inbox.put_nowait(_Forget(owner))
        except queue.Full:
            # Its blocks are the first to go when others need them.
            log.warning("engine: the inbox is full, an owner is forgotten later")

    def warm_up(self, timeout_s: float = 300.0) -> None:
        """Answer a text and a sound, so that the first caller does not pay for first times.

        Raises EngineFailure when the model does not answer.
        """
        for part in ("hello", Audio(np.zeros(WARM_UP_SAMPLES, np.float32))):
            self._try_out(Conversation(UserTurn((part,))), timeout_s)

    def _try_out(self, conversation: Conversation, timeout_s: float) -> None:
        done: queue.Queue[WorkerError | None] = queue.Queue()

        def listener(event: object) -> None:
            match event:
                case Failed(error):
                    done.put(error)
                case Finished():
                    done.put(None)

        self.submit(GenerationRequest(conversation, Sampling(0.5, 1.0, 4)), listener)
        try:
            error = done.get(timeout=timeout_s)
        except queue.Empty:
            raise EngineFailure("the model does not answer") from None
        if error is not None:
            raise error

    # What follows runs on the engine's thread.

    def _serve(self) -> None:
        self._guarded([], self._runner.prepare)
        while not self._stopping.is_set():
            try:
                self._take(wait=not self._scheduler.running and not self._scheduler.waiting)
                self._step()
            except Exception:  # the loop must outlive any step
                log.exception("engine: a step failed outside a generation")
                self._fail_everyone(EngineFailure("the engine failed at a step"))
        self._take(wait=False)
        self._fail_everyone(NotReady("the worker is stopping"))

    def _take(self, *, wait: bool) -> None:
        while True:
            try:
                item = self._inbox.get(wait, IDLE_WAIT_S if wait else None)
            except queue.Empty:
                return
            wait = False
            match item:
                case _Forget(owner):
                    self._forget(owner)
                case _Asked(generation, submitted_s):
                    self._guarded([], partial(self._prepare, generation, submitted_s), generation)

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
            sequence.admitted_s = time.monotonic()
        self._encode()
        # A window takes a while, and whoever is cancelled meanwhile need not be computed.
        self._drop_cancelled()
        self._run(self._chunks())
        self._publish()

    def _drop_cancelled(self) -> None:
        for sequence in self._scheduler.everyone():
            if sequence.generation.is_cancelled:
                self._finish(sequence, "interrupted")

    def _place(self, sequence: Sequence) -> bool:
        """Give a sequence its blocks of KV cache, if there are enough."""
        admission = self._cache.admit(sequence.owner, sequence.prompt.keys, sequence.most_tokens)
        if admission is None:
            return False
        sequence.place(admission)
        metrics.tokens_cached.inc(admission.cached_tokens)
        return True

    def _encode(self) -> None:
        waiting = sorted(self._scheduler.running, key=lambda sequence: sequence.urgency)
        for sequence in waiting:
            if audio := sequence.waiting_audio():
                others = [piece for other in waiting for piece in other.waiting_audio()]
                self._guarded([sequence], partial(self._encoder.encode_some, [*audio, *others]))
                break
        now_s = time.monotonic()
        for sequence in self._scheduler.running:
            if sequence.encoded_s == 0.0 and not sequence.waiting_audio():
                sequence.encoded_s = now_s

    def _chunks(self) -> list[Chunk]:
        decoding = sorted(self._scheduler.decoding(), key=lambda sequence: sequence.stored)
        decodes = [Chunk(each, each.stored, each.stored + 1) for each in decoding]
        urgent = min((each.urgency for each in self._scheduler.running), default=0)
        budget = PrefillBudget(self._context_per_row)
        prefills = []
        for sequence in self._scheduler.prefilling():
            if sequence.waiting_audio():
                continue
            most = len(sequence.prompt.ids) - sequence.stored
            rows = budget.take(most, sequence.stored, is_urgent=sequence.urgency == urgent)
            if rows:
                prefills.append(Chunk(sequence, sequence.stored, sequence.stored + rows))
        return decodes + prefills

    def _run(self, chunks: list[Chunk]) -> None:
        if not chunks:
            return
        try:
            logits = self._runner.step(chunks)
        except Exception as error:  # noqa: BLE001 - the engine step: one of the named places
            if len(chunks) > 1:
                # One of them may be at fault, or all of them together be too many.
                self._give_memory_back(error)
                for chunk in chunks:
                    self._run([chunk])
            else:
                self._guarded([chunks[0].sequence], partial(self._run_again, chunks, error))
            return
        self._advance(chunks, logits)

    def _run_again(self, chunks: list[Chunk], error: Exception) -> None:
        """Once more where memory may have been short; anything else would fail again."""
        if not isinstance(error, torch.OutOfMemoryError):
            raise error
        self._give_memory_back(error)
        self._advance(chunks, self._runner.step(chunks))

    def _give_memory_back(self, error: Exception) -> None:
        if isinstance(error, torch.OutOfMemoryError) and self._loaded.device.type == "cuda":
            torch.cuda.empty_cache()

    def _advance(self, chunks: list[Chunk], logits: torch.Tensor) -> None:
        for chunk in chunks:
            chunk.sequence.stored = chunk.stop
            if not chunk.is_decode:
                metrics.tokens_prefilled.inc(chunk.stop - chunk.start)
        ready = [chunk.sequence for chunk in chunks if chunk.wants_logits]
        if ready:
            for sequence, finish_reason in self._delivery.deliver(ready, logits):
                self._finish(sequence, finish_reason)

    def _publish(self) -> None:
        self.running, self.waiting = len(self._scheduler.running), self._scheduler.waiting
        metrics.generations_running.set(self.running)
        metrics.generations_waiting.set(self.waiting + self._inbox.qsize())
        metrics.kv_blocks.labels("kept").set(self._cache.kept)
        metrics.kv_blocks.labels("free").set(self._cache.free)

    def _prepare(self, generation: Generation, submitted_s: float) -> None:
        request = generation.request
        reserve = min(request.sampling.max_tokens, self.context_tokens // 4)
        prompt = self._prompts.encode(request.conversation, self.context_tokens - reserve)
        max_tokens = min(request.sampling.max_tokens, self.context_tokens - len(prompt.ids))
        if prompt.trimmed:
            generation.report(HistoryTrimmed(prompt.trimmed))
        sequence = Sequence(
            generation,
            prompt,
            max_tokens,
            Detokenizer(self._loaded.tokenizer, SpecialTokenPolicy.IGNORE),
        )
        sequence.submitted_s = submitted_s
        if not self._cache.can_ever_hold(sequence.most_tokens):
            raise OutOfMemory(f"the KV cache cannot hold {sequence.most_tokens} tokens")
        if not self._delivery.replay(sequence):
            self._scheduler.add(sequence)

    def _finish(self, sequence: Sequence, finish_reason: str) -> None:
        if finish_reason != "interrupted":
            self._delivery.complete(sequence, finish_reason)
        self._release(sequence)
        tell_end(sequence, finish_reason)

    def _fail(self, sequence: Sequence, error: WorkerError) -> None:
        self._release(sequence)
        metrics.engine_failures.inc()
        sequence.generation.report(Failed(error))

    def _fail_everyone(self, error: WorkerError) -> None:
        for sequence in self._scheduler.everyone():
            self._fail(sequence, error)

    def _release(self, sequence: Sequence) -> None:
        was_placed = bool(sequence.blocks)
        self._scheduler.release(sequence)
        self._encoder.forget(sequence.waiting_audio())
        if was_placed:
            owner, keys = sequence.owner, sequence.stored_keys()
            self._cache.release(owner, sequence.blocks, keys)
            sequence.blocks = ()
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
            asked = sequences[0].generation if sequences else generation
            told = asked.context.run(_as_told, error) if asked else _as_told(error)
            for sequence in sequences:
                self._fail(sequence, told)
            if generation is not None:
                metrics.engine_failures.inc()
                generation.report(Failed(told))
            if isinstance(told, EngineFailure) and not self._runner.answers():
                log.critical("engine: the device no longer answers")
                self._device_is_lost = True


@dataclass(frozen=True)
class _Asked:
    """A request in the inbox."""

    generation: Generation
    submitted_s: float


@dataclass(frozen=True)
class _Forget:
    """An owner that is gone."""

    owner: str


def _as_told(error: Exception) -> WorkerError:
    if isinstance(error, WorkerError):
        return error
    if isinstance(error, torch.OutOfMemoryError):
        log.error("engine: out of memory: %s", error)
        return OutOfMemory("the GPU has no memory left for this request")
    log.error("engine: a generation failed", exc_info=error)
    return EngineFailure("the model failed on this request")
