"""What a driver needs of the dialect that its clients speak."""

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from voxtral_worker.server.gate.session_limits import SessionLimits
from voxtral_worker.sessions.effects import Channel
from voxtral_worker.sessions.events import Event


class Dialect(Protocol):
    """Reads what clients of one session say, and tells them what happens in it.

    It is made with its driver, by which it asks things of the session.
    """

    @property
    def seqs(self) -> Mapping[str, int]:
        """The number of the last message on each channel that numbers its messages."""

    def read(self, channel: str, data: str | bytes, size: int, limits: SessionLimits) -> Any:
        """One frame of `size` bytes as an item for `take`. Raises WorkerError for a bad one."""

    async def take(self, channel: str, item: Any) -> None:
        """Do what an item asks, in its turn. Raises WorkerError."""

    def tell(self, event: Event, to: Channel) -> None:
        """Say an event in the words of the dialect; never waits."""

    async def close(self) -> None:
        """The session ends: stop what is under way, forget what is held."""


D = TypeVar("D", bound=Dialect)
