"""The interface of a dialect: what a driver needs to talk with the clients of a session."""

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from voxtral_worker.server.gate.session_limits import SessionLimits
from voxtral_worker.sessions.effects import Channel
from voxtral_worker.sessions.events import Event


class Dialect(Protocol):
    """Reads the messages of one session's clients, and writes the session's events for them.

    A driver makes its dialect and passes itself to it; the dialect reaches the session through
    the driver.
    """

    @property
    def seqs(self) -> Mapping[str, int]:
        """The number of the last message, for each channel that numbers its messages."""

    def read(self, channel: str, data: str | bytes, size: int, limits: SessionLimits) -> Any:
        """Make an item for `take` of a frame of `size` bytes, as soon as the frame arrives.

        Raises WorkerError for a frame that is bad or over a limit.
        """

    async def take(self, channel: str, item: Any) -> None:
        """Do what an item asks, once the items before it are done. Raises WorkerError."""

    def tell(self, event: Event, to: Channel) -> None:
        """Send an event as a message of the dialect; never waits."""

    async def close(self) -> None:
        """End with the session: stop its own work and forget what it holds."""


D = TypeVar("D", bound=Dialect)
