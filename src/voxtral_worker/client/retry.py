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
    """Tries again at most `most` times, and waits min(first_ms · 2^attempt, longest_ms) before.

    If the worker asks for a longer wait (`Retry-After`), it waits that long.
    """

    most: int = 5
    first_ms: float = 1000.0
    longest_ms: float = 30_000.0

    def delay_s(self, attempt: int, retry_after_s: float | None = None) -> float:
        """Seconds to wait after a failed attempt; the first attempt has number 1."""
        advised_s: float = min(self.first_ms * 2.0**attempt, self.longest_ms) / 1000
        return max(advised_s, retry_after_s or 0.0)

    async def run(self, action: Callable[[], Awaitable[Answer]]) -> Answer:
        """Call the action until it succeeds, and return its result.

        Raises its VoxtralError if trying again cannot help, or if the last attempt failed.
        """
        for attempt in range(1, self.most + 1):
            try:
                return await action()
            except VoxtralError as error:
                if not error.may_pass:
                    raise
                delay_s = self.delay_s(attempt, error.retry_after_s)
                log.warning("%s; retry %d of %d in %.0f s", error, attempt, self.most, delay_s)
            # Up to 10 % longer, so that clients that lost a worker at the same moment do not all
            # return at the same moment.
            await asyncio.sleep(delay_s * random.uniform(1.0, 1.1))
        # The last attempt: there is no wait after it.
        try:
            return await action()
        except VoxtralError as error:
            if not (error.may_pass and self.most):
                raise
            raise VoxtralError(
                f"gave up after {self.most} retries: {error}", code=error.code
            ) from error
