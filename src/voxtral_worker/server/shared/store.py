"""Records of sessions in a Redis. The worker that a session's client is connected to owns it.

A worker that takes a session over becomes its owner. The owner before it learns this when it next
tries to save, and closes its copy. A session that has ended leaves a mark for a while, so that a
worker that has not noticed the end cannot save it again.
"""

import uuid
from enum import Enum
from typing import TYPE_CHECKING, Any

from voxtral_worker.server.shared.redis_link import LinkDown, RedisLink

if TYPE_CHECKING:
    from redis.commands.core import AsyncScript

KEY_PREFIX = "voxtral:session:"
# Longer than any worker takes to notice the end: each one saves every 5 s.
END_MARK_S = 60.0

_TAKE = """
local record = redis.call('HGET', KEYS[1], 'record')
if record then
    redis.call('HSET', KEYS[1], 'owner', ARGV[1])
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return record
"""

_LOOK = "return redis.call('HGET', KEYS[1], 'record')"

_SAVE = """
local owner = redis.call('HGET', KEYS[1], 'owner')
if owner and owner ~= ARGV[1] then
    return owner
end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'record', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return ARGV[1]
"""

# An empty owner marks a session that has ended. With an empty ARGV[1], any worker may end it.
_END = """
local owner = redis.call('HGET', KEYS[1], 'owner')
if not owner or owner == '' or (ARGV[1] ~= '' and owner ~= ARGV[1]) then
    return 0
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'owner', '')
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""


class Saved(Enum):
    """The result of an attempt to save."""

    OURS = "ours"
    TAKEN_OVER = "taken over"
    ENDED = "ended"
    # Redis did not answer.
    LATER = "later"


class SessionStore:
    """Returns within the link's time limit, also if Redis does not answer.

    Each script runs as one step in Redis, so two workers cannot both become the owner.
    """

    def __init__(self, url: str) -> None:
        from redis.asyncio import Redis

        self._link = RedisLink(url, "sessions")
        self._worker = uuid.uuid4().hex.encode()
        self._redis = Redis(connection_pool=self._link.pool)
        self._take, self._look, self._save, self._end = (
            self._redis.register_script(script) for script in (_TAKE, _LOOK, _SAVE, _END)
        )

    async def take(self, session_id: str, ttl_s: float) -> bytes | None:
        """Become the owner of a session. Returns its record; None: there is none."""
        record: bytes | None = await self._call(self._take, session_id, self._worker, _ms(ttl_s))
        return record

    async def look(self, session_id: str) -> bytes | None:
        """The record of a session, without taking it over; None: there is none."""
        record: bytes | None = await self._call(self._look, session_id)
        return record

    async def save(self, session_id: str, record: str, ttl_s: float) -> Saved:
        """Write a record, unless another worker owns the session or it has ended."""
        owner = await self._call(self._save, session_id, self._worker, record, _ms(ttl_s))
        if owner is None:
            return Saved.LATER
        if owner == self._worker:
            return Saved.OURS
        return Saved.TAKEN_OVER if owner else Saved.ENDED

    async def end(self, session_id: str, *, whoever_owns_it: bool = False) -> bool | None:
        """Delete a record and leave the mark. False: there was none; None: Redis is down."""
        owner = b"" if whoever_owns_it else self._worker
        ended = await self._call(self._end, session_id, owner, _ms(END_MARK_S))
        return None if ended is None else bool(ended)

    async def close(self) -> None:
        """Close every connection."""
        await self._link.close()

    async def _call(self, script: "AsyncScript", session_id: str, *args: bytes | str | int) -> Any:
        """The answer of a script; None: Redis does not answer."""
        try:
            return await self._link.call(lambda: script([_key(session_id)], args))
        except LinkDown:
            return None


def _key(session_id: str) -> str:
    return KEY_PREFIX + session_id


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
