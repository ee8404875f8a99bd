"""When to try again, as the API's document advises."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from voxtral_worker.client.errors import VoxtralError

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Retry:
    """Waits min(first_ms · 2^attempt, longest_ms), at most `most` times.

    A worker that says when to come back is not asked before.
    """

    most: int = 5
    first_ms: float = 1000.0
    longest_ms: float = 30_000.0

    def delay_s(self, attempt: int, retry_after_s: float | None = None) -> float:
        """The wait after a failed attempt; the first one is attempt 1."""
        advised_s: float = min(self.first_ms * 2.0**attempt, self.longest_ms) / 1000
        return max(advised_s, retry_after_s or 0.0)

    async def run(self, action: Callable[[], Awaitable[Answer]]) -> Answer:
        """What the action returns, as soon as it goes well.

        Raises its VoxtralError when that will not pass, or did not after the last attempt.
        """
        for attempt in range(1, self.most + 1):
            try:
                return await action()
            except VoxtralError as error:
                if not error.may_pass:
                    raise
                delay_s = self.delay_s(attempt, error.retry_after_s)
                log.warning("%s; retry %d of %d in %.0f s", error, attempt, self.most, delay_s)
            # Up to a tenth more, so that clients cut off together do not all come back together.
            await asyncio.sleep(delay_s * random.uniform(1.0, 1.1))
        try:
            return await action()
        except VoxtralError as error:
            if not (error.may_pass and self.most):
                raise
            raise VoxtralError(
                f"gave up after {self.most} retries: {error}", code=error.code
            ) from error
