"""Decides when the client of a socket is asked for a sign of life, and when it has gone.

It gets the time as an argument and reaches no clock. aiohttp's own `heartbeat` is not used: it also
counts the time in which the worker itself does not read, because more audio has come than it has
processed. The client's answers then wait behind that audio, and a client that sends fast would
lose its connection.
"""

from enum import Enum

# How often a ping is sent. Proxies close connections on which nothing is sent for a minute.
PING_S = 20.0
# How long after a ping a client that sends nothing at all counts as gone.
PONG_S = 10.0


class Sign(Enum):
    """What is due."""

    NOTHING = "nothing"
    PING = "ping"
    GONE = "gone"


class Pulse:
    """Any byte of the client is a sign of life; silence counts only while the worker listens."""

    def __init__(self, now_s: float) -> None:
        self._received_bytes = 0
        # When the client last gave a sign of life, or could not have given one.
        self._alive_s = now_s
        self._pinged_s = now_s

    def look(self, now_s: float, received_bytes: int, *, is_listening: bool) -> Sign:
        """What is due now. `received_bytes`: all that has come so far.

        `is_listening`: the worker reads, and none of its own messages wait for the client. It must
        be called more often than every `PONG_S` seconds.
        """
        if received_bytes != self._received_bytes or not is_listening:
            self._received_bytes, self._alive_s = received_bytes, now_s
        # In so much silence at least one ping was sent, and had its time to be answered.
        if now_s - self._alive_s >= PING_S + PONG_S:
            return Sign.GONE
        if now_s - self._pinged_s >= PING_S:
            self._pinged_s = now_s
            return Sign.PING
        return Sign.NOTHING
