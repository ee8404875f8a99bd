"""The messages between the worker and the decoder's processes."""

import struct

# The longest allowed audio in seconds, and the number of bytes of the file that follows.
REQUEST = struct.Struct("<dQ")
# One of the kinds below, and the number of bytes that follow: samples (float32) or a sentence.
ANSWER = struct.Struct("<BQ")
SOUND, BAD, TOO_LONG, TIMED_OUT, CRASHED, BROKEN = range(6)
