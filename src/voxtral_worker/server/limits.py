"""The limits of an address, counted in memory or in a Redis that several workers share.

A session's own limits are no part of this (`session_limits.py`).
"""

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from limits import RateLimitItem, RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter

from voxtral_worker.server.redis_link import LinkDown, RedisLink
from voxtral_worker.sessions.limits import Verdict
from voxtral_worker.settings import Settings

T = TypeVar("T")

KEY_PREFIX = "voxtral:limits"


class Counts:
    """Where calls are counted: in Redis while it answers, otherwise in memory, never nowhere."""

    def __init__(self, url: str | None) -> None:
        self._memory = MemoryStorage()
        self._own = MovingWindowRateLimiter(self._memory)
        self._link = None if url is None else RedisLink(url, "limits")
        self._shared = None if self._link is None else _shared(self._link)

    async def ask(self, question: Callable[[MovingWindowRateLimiter], Awaitable[T]]) -> T:
        """The answer of whoever counts now."""
        if self._link is not None and self._shared is not None:
            shared = self._shared
            try:
                return await self._link.call(lambda: question(shared))
            except LinkDown:
                pass
        return await question(self._own)

    async def close(self) -> None:
        """Close what is open."""
        if self._memory.timer is not None:
            # The library's own walk over what it may forget.
            self._memory.timer.cancel()
        if self._link is not None:
            await self._link.close()


class AddressLimit:
    """At most so many calls of an address in any window; what is refused does not count."""

    def __init__(self, counts: Counts, name: str, limit: int, period_s: int = 60) -> None:
        self._counts = counts
        self._name = name
        self._item: RateLimitItem = RateLimitItemPerSecond(limit, period_s)

    async def look(self, address: str) -> Verdict:
        """What `take` would say, without counting."""
        return await self._counts.ask(lambda limiter: self._look(limiter, address))

    async def take(self, address: str) -> Verdict:
        """Count a call if it fits."""
        return await self._counts.ask(lambda limiter: self._take(limiter, address))

    async def _take(self, limiter: MovingWindowRateLimiter, address: str) -> Verdict:
        is_allowed = await limiter.hit(self._item, self._name, address)
        return await self._verdict(limiter, address, is_allowed=is_allowed)

    async def _look(self, limiter: MovingWindowRateLimiter, address: str) -> Verdict:
        return await self._verdict(limiter, address, is_allowed=None)

    async def _verdict(
        self, limiter: MovingWindowRateLimiter, address: str, *, is_allowed: bool | None
    ) -> Verdict:
        stats = await limiter.get_window_stats(self._item, self._name, address)
        limit, now_s = self._item.amount, time.time()
        remaining = max(0, stats.remaining)
        # With nothing left in the window, the library names a moment that is over.
        reset_s = stats.reset_time if remaining < limit else now_s + self._item.get_expiry()
        if is_allowed is None:
            is_allowed = remaining > 0
        wait_s = 0.0 if is_allowed else max(0.0, reset_s - now_s)
        return Verdict(is_allowed, limit, remaining, reset_s, wait_s)


class AddressLimits:
    """Which limit a call counts against, by its path."""

    def __init__(self, settings: Settings) -> None:
        self._is_on = settings.rate_limit_enabled
        self._counts = Counts(settings.rate_limit_store)
        self._connections = AddressLimit(
            self._counts, "connections", settings.rate_limit_connections_per_minute
        )
        self._creations = AddressLimit(
            self._counts, "sessions", settings.rate_limit_sessions_per_minute
        )
        self._calls = AddressLimit(self._counts, "calls", settings.rate_limit_text_per_minute)

    def of_path(self, path: str) -> AddressLimit | None:
        """The limit that calls of a path count against; None without one."""
        if not self._is_on:
            return None
        if path.startswith("/ws/"):
            return self._connections
        if path in ("/v1/audio/transcriptions", "/v1/chat/completions"):
            return self._calls
        return self._creations if path in ("/session/create", "/v1/realtime") else None

    async def close(self) -> None:
        """Close what is open."""
        await self._counts.close()


def _shared(link: RedisLink) -> MovingWindowRateLimiter:
    storage = RedisStorage(
        link.url,
        implementation="redispy",
        key_prefix=KEY_PREFIX,
        connection_pool=link.pool,  # type: ignore[arg-type]
    )
    return MovingWindowRateLimiter(storage)
