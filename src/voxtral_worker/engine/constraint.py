"""Masks logits so that an answer stays within its grammar.

Only the rows that need it are masked, after the recorded step and outside of the recording.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from voxtral_worker.engine.calls import CallParser
from voxtral_worker.engine.grammar import Grammar, Shape
from voxtral_worker.errors import ToolCallInvalid, WorkerError

# Tokens that the model reads and must never write: text behind them is not for the user.
NEVER_SAID = (
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CONTENT]",
)
CALL_TOKEN = "[TOOL_CALLS]"


class Constraint:
    """What one answer may be. A matcher, where one is needed, has taken the tokens so far."""

    def __init__(self, shape: Shape, grammar: Grammar | None) -> None:
        self.shape = shape
        self.parser: CallParser | None = None
        self._grammar = grammar
        self._matcher = grammar.matcher() if grammar and shape.binds_first else None

    @property
    def is_over(self) -> bool:
        """Whether the grammar allows no further token."""
        return self._matcher is not None and bool(self._matcher.is_stopped())

    @property
    def is_bound(self) -> bool:
        """Whether a grammar decides about the next token."""
        return self._matcher is not None

    def take(self, token_id: int, *, is_call: bool) -> None:
        """Note a sampled token. Raises ToolCallInvalid where the grammar does not allow it."""
        if is_call and self.parser is None:
            self.parser = CallParser({tool.name for tool in self.shape.box.callable})
            if self._matcher is None and self._grammar is not None:
                self._matcher = self._grammar.matcher()
        if self._matcher is not None and not self._matcher.consume_token(token_id):
            raise _too_complex()

    def mask(self) -> bytes:
        """A bit for each token, the lowest first. Raises ToolCallInvalid where none is allowed."""
        assert self._matcher is not None
        bits: bytes = self._matcher.compute_bitmask()
        if self._matcher.is_error() or not any(bits):
            raise _too_complex()
        return bits


def _too_complex() -> WorkerError:
    return ToolCallInvalid("the schema asked for is too complex to be followed to its end")


@dataclass(frozen=True)
class Masks:
    """Which tokens are never written, as the ids of one tokenizer."""

    never: torch.Tensor
    call_token: int

    @classmethod
    def of(cls, tokenizer: Any, device: torch.device) -> "Masks":
        """The masks for mistral-common's Tekkenizer, which may lack some of these tokens."""
        names = {tokenizer.id_to_piece(at): at for at in range(tokenizer.num_special_tokens)}
        ids = [names[name] for name in NEVER_SAID if name in names]
        never = torch.tensor(ids, dtype=torch.long, device=device)
        return cls(never, names.get(CALL_TOKEN, -1))

    @torch.inference_mode()
    def apply(
        self, logits: torch.Tensor, constraints: Sequence[Constraint]
    ) -> dict[int, WorkerError]:
        """Set logits, float [n, vocabulary], of forbidden tokens to -inf, in place.

        Returns the rows whose grammar allows no token, with the error of each.
        """
        logits.index_fill_(1, self.never, float("-inf"))
        failed: dict[int, WorkerError] = {}
        masks: dict[int, bytes] = {}
        mute: list[int] = []
        for row, constraint in enumerate(constraints):
            if constraint.is_bound:
                try:
                    masks[row] = constraint.mask()
                except WorkerError as error:
                    failed[row] = error
            elif self.call_token >= 0 and not constraint.shape.box.may_call:
                mute.append(row)
        if mute:
            rows: slice | list[int] = mute if len(mute) < len(logits) else slice(None)
            logits[rows, self.call_token] = float("-inf")
        if masks:
            _bind(logits, masks)
        return failed


def _bind(logits: torch.Tensor, masks: dict[int, bytes]) -> None:
    packed = torch.frombuffer(bytearray(b"".join(masks.values())), dtype=torch.uint8)
    packed = packed.view(len(masks), -1).to(logits.device)
    shifts = torch.arange(8, dtype=torch.uint8, device=logits.device)
    allowed = ((packed[:, :, None] >> shifts) & 1).flatten(1).bool()
    # A head may have more rows than the vocabulary has tokens; the others are not tokens.
    missing = logits.shape[1] - allowed.shape[1]
    allowed = torch.nn.functional.pad(allowed, (0, max(0, missing)))[:, : logits.shape[1]]
    rows = torch.tensor(list(masks), device=logits.device)
    logits[rows] = logits[rows].masked_fill(~allowed, float("-inf"))
