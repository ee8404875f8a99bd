"""Rate limits for each client address, in memory or in a Redis that several workers share.

The limits of a session are in `session_limits.py`. In memory, time is the monotonic clock; with
Redis it is the clock of Redis, because the clocks of several workers may differ.
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
# Addresses that each limit remembers. The one that has not called for longest is dropped first.
MOST_ADDRESSES = 16_384
FAILURES_PER_MINUTE = 20

# Counts a call under KEYS[1] if it fits (ARGV: limit, period in us, 1 to count or 0 to look).
# Returns whether it fits, how many calls count now, and in how many us the oldest stops counting.
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
    """The Redis in which several workers count together, if one is set."""

    def __init__(self, url: str | None) -> None:
        self._link = None if url is None else RedisLink(url, "limits")
        self._script = None if self._link is None else _script(self._link)

    async def ask(self, key: str, limit: int, period_s: float, *, counts: bool) -> Verdict | None:
        """The verdict of Redis, with `reset_s` from now on. None: no Redis is set or it is down."""
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
        """Close the connections to Redis."""
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
        """Count a call if it fits. `reset_s` of the verdict is from now on."""
        key = counted_as(address)
        limit = self._limits.setdefault(key, RollingLimit(self._limit, self._period_s))
        self._limits.move_to_end(key)
        if len(self._limits) > MOST_ADDRESSES:
            self._limits.popitem(last=False)
        now_s = time.monotonic()
        return _from_now(limit.take(now_s), now_s)

    def look(self, address: str) -> Verdict:
        """The verdict that `take` would give, without counting the call."""
        # Looking adds no address to the table.
        limit = self._limits.get(counted_as(address)) or RollingLimit(self._limit, self._period_s)
        now_s = time.monotonic()
        return _from_now(limit.look(now_s), now_s)


class AddressLimit:
    """Allows an address `limit` calls in any `period_s` seconds; refused calls do not count.

    Calls are counted in Redis while it answers, else in memory. `reset_s` of a verdict is Unix
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
        """`name`: what is counted, for error messages.

        `spares_this_machine`: calls from this machine itself are not counted.
        """
        self.name = name
        self.spares_this_machine = spares_this_machine
        self._counts = counts
        self._name = f"{KEY_PREFIX}:{name}:{limit}:{period_s:g}"
        self._limit = limit
        self._period_s = period_s
        self._own = AddressTable(limit, period_s)

    async def look(self, address: str) -> Verdict:
        """The verdict that `take` would give, without counting the call."""
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


# The calls of OpenAI's API that use the engine or the voice.
CALLS = (
    "/v1/audio/transcriptions",
    "/v1/audio/speech",
    "/v1/chat/completions",
    "/v1/responses",
)


class AddressLimits:
    """The limits of this worker, by the path of a call."""

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
        # Always in memory: it is looked at before every call, which must not wait for Redis.
        self._failures = AddressTable(FAILURES_PER_MINUTE, 60.0)

    def of_path(self, path: str) -> tuple[AddressLimit, ...]:
        """The limits that a call of this path counts against."""
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
        """Count wrong credentials from an address."""
        self._failures.take(address)

    def require_few_failures(self, address: str) -> None:
        """Raises RateLimited if the address has sent wrong credentials too often."""
        verdict = self._failures.look(address)
        if self._is_on and not verdict.allowed:
            raise RateLimited(
                f"over the limit of {verdict.limit} wrong credentials per minute",
                retry_after_s=verdict.retry_after_s,
            )

    async def close(self) -> None:
        """Close the connections to Redis."""
        await self._counts.close()


def _from_now(verdict: Verdict, now_s: float) -> Verdict:
    return dataclasses.replace(verdict, reset_s=verdict.reset_s - now_s)


def _script(link: RedisLink) -> "AsyncScript":
    from redis.asyncio import Redis

    return Redis(connection_pool=link.pool).register_script(_COUNT)
