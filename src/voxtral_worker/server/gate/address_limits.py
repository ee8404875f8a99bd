"""The limits of an address, counted in memory or in a Redis that several workers share.

A session's own limits are no part of this (`session_limits.py`). No clock that may be set
decides: memory counts by the monotonic clock, and workers that share a Redis by that of Redis.
"""

import dataclasses
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from voxtral_worker.errors import RateLimited
from voxtral_worker.server.gate.access import counted_as
from voxtral_worker.server.shared.redis_link import LinkDown, RedisLink
from voxtral_worker.sessions.limits import RollingLimit, Verdict
from voxtral_worker.settings import Settings

if TYPE_CHECKING:
    from redis.commands.core import AsyncScript

KEY_PREFIX = "voxtral:limits"
# Addresses that are remembered for each limit; the one unseen for longest is forgotten first.
MOST_ADDRESSES = 16_384
FAILURES_PER_MINUTE = 20

# Counts a call of KEYS[1] if it fits (ARGV: limit, period in us, 1 to count or 0 to look).
# Answers whether it fits, how many count now, and in how many us the oldest is forgotten.
_COUNT = """
local clock = redis.call('TIME')
local now, limit, period = clock[1] * 1000000 + clock[2], tonumber(ARGV[1]), tonumber(ARGV[2])
local function text(number) return string.format('%.0f', number) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', text(now - period))
-- What lies ahead was counted before the clock was set back.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. text(now), '+inf')
local used = redis.call('ZCARD', KEYS[1])
local fits = used < limit
if fits and ARGV[3] == '1' then
    redis.call('ZADD', KEYS[1], text(now), text(now) .. ':' .. used)
    redis.call('PEXPIRE', KEYS[1], text(math.ceil(period / 1000)))
    used = used + 1
end
local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
return {fits and 1 or 0, used, oldest and tonumber(oldest) + period - now or period}
"""


class Counts:
    """The Redis where workers count together, if there is one."""

    def __init__(self, url: str | None) -> None:
        self._link = None if url is None else RedisLink(url, "limits")
        self._script = None if self._link is None else _script(self._link)

    async def ask(self, key: str, limit: int, period_s: float, *, counts: bool) -> Verdict | None:
        """What Redis says, with `reset_s` from now on; None where it says nothing."""
        if self._link is None or self._script is None:
            return None
        script, args = self._script, (limit, round(period_s * 1e6), int(counts))
        try:
            fits, used, reset_us = await self._link.call(lambda: script([key], args))
        except LinkDown:
            return None
        reset_s = reset_us / 1e6
        return Verdict(bool(fits), limit, max(0, limit - used), reset_s, 0.0 if fits else reset_s)

    async def close(self) -> None:
        """Close what is open."""
        if self._link is not None:
            await self._link.close()


class AddressTable:
    """One rolling limit for each address, in memory."""

    def __init__(self, limit: int, period_s: float) -> None:
        self._limit = limit
        self._period_s = period_s
        self._limits: OrderedDict[str, RollingLimit] = OrderedDict()

    def __len__(self) -> int:
        return len(self._limits)

    def take(self, address: str) -> Verdict:
        """Count a call if it fits; `reset_s` is from now on."""
        key = counted_as(address)
        limit = self._limits.setdefault(key, RollingLimit(self._limit, self._period_s))
        self._limits.move_to_end(key)
        if len(self._limits) > MOST_ADDRESSES:
            self._limits.popitem(last=False)
        now_s = time.monotonic()
        return _from_now(limit.take(now_s), now_s)

    def look(self, address: str) -> Verdict:
        """What `take` would say, without counting."""
        limit = self._limits.get(counted_as(address)) or RollingLimit(self._limit, self._period_s)
        now_s = time.monotonic()
        return _from_now(limit.look(now_s), now_s)


class AddressLimit:
    """At most so many calls of an address in any window; what is refused does not count.

    Redis counts while it answers, otherwise memory, never nobody. `reset_s` of a verdict is Unix
    time, for the headers.
    """

    def __init__(
        self,
        counts: Counts,
        name: str,
        limit: int,
        period_s: float = 60.0,
        *,
        spares_this_machine: bool = False,
    ) -> None:
        """`name` is what is counted, as callers are told.

        `spares_this_machine`: callers on this machine itself are not counted.
        """
        self.name = name
        self.spares_this_machine = spares_this_machine
        self._counts = counts
        self._name = f"{KEY_PREFIX}:{name}:{limit}:{period_s:g}"
        self._limit = limit
        self._period_s = period_s
        self._own = AddressTable(limit, period_s)

    async def look(self, address: str) -> Verdict:
        """What `take` would say, without counting."""
        return await self._ask(address, counts=False)

    async def take(self, address: str) -> Verdict:
        """Count a call if it fits."""
        return await self._ask(address, counts=True)

    async def _ask(self, address: str, *, counts: bool) -> Verdict:
        key = f"{self._name}:{counted_as(address)}"
        verdict = await self._counts.ask(key, self._limit, self._period_s, counts=counts)
        if verdict is None:
            verdict = self._own.take(address) if counts else self._own.look(address)
        return dataclasses.replace(verdict, reset_s=time.time() + verdict.reset_s)


# Calls of OpenAI's that have the engine or the voice work.
CALLS = (
    "/v1/audio/transcriptions",
    "/v1/audio/speech",
    "/v1/chat/completions",
    "/v1/responses",
)


class AddressLimits:
    """Which limits a call counts against, by its path."""

    def __init__(self, settings: Settings) -> None:
        self._is_on = settings.rate_limit_enabled
        self._counts = Counts(settings.rate_limit_store)
        self._connections = AddressLimit(
            self._counts,
            "connections",
            settings.rate_limit_connections_per_minute,
            spares_this_machine=True,
        )
        self._creations = AddressLimit(
            self._counts,
            "sessions",
            settings.rate_limit_sessions_per_minute,
            spares_this_machine=True,
        )
        self._calls = AddressLimit(self._counts, "calls", settings.rate_limit_text_per_minute)
        # In memory alone: what is asked before every call must not wait for a network.
        self._failures = AddressTable(FAILURES_PER_MINUTE, 60.0)

    def of_path(self, path: str) -> tuple[AddressLimit, ...]:
        """The limits that calls of a path count against."""
        if not self._is_on:
            return ()
        if path in ("/ws/audio", "/ws/control"):
            return (self._connections, self._creations)
        if path.startswith("/ws/"):
            return (self._connections,)
        if path in CALLS:
            return (self._calls,)
        return (self._creations,) if path in ("/session/create", "/v1/realtime") else ()

    def note_failure(self, address: str) -> None:
        """An address has presented credentials that are not good."""
        self._failures.take(address)

    def require_few_failures(self, address: str) -> None:
        """Raises RateLimited for an address that has guessed too often lately."""
        verdict = self._failures.look(address)
        if self._is_on and not verdict.allowed:
            raise RateLimited(
                f"over the limit of {verdict.limit} wrong credentials per minute",
                retry_after_s=verdict.retry_after_s,
            )

    async def close(self) -> None:
        """Close what is open."""
        await self._counts.close()


def _from_now(verdict: Verdict, now_s: float) -> Verdict:
    return dataclasses.replace(verdict, reset_s=verdict.reset_s - now_s)


def _script(link: RedisLink) -> "AsyncScript":
    from redis.asyncio import Redis

    return Redis(connection_pool=link.pool).register_script(_COUNT)
