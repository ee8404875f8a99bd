"""Answers one conversation in both modes of the window's tail, with the logits of every token.

It uses the library's language model, as the engine reports no logits. Greedy, one at a time.
"""

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from voxtral_worker.engine.conversation import Conversation
from voxtral_worker.engine.embeddings import Embeddings
from voxtral_worker.engine.encoder import Encoder
from voxtral_worker.engine.encoder_batcher import EncoderBatcher
from voxtral_worker.engine.layout import WINDOW_TAILS
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.prompt import Prompt, PromptEncoder
from voxtral_worker.engine.repetition import is_runaway

MOST_TOKENS = 256


@dataclass(frozen=True)
class Reply:
    """An answer; `logits`, float [tokens, vocabulary], are those of its tokens.

    For an answer that was compared with another one, `logits` follow the tokens of the other.
    `loops`: it repeats itself, or is as long as allowed. `first_token_s`: seconds of encoder and
    prompt.
    """

    tokens: tuple[int, ...]
    logits: torch.Tensor
    loops: bool
    rows: int
    first_token_s: float


class Probe:
    """Answers conversations; used by one thread."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._language = loaded.model.model.language_model
        self._embed = loaded.model.get_input_embeddings()
        # Those of the conversation at hand, which is made again for each answer.
        self._embeddings = {tail: Embeddings(loaded.device, 0) for tail in WINDOW_TAILS}
        self._batchers = {tail: self._batcher(tail) for tail in WINDOW_TAILS}
        self._prompts = {tail: PromptEncoder(loaded.tokenizer, tail) for tail in WINDOW_TAILS}

    @torch.inference_mode()
    def answer(
        self, make: Callable[[], Conversation], window_tail: str, beside: Reply | None = None
    ) -> Reply:
        """Answer a conversation that `make` makes again, because pieces of audio are encoded once.

        With `beside` the other's tokens are fed first, in one pass, and the answer is its own
        from where it would have said something else. Raises TooLarge, and what a model raises.
        """
        began_s = time.perf_counter()
        prompt = self._prompts[window_tail].encode(make(), self._loaded.context_tokens)
        embeddings, batcher = self._embeddings[window_tail], self._batchers[window_tail]
        # Drops those of earlier conversations.
        embeddings.trim()
        while waiting := [piece for piece in prompt.audio if piece not in embeddings]:
            for _, error in batcher.encode_some(waiting):
                raise error
        context = _Context(prompt, self._loaded)
        logits = self._feed(context, self._rows(prompt, embeddings))[-1:]
        self._loaded.wait()
        first_token_s = time.perf_counter() - began_s
        if beside is None:
            tokens, logits = self._go_on(context, [], logits)
        else:
            tokens, logits = self._compare(context, beside, logits)
        is_whole = tokens[-1] in self._loaded.stop_ids
        return Reply(tuple(tokens), logits, not is_whole, len(prompt.ids), first_token_s)

    def spoken(self, reply: Reply) -> list[int]:
        """The tokens of a reply without the one that ends it."""
        return [token for token in reply.tokens if token not in self._loaded.stop_ids]

    def text(self, reply: Reply) -> str:
        """The text of a reply."""
        return str(self._loaded.tokenizer.decode(self.spoken(reply)))

    def _compare(
        self, context: "_Context", beside: Reply, first: torch.Tensor
    ) -> tuple[list[int], torch.Tensor]:
        behind = self._feed_tokens(context, beside.tokens[:-1])
        logits = torch.cat([first, behind])
        own = logits.argmax(1).tolist()
        differing = [at for at, token in enumerate(beside.tokens) if own[at] != token]
        if not differing:
            return list(beside.tokens), logits
        at = differing[0]
        context.crop(at)
        tokens, _ = self._go_on(context, list(beside.tokens[:at]), logits[at : at + 1])
        return tokens, logits

    def _go_on(
        self, context: "_Context", tokens: list[int], logits: torch.Tensor
    ) -> tuple[list[int], torch.Tensor]:
        """Greedy tokens behind `tokens`, which are fed already, and the logits of the new ones."""
        all_logits = [logits]
        while True:
            tokens.append(int(all_logits[-1].argmax()))
            is_over = tokens[-1] in self._loaded.stop_ids or is_runaway(tokens)
            if is_over or len(tokens) >= MOST_TOKENS:
                return tokens, torch.cat(all_logits)
            all_logits.append(self._feed_tokens(context, tokens[-1:]))

    def _feed_tokens(
        self, context: "_Context", tokens: "tuple[int, ...] | list[int]"
    ) -> torch.Tensor:
        if not tokens:
            return torch.zeros(0, self._loaded.model.config.text_config.vocab_size).to(
                self._loaded.device
            )
        ids = torch.tensor(list(tokens), device=self._loaded.device)
        return self._feed(context, self._embed(ids))

    def _feed(self, context: "_Context", rows: torch.Tensor) -> torch.Tensor:
        """Logits, float [rows, vocabulary]; only the last for a prompt."""
        is_prompt = context.rows == 0
        positions, mask = context.take(len(rows))
        states = self._language(
            inputs_embeds=rows[None],
            position_ids=positions[None],
            attention_mask=mask,
            use_cache=True,
            **{cache_argument(self._language): context.cache},
        ).last_hidden_state[0]
        logits: torch.Tensor = self._loaded.model.lm_head(states[-1:] if is_prompt else states)
        return logits.float()

    def _batcher(self, window_tail: str) -> EncoderBatcher:
        encoder = Encoder(self._loaded, window_tail=window_tail)
        return EncoderBatcher(self._loaded, encoder, self._embeddings[window_tail], window_tail)

    def _rows(self, prompt: Prompt, embeddings: Embeddings) -> torch.Tensor:
        rows: torch.Tensor = self._embed(torch.tensor(prompt.ids, device=self._loaded.device))
        for span in prompt.spans:
            rows[span.start : span.stop] = embeddings.rows(span.audio, 0, span.layout.rows)
        return rows


def cache_argument(language: Any) -> str:
    """The name by which a language model of transformers takes its cache."""
    # The second one until 5.23.
    names = inspect.signature(language.forward).parameters
    return "cache" if "cache" in names else "past_key_values"


class _Context:
    """The library's cache, with the positions and weights of its rows."""

    def __init__(self, prompt: Prompt, loaded: LoadedModel) -> None:
        self.cache = DynamicCache(config=loaded.model.config.text_config)
        self.rows = 0
        self._prompt_rows = len(prompt.ids)
        self._is_weighted = any(prompt.log_weights)
        room = MOST_TOKENS + 1
        behind = prompt.positions[-1] + 1
        positions = [*prompt.positions, *range(behind, behind + room)]
        self._positions = torch.tensor(positions, device=loaded.device)
        weights = [*prompt.log_weights, *[0.0] * room]
        self._weights = torch.tensor(weights, device=loaded.device, dtype=loaded.dtype)

    def take(self, count: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Positions [count] of the next rows and, where there are weights, their mask."""
        before, self.rows = self.rows, self.rows + count
        positions = self._positions[before : self.rows]
        if not self._is_weighted:
            return positions, None
        scores = self._weights[: self.rows].repeat(count, 1)
        hidden = torch.ones(scores.shape, dtype=torch.bool, device=scores.device)
        scores = scores.masked_fill_(hidden.triu_(before + 1), float("-inf"))
        return positions, scores[None, None]

    def crop(self, tokens: int) -> None:
        """Forget all but the prompt and so many tokens behind it."""
        self.rows = self._prompt_rows + tokens
        self.cache.crop(self.rows)
