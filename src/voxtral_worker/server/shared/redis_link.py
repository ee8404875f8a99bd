"""The connection to a Redis that several workers share. Calls give up after a short time."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from voxtral_worker import metrics

log = logging.getLogger(__name__)

T = TypeVar("T")

# Calls and new sessions wait for Redis at most so long.
PATIENCE_S = 0.25
# While Redis is down, one call in each such interval tries it; all others fail at once.
TRY_AGAIN_S = 1.0
MAX_CONNECTIONS = 16


class LinkDown(Exception):
    """Redis did not answer in time, or answered with an error."""


class RedisLink:
    """Returns the answer of each call within `PATIENCE_S`, or raises LinkDown.

    Owned by the event loop. It logs one line when Redis stops answering, and one when it answers
    again.
    """

    def __init__(self, url: str, use: str) -> None:
        """`use` is the name of this link in log lines and metrics."""
        # Imported only if a Redis is set: the server listens 0.3 s sooner without the import.
        from redis.asyncio import BlockingConnectionPool
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import RedisError

        self.url = url
        self.pool = BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=PATIENCE_S,
            socket_timeout=PATIENCE_S,
            socket_connect_timeout=PATIENCE_S,
            # One retry, because a pooled connection may be from before a restart of Redis.
            retry=Retry(NoBackoff(), 1),
        )
        self._use = use
        self._failures: tuple[type[Exception], ...] = (RedisError, OSError, TimeoutError)
        self._is_up = True
        self._try_again_s = 0.0

    async def call(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Run a call to Redis and return its answer. Raises LinkDown."""
        now_s = time.monotonic()
        if not self._is_up:
            if now_s < self._try_again_s:
                raise LinkDown
            self._try_again_s = now_s + TRY_AGAIN_S
        try:
            async with asyncio.timeout(PATIENCE_S):
                answer = await ask()
        except self._failures as error:
            self._note_failure(error)
            raise LinkDown from error
        if not self._is_up:
            self._is_up = True
            log.warning("redis answers again", extra={"use": self._use})
        return answer

    async def close(self) -> None:
        """Close every connection."""
        await self.pool.aclose()

    def _note_failure(self, error: Exception) -> None:
        metrics.redis_failures.labels(self._use).inc()
        self._try_again_s = time.monotonic() + TRY_AGAIN_S
        if self._is_up:
            self._is_up = False
            # The message may contain the address of Redis, but never its password.
            reason = str(error) or type(error).__name__
            log.warning(
                "redis does not answer: this worker goes on by itself",
                extra={"use": self._use, "reason": reason},
            )
