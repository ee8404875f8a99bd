"""Keeps what is sampled within what an answer may be, over the logits of a step.

Only the rows that need it are masked, beside the recorded step and not in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from voxtral_worker.engine.calls import CallParser
from voxtral_worker.engine.grammar import Grammar, Shape
from voxtral_worker.errors import ToolCallInvalid, WorkerError

# What the model reads and never says: behind them would stand what is not for the user.
NEVER_SAID = (
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CONTENT]",
)
CALL_TOKEN = "[TOOL_CALLS]"


class Constraint:
    """What one answer may be; its matcher has taken the tokens so far, where one is needed."""

    def __init__(self, shape: Shape, grammar: Grammar | None) -> None:
        self.shape = shape
        self.parser: CallParser | None = None
        self._grammar = grammar
        self._matcher = grammar.matcher() if grammar and shape.binds_first else None

    @property
    def is_over(self) -> bool:
        """Whether nothing may follow."""
        return self._matcher is not None and bool(self._matcher.is_stopped())

    @property
    def is_bound(self) -> bool:
        """Whether a grammar decides about the next token."""
        return self._matcher is not None

    def take(self, token_id: int, *, is_call: bool) -> None:
        """The token was sampled. Raises ToolCallInvalid where the grammar has no such way."""
        if is_call and self.parser is None:
            self.parser = CallParser({tool.name for tool in self.shape.box.callable})
            if self._matcher is None and self._grammar is not None:
                self._matcher = self._grammar.matcher()
        if self._matcher is not None and not self._matcher.consume_token(token_id):
            raise _too_complex()

    def mask(self) -> bytes:
        """A bit for each token, the lowest first. Raises ToolCallInvalid where there is no way."""
        assert self._matcher is not None
        bits: bytes = self._matcher.compute_bitmask()
        if self._matcher.is_error() or not any(bits):
            raise _too_complex()
        return bits


def _too_complex() -> WorkerError:
    return ToolCallInvalid("the schema asked for is too complex to be followed to its end")


@dataclass(frozen=True)
class Masks:
    """Which tokens are never said, as the ids of one tokenizer."""

    never: torch.Tensor
    call_token: int

    @classmethod
    def of(cls, tokenizer: Any, device: torch.device) -> "Masks":
        """Of mistral-common's Tekkenizer; a tokenizer may lack some of these tokens."""
        names = {tokenizer.id_to_piece(at): at for at in range(tokenizer.num_special_tokens)}
        ids = [names[name] for name in NEVER_SAID if name in names]
        never = torch.tensor(ids, dtype=torch.long, device=device)
        return cls(never, names.get(CALL_TOKEN, -1))

    @torch.inference_mode()
    def apply(
        self, logits: torch.Tensor, constraints: Sequence[Constraint]
    ) -> dict[int, WorkerError]:
        """Take from logits, float [n, vocabulary], what may not be said; rows that have no way."""
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
    # A head may be wider than its vocabulary, and what is beyond is no token.
    missing = logits.shape[1] - allowed.shape[1]
    allowed = torch.nn.functional.pad(allowed, (0, max(0, missing)))[:, : logits.shape[1]]
    rows = torch.tensor(list(masks), device=logits.device)
    logits[rows] = logits[rows].masked_fill(~allowed, float("-inf"))
