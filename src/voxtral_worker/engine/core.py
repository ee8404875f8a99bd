"""The engine's step: admit, encode, prefill and decode, deliver.

The core joins the parts that decide and the parts that compute. It is used by the engine's
thread only.
"""

import time
from collections.abc import Iterable
from functools import partial

import torch

from voxtral_worker import metrics
from voxtral_worker.engine.budget import context_per_row
from voxtral_worker.engine.conversation import Audio
from voxtral_worker.engine.embeddings import Embeddings
from voxtral_worker.engine.encoder import Encoder
from voxtral_worker.engine.encoder_batcher import EncoderBatcher
from voxtral_worker.engine.faults import Faults
from voxtral_worker.engine.kv_cache import BLOCK_TOKENS, KvCache, blocks_for
from voxtral_worker.engine.layout import EXACT
from voxtral_worker.engine.memory import DeviceBytes
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.model_runner import ModelRunner
from voxtral_worker.engine.output_processor import OutputProcessor
from voxtral_worker.engine.plan import Chunk
from voxtral_worker.engine.request import Finished
from voxtral_worker.engine.response import Response
from voxtral_worker.engine.scheduler import Scheduler
from voxtral_worker.engine.sequence import Sequence
from voxtral_worker.engine.step_size import measure
from voxtral_worker.errors import WorkerError
from voxtral_worker.settings import Settings


class EngineCore:
    """Runs sequences, step by step. A sequence is here from `add` until its caller heard the end.

    The scheduler knows it as data, the runner its blocks, the encoder its sound, the output
    processor its caller; `_release` takes it out of all of them.
    """

    def __init__(self, loaded: LoadedModel, settings: Settings) -> None:
        """Raises LoadFailure where memory is too small."""
        # The checkpoint: its modules, tokenizer and device.
        self.loaded = loaded
        # What is computed of the silence that fills a window: see `layout_of`.
        self.window_tail = window_tail = settings.window_tail or loaded.window_tail
        # Layers that may each take seconds. On a GPU layers are short, and compiled code must
        # not have hooks.
        self.long_layers: list[torch.nn.Module] = []
        if loaded.device.type == "cpu" and not settings.enable_torch_compile:
            model = loaded.model.model
            self.long_layers = [*model.audio_tower.layers, *model.language_model.layers]
        # The encoded audio of all conversations.
        self.embeddings = Embeddings(loaded.device, settings.embeddings_cache_bytes)
        # Encodes windows; the batcher decides which, a few at each step.
        self.encoder = Encoder(loaded, window_tail=window_tail)
        self.batcher = EncoderBatcher(loaded, self.encoder, self.embeddings, window_tail)
        # Owns the tensors of the KV cache, and computes the scheduler's plans.
        self.runner = ModelRunner(loaded, settings, window_tail, self.embeddings)
        # Decides who runs. It only counts blocks: their tensors are the runner's.
        self.scheduler = Scheduler(
            KvCache(self.runner.blocks),
            settings.max_batch_size,
            context_per_row(loaded.model.config.text_config),
        )
        # Chooses tokens and sends their text to the callers.
        self.outputs = OutputProcessor(loaded, settings.response_cache_size, window_tail)
        # Decides which requests a failure ends. It asks the runner that is there at that moment.
        self.faults = Faults(self.outputs.responses, self._release, lambda: self.runner.answers())
        # Publishes what takes the device's memory.
        self.device_bytes = DeviceBytes(loaded, self.runner)
        metrics.kv_blocks.labels("total").set(self.scheduler.cache.total)

    @property
    def context_tokens(self) -> int:
        """Positions of the longest prompt with its answer."""
        if self.window_tail == EXACT:
            # There are as many rows as positions, and rows have to fit into the KV cache.
            return min(self.runner.context_tokens, self.runner.blocks * BLOCK_TOKENS)
        return self.runner.context_tokens

    def prepare(self) -> None:
        """Compile, record and measure; what fails is left to the first step that needs it."""
        self.faults.upkeep(self.runner.prepare)
        if self.loaded.device.type == "cuda":
            # Not on a CPU, where every step is slow anyway.
            self.faults.upkeep(self.fit_steps)
        self.faults.upkeep(self.encoder.prepare)

    def fit_steps(self) -> None:
        """Measure how much of each kind one step may compute."""
        size = measure(self.encoder, self.runner)
        self.encoder.at_once, self.scheduler.most_rows = size.windows, size.rows

    def add(self, sequence: Sequence, response: Response) -> None:
        """Answer from the response cache, or let the sequence wait for its place."""
        if not self.outputs.replay(sequence, response):
            self.scheduler.add(sequence)
            self.outputs.responses[sequence.sequence_id] = response

    def step(self) -> bool:
        """Run one step of all sequences; returns whether there was anything to compute."""
        self._follow_callers()
        self._admit()
        had_work = bool(self.scheduler.running)
        self._encode()
        # A window takes a while. A request that was cancelled during that need not be computed.
        self._follow_callers()
        chunks = self.scheduler.plan(self.embeddings)
        self.faults.together(chunks, self._compute, lambda chunk: [chunk.sequence])
        self._publish()
        return had_work

    def end(self, error: WorkerError) -> None:
        """End all sequences with an error."""
        for sequence in self.scheduler.everyone():
            self.faults.end(sequence, error)

    def _follow_callers(self) -> None:
        """End what callers have cancelled, and make turns of the speculations they committed."""
        for sequence in self.scheduler.everyone():
            generation = self.outputs.responses[sequence.sequence_id].generation
            sequence.urgency = generation.urgency
            if generation.is_cancelled:
                self._finish(sequence, "interrupted")

    def _admit(self) -> None:
        moved = self.scheduler.admit(time.monotonic())
        for sequence in moved.put_back:
            self._drop_tensors(sequence)
            metrics.generations_put_back.inc()
        for sequence in moved.admitted:
            self.faults.together([sequence], self._place, lambda one: [one])

    def _place(self, sequences: list[Sequence]) -> None:
        for sequence in sequences:
            self.runner.place(sequence)
            metrics.tokens_cached.inc(sequence.cached_tokens)

    def _encode(self) -> None:
        failures = self.batcher.encode_some(self.scheduler.pieces_to_encode(self.embeddings))
        self.faults.fail(failures, self._waiting_for)
        now_s = time.monotonic()
        for sequence in self.scheduler.running:
            if sequence.encoded_s is None and not sequence.waiting_audio(self.embeddings):
                sequence.encoded_s = now_s

    def _waiting_for(self, audio: Audio) -> list[Sequence]:
        """The running sequences that need the embeddings of a piece."""
        return [
            sequence
            for sequence in self.scheduler.running
            if audio in sequence.waiting_audio(self.embeddings)
        ]

    def _compute(self, chunks: list[Chunk]) -> None:
        """Run one step, and what follows of it. Raises nothing once the step has succeeded."""
        logits = self.runner.step(chunks)
        for chunk in chunks:
            chunk.sequence.stored = chunk.stop
            if not chunk.is_decode:
                metrics.tokens_prefilled.inc(chunk.stop - chunk.start)
        ready = [chunk.sequence for chunk in chunks if chunk.wants_logits]
        chosen, failures = self.outputs.choose(ready, logits)
        self.faults.fail(failures, lambda sequence: [sequence])
        for sequence, token_id in chosen:
            self.faults.alone(sequence, partial(self._deliver, sequence, token_id))
        # After the delivery: a copy waits for the device, as the choice has done already.
        prefills = [chunk.sequence for chunk in chunks if not chunk.is_decode]
        self._put_away(audio for sequence in prefills for audio in sequence.stored_audio())

    def _deliver(self, sequence: Sequence, token_id: int) -> None:
        sequence.vouched = sequence.stored
        finish_reason = self.outputs.take(sequence, token_id)
        if finish_reason is not None:
            self._finish(sequence, finish_reason)

    def _finish(self, sequence: Sequence, finish_reason: str) -> None:
        """Release a sequence, and then report the end to its caller."""
        if finish_reason != "interrupted":
            self.outputs.complete(sequence, finish_reason)
        generation = self.outputs.responses[sequence.sequence_id].generation
        self._release(sequence)
        if finish_reason == "interrupted" and generation.cancelled_s is not None:
            metrics.cancel_seconds.observe(time.monotonic() - generation.cancelled_s)
        generation.report(Finished(finish_reason, sequence.usage(), sequence.timings()))

    def _release(self, sequence: Sequence) -> None:
        kept_tokens = self.scheduler.release(sequence)
        self._drop_tensors(sequence)
        self.outputs.responses.pop(sequence.sequence_id, None)
        # Not at every step: the allocator takes a while to count.
        self.device_bytes.publish(self.embeddings.bytes)
        if kept_tokens is not None:
            kept = blocks_for(kept_tokens) * BLOCK_TOKENS
            metrics.session_kv_bytes.observe(kept * self.runner.bytes_per_token)

    def _drop_tensors(self, sequence: Sequence) -> None:
        """Let go of what was computed for a sequence that does not run any more."""
        self.runner.release(sequence.sequence_id)
        # Also what it has not stored yet: it stays in the history, which may need it again.
        self._put_away(sequence.prompt.audio)

    def _put_away(self, pieces: Iterable[Audio]) -> None:
        self.faults.upkeep(partial(self.embeddings.put_away, pieces))

    def _publish(self) -> None:
        metrics.generations_running.set(len(self.scheduler.running))
        metrics.kv_blocks.labels("kept").set(self.scheduler.cache.kept)
        metrics.kv_blocks.labels("free").set(self.scheduler.cache.free)
        # No step is planned now that would need what is dropped.
        self.embeddings.trim()
