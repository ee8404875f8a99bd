"""What the worker and the decoder's processes say to each other about a file."""

import struct

# The longest audio in seconds, and the bytes of the file that follow.
REQUEST = struct.Struct("<dQ")
# One of the kinds below, and the bytes of samples or of a sentence that follow.
ANSWER = struct.Struct("<BQ")
SOUND, BAD, TOO_LONG, TIMED_OUT, CRASHED, BROKEN = range(6)
