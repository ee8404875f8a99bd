"""How much audio may be on its way to the worker."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

from voxtral_worker.client.errors import VoxtralError
from voxtral_worker.client.journal import Journal

# How long audio waits for the worker to take earlier audio. Reading the events shows that it has.
ROOM_TIMEOUT_S = 120.0
LOOK_S = 1.0


class AudioFlow:
    """Holds audio back while too much of it is on its way to the worker.

    The worker takes everything in order. So the answer to a ping, a pong, says that it has taken
    all audio that was sent before the ping.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        # For each ping that is not answered yet: how many bytes of audio were sent before it, or
        # None for one of the caller's.
        self._pings: deque[int | None] = deque()
        # Set when audio that waits for room may have it.
        self._may_have_room = asyncio.Event()

    async def wait_for_room(self, count: int, is_connected: Callable[[], bool]) -> None:
        """Wait until so many bytes may be sent, or the connection is lost. Raises VoxtralError."""
        untaken, looks = -1, 0
        while is_connected() and not self._journal.has_room(count, is_open=True):
            looks = 0 if untaken != self._journal.untaken_bytes else looks + 1
            if looks * LOOK_S >= ROOM_TIMEOUT_S:
                raise VoxtralError(
                    f"the worker has taken no audio for {ROOM_TIMEOUT_S:g} s: read the events, "
                    "which show what it has taken"
                )
            untaken = self._journal.untaken_bytes
            self._may_have_room.clear()
            # If the caller reads no events, only the socket itself shows that it was lost.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._may_have_room.wait()

    def pinged(self, *, by_caller: bool) -> None:
        """A ping was sent."""
        self._pings.append(None if by_caller else self._journal.sent_bytes)

    def ponged(self) -> bool:
        """A ping was answered. False: the caller did not send it, and gets no answer."""
        taken_bytes = self._pings.popleft() if self._pings else None
        if taken_bytes is None:
            return True
        self._journal.note_taken(taken_bytes)
        self._may_have_room.set()
        return False

    def lost(self) -> None:
        """The connection was lost: nothing waits for room any more."""
        self._may_have_room.set()

    def resumed(self) -> None:
        """There is a new connection, on which no ping was sent."""
        self._pings.clear()
