"""The latest audio frames of a session, as far back as they may still be needed."""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from voxtral_worker.audio.frames import FRAME_SAMPLES

FRAME_BYTES = FRAME_SAMPLES * 4


class HeardFrames:
    """Frames by their number since the session began; the oldest are forgotten first."""

    def __init__(self) -> None:
        # Bytes of the stream whose frames have been heard. A float, because a chunk's bytes are
        # shared out over its frames.
        self.stream_bytes = 0.0
        # Samples, arrival time, and audio bytes up to the frame's end.
        self._frames: deque[tuple[NDArray[np.float32], float, int]] = deque()
        # The number of the oldest frame that is held.
        self._first = 0

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def bytes(self) -> int:
        """Size of the frames."""
        return len(self._frames) * FRAME_BYTES

    def add(self, frame: NDArray[np.float32], heard_s: float, frame_bytes: float) -> None:
        """Add the next frame, float32 [512].

        `heard_s`: when it arrived. `frame_bytes`: its share of the bytes of the stream.
        """
        self.stream_bytes += frame_bytes
        # A copy, because a view would keep the whole chunk of the frame in memory.
        self._frames.append((frame.copy(), heard_s, int(self.stream_bytes)))

    def restore(
        self, samples: NDArray[np.float32], first_frame: int, first_bytes: int, heard_s: float
    ) -> None:
        """Put back the frames that were forgotten last, float32 [512 * n].

        They begin at `first_frame`, and the frame after them must still be held. `first_bytes`:
        bytes of the stream before them.
        """
        frames = samples.reshape(-1, FRAME_SAMPLES)
        # Where each of these frames ended in the stream is no longer known: spread the bytes
        # evenly between the two ends that are known.
        end_bytes = self._frames[0][2]
        step = (end_bytes - first_bytes) / (len(frames) + 1)
        for number in range(len(frames) - 1, -1, -1):
            self._frames.appendleft(
                (frames[number], heard_s, int(first_bytes + step * (number + 1)))
            )
        self._first = first_frame

    def samples(self, first_frame: int, end_frame: int) -> NDArray[np.float32]:
        """Frames `first_frame` to before `end_frame` as one piece, float32 [512 * n]."""
        numbers = range(first_frame - self._first, end_frame - self._first)
        return np.concatenate([self._frames[number][0] for number in numbers])

    def heard_s(self, frame: int) -> float:
        """When a frame arrived."""
        return self._frames[frame - self._first][1]

    def audio_bytes(self, frame: int) -> int:
        """Bytes of the stream up to the end of a frame."""
        return self._frames[frame - self._first][2]

    def forget_before(self, frame: int) -> None:
        """Forget the frames before this one."""
        while self._frames and self._first < frame:
            self._frames.popleft()
            self._first += 1

    def clear(self) -> None:
        """Forget all frames."""
        self._frames.clear()
