"""The connections of one session, by the name of their channel."""

from collections.abc import Iterator

from voxtral_worker.close_codes import CloseCode
from voxtral_worker.server.connection import Connection

# In every dialect audio comes over this channel. Events without a channel of their own go to it.
AUDIO = "audio"


class Channels:
    """Holds at most one connection for each channel: an open one, or one that waits.

    A connection waits while it has not yet got the messages that it missed.
    """

    def __init__(self) -> None:
        self._open: dict[str, Connection] = {}
        self._waiting: dict[str, Connection] = {}

    def __len__(self) -> int:
        return len({**self._open, **self._waiting})

    def __iter__(self) -> Iterator[tuple[str, Connection]]:
        """Iterate over all connections with their channels."""
        return iter({**self._open, **self._waiting}.items())

    def attach(self, channel: str, connection: Connection, *, waits: bool = False) -> None:
        """Make this the channel's connection, and close an older one.

        With `waits` it is not open before `open` is called.
        """
        for older in (self._open.pop(channel, None), self._waiting.pop(channel, None)):
            if older is not None:
                older.close(CloseCode.REPLACED, CloseCode.REPLACED.reason)
        (self._waiting if waits else self._open)[channel] = connection

    def open(self, channel: str, connection: Connection) -> bool:
        """Open a connection that has waited. False: it was replaced or has gone."""
        if self._waiting.get(channel) is not connection:
            return False
        self._open[channel] = self._waiting.pop(channel)
        return True

    def detach(self, channel: str, connection: Connection) -> None:
        """Forget a connection that has gone."""
        for connections in (self._open, self._waiting):
            if connections.get(channel) is connection:
                del connections[channel]

    def is_attached(self, channel: str, connection: Connection) -> bool:
        """Whether this still is the channel's connection."""
        return connection in (self._open.get(channel), self._waiting.get(channel))

    def find(self, channel: str, *, may_wait: bool = False) -> Connection | None:
        """The open connection of a channel; with `may_wait` also one that waits."""
        waiting = self._waiting.get(channel) if may_wait else None
        return self._open.get(channel) or waiting

    def close(self, code: int, reason: str) -> None:
        """Close and forget all connections."""
        for _, connection in self:
            connection.close(code, reason)
        self._open.clear()
        self._waiting.clear()
