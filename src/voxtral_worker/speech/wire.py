"""The messages between the worker and the process of its voice."""

import struct
from collections.abc import Iterator

# The head of a message: one of the kinds below, the number of the text, the length of the body.
HEAD = struct.Struct("<BIQ")
# To the process: a text to speak; a text that is no longer wanted.
SAY, CANCEL = range(2)
# From the process: it has started; speech of a text; the end of a text; why a text failed.
READY, SOUND, END, FAILED = range(4)
SPEED = struct.Struct("<d")
# Speech of MOST_PHONEMES at the slowest speed is about 15 MB.
MAX_BODY_BYTES = 32 << 20


def packed(kind: int, number: int, body: bytes = b"") -> bytes:
    """A message."""
    return HEAD.pack(kind, number, len(body)) + body


def asked(text: str, voice: str, speed: float) -> bytes:
    """The body of SAY."""
    # "replace": half of a surrogate pair cannot be encoded.
    words = text.encode("utf-8", "replace")
    return SPEED.pack(speed) + voice.encode() + b"\0" + words


def read_asked(body: bytes) -> tuple[str, str, float]:
    """Text, voice and speed from the body of SAY."""
    (speed,) = SPEED.unpack_from(body)
    voice, _, text = body[SPEED.size :].partition(b"\0")
    return text.decode(), voice.decode(), speed


class Unpacker:
    """Cuts a stream of bytes into messages, however it was cut into pieces."""

    def __init__(self) -> None:
        self._data = bytearray()

    def push(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Take bytes; yields kind, number and body of each message that is now complete."""
        self._data += data
        while len(self._data) >= HEAD.size:
            kind, number, length = HEAD.unpack_from(self._data)
            end = HEAD.size + length
            if len(self._data) < end:
                return
            body = bytes(self._data[HEAD.size : end])
            del self._data[:end]
            yield kind, number, body
