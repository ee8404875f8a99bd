"""Every token that an engine chooses, and when.

Deltas show less: a special token has none, and half a character waits for its other half.
"""

import time
from collections import defaultdict
from dataclasses import dataclass, field

from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.generation import Generation
from voxtral_worker.engine.sequence import Sequence


@dataclass
class Made:
    """The tokens of one generation and their times, seconds on the monotonic clock."""

    token_ids: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between a token and the next."""
        return [after - before for before, after in zip(self.times_s, self.times_s[1:])]  # noqa: B905 - one shorter

    def per_s(self) -> float:
        """Tokens a second behind the first one; 0 of fewer than two."""
        took_s = self.times_s[-1] - self.times_s[0] if self.times_s else 0.0
        return (len(self.times_s) - 1) / took_s if took_s else 0.0


class TokenTimes:
    """Listens to an engine's delivery, on its thread; ask for a generation when it is over."""

    def __init__(self, engine: Engine) -> None:
        self._made: dict[Generation, Made] = defaultdict(Made)
        self._responses = engine._core.outputs.responses
        self._take = engine._core.outputs.take
        engine._core.outputs.take = self._hear  # type: ignore[method-assign]

    def of(self, generation: Generation) -> Made:
        """What was made; it is forgotten here."""
        return self._made.pop(generation, Made())

    def _hear(self, sequence: Sequence, token_id: int) -> str | None:
        made = self._made[self._responses[sequence.sequence_id].generation]
        made.token_ids.append(token_id)
        made.times_s.append(time.monotonic())
        return self._take(sequence, token_id)
