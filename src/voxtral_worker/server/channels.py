"""The connections of one session, each under the name of the channel that it is open on."""

from collections.abc import Iterator

from voxtral_worker.close_codes import CloseCode
from voxtral_worker.server.connection import Connection

# Audio comes by this channel in every dialect; what is told to no other one is told here.
AUDIO = "audio"


class Channels:
    """A channel has at most one connection, which may wait for what it missed before."""

    def __init__(self) -> None:
        self._open: dict[str, Connection] = {}
        self._waiting: dict[str, Connection] = {}

    def __len__(self) -> int:
        return len({**self._open, **self._waiting})

    def __iter__(self) -> Iterator[tuple[str, Connection]]:
        """Every connection with its channel."""
        return iter({**self._open, **self._waiting}.items())

    def attach(self, channel: str, connection: Connection, *, waits: bool = False) -> None:
        """Make a connection the one of its channel; the older one is closed.

        One that `waits` is not open until `open` says so.
        """
        for older in (self._open.pop(channel, None), self._waiting.pop(channel, None)):
            if older is not None:
                older.close(CloseCode.REPLACED, CloseCode.REPLACED.reason)
        (self._waiting if waits else self._open)[channel] = connection

    def open(self, channel: str, connection: Connection) -> bool:
        """A connection has waited long enough; False when it is no longer there."""
        if self._waiting.get(channel) is not connection:
            return False
        self._open[channel] = self._waiting.pop(channel)
        return True

    def detach(self, channel: str, connection: Connection) -> None:
        """The connection is gone."""
        for connections in (self._open, self._waiting):
            if connections.get(channel) is connection:
                del connections[channel]

    def is_attached(self, channel: str, connection: Connection) -> bool:
        """Whether the connection still is the one of its channel."""
        return connection in (self._open.get(channel), self._waiting.get(channel))

    def find(self, channel: str, *, may_wait: bool = False) -> Connection | None:
        """The connection that is open on a channel, or with `may_wait` the one that waits."""
        waiting = self._waiting.get(channel) if may_wait else None
        return self._open.get(channel) or waiting

    def close(self, code: int, reason: str) -> None:
        """Close and forget all."""
        for _, connection in self:
            connection.close(code, reason)
        self._open.clear()
        self._waiting.clear()
