"""What the worker and the process of its voice say to each other."""

import struct
from collections.abc import Iterator

# One of the kinds below, the number of the text that it is about, the bytes that follow.
HEAD = struct.Struct("<BIQ")
# To the process: a text to say, and one that is no longer wanted.
SAY, CANCEL = range(2)
# From it: it has started; more of a text's speech, the end of it, what prevented it.
READY, SOUND, END, FAILED = range(4)
SPEED = struct.Struct("<d")
# Speech of MOST_PHONEMES at the slowest speed is about 15 MB.
MAX_BODY_BYTES = 32 << 20


def packed(kind: int, number: int, body: bytes = b"") -> bytes:
    """A message."""
    return HEAD.pack(kind, number, len(body)) + body


def asked(text: str, voice: str, speed: float) -> bytes:
    """The body of SAY."""
    # A voice cannot read half of a surrogate pair.
    words = text.encode("utf-8", "replace")
    return SPEED.pack(speed) + voice.encode() + b"\0" + words


def read_asked(body: bytes) -> tuple[str, str, float]:
    """Text, voice and speed of a body of SAY."""
    (speed,) = SPEED.unpack_from(body)
    voice, _, text = body[SPEED.size :].partition(b"\0")
    return text.decode(), voice.decode(), speed


class Unpacker:
    """Cuts bytes into messages, however they came."""

    def __init__(self) -> None:
        self._data = bytearray()

    def push(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Kind, number and body of each message that is whole now."""
        self._data += data
        while len(self._data) >= HEAD.size:
            kind, number, length = HEAD.unpack_from(self._data)
            end = HEAD.size + length
            if len(self._data) < end:
                return
            body = bytes(self._data[HEAD.size : end])
            del self._data[:end]
            yield kind, number, body
