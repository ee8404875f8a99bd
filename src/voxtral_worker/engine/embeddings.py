"""Keeps embeddings of audio where they are needed, and no more of them than memory allows.

A session's history holds its pieces of audio for as long as it may be asked about them; on
a GPU their embeddings would fill what the KV cache leaves, in the host's memory anything.
"""

import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable

import torch

from voxtral_worker import metrics
from voxtral_worker.engine.conversation import Audio

HOST = torch.device("cpu")


class Embeddings:
    """The embeddings of all pieces of audio; used by the engine thread only.

    A piece is in use from its encoding until it is in the KV cache, with its embeddings on the
    device. Then it is idle, and they are off the device. Of idle pieces at most
    `most_idle_bytes` are kept: those that were idle longest lose theirs, and are encoded again
    if a prefix has to be computed anew.
    """

    def __init__(
        self, device: torch.device, most_idle_bytes: int, away: torch.device = HOST
    ) -> None:
        """`away`: where embeddings go that are not computed with."""
        self._device = device
        self._away = away
        self._most_idle_bytes = most_idle_bytes
        self._in_use: weakref.WeakSet[Audio] = weakref.WeakSet()
        # By the piece's number, the longest idle first, with what its embeddings take.
        self._idle: OrderedDict[int, tuple[weakref.ref[Audio], int]] = OrderedDict()
        # Numbers of idle pieces that nobody holds any more, told by whatever thread let go.
        self._let_go: deque[int] = deque()
        self.idle_bytes = 0

    @property
    def bytes(self) -> int:
        """What they take of the device's memory."""
        in_use = sum(_tensor(audio).nbytes for audio in self._in_use)
        return in_use + (self.idle_bytes if self._device == self._away else 0)

    def add(self, audio: Audio, embeddings: torch.Tensor) -> None:
        """A piece is encoded: float [rows, hidden size], on the device."""
        audio.embeddings = embeddings
        self._in_use.add(audio)

    def put_away(self, pieces: Iterable[Audio]) -> None:
        """Nothing computes with these any more; those without embeddings stay as they are."""
        for audio in pieces:
            if audio.embeddings is None:
                continue
            if audio in self._in_use:
                audio.embeddings = _tensor(audio).to(self._away)
                self._in_use.discard(audio)
            number, size = audio.audio_id, _tensor(audio).nbytes
            if number not in self._idle:
                self._idle[number] = weakref.ref(audio, self._noting(number)), size
                self.idle_bytes += size
            self._idle.move_to_end(number)

    def trim(self) -> None:
        """Drop what is idle beyond the bound. Not while a step is planned that may need it."""
        while self._let_go:
            _, size = self._idle.pop(self._let_go.popleft(), (None, 0))
            self.idle_bytes -= size
        while self.idle_bytes > self._most_idle_bytes:
            _, (held, size) = self._idle.popitem(last=False)
            self.idle_bytes -= size
            audio = held()
            if audio is not None:
                audio.embeddings = None
                metrics.embeddings_dropped.inc()
        metrics.embeddings_idle_bytes.set(self.idle_bytes)

    def _noting(self, number: int) -> Callable[[object], None]:
        """What is called when nobody holds a piece any more, on any thread."""
        return lambda _: self._let_go.append(number)


def embeddings_on(device: torch.device, audio: Audio, start: int, stop: int) -> torch.Tensor:
    """Rows [start, stop) of a piece's embeddings, brought back to the device where they are away.

    Only these rows are copied, and only for as long as the caller holds them.
    """
    return _tensor(audio)[start:stop].to(device)


def _tensor(audio: Audio) -> torch.Tensor:
    embeddings = audio.embeddings
    assert isinstance(embeddings, torch.Tensor)
    return embeddings
