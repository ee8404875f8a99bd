"""Stores the embeddings of audio, and no more of them than memory allows.

A session's history holds its pieces of audio for as long as it may be asked about them. On a
GPU their embeddings would fill the memory that the KV cache leaves, on the host any memory.
"""

import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable

import torch

from voxtral_worker import metrics
from voxtral_worker.engine.conversation import Audio

HOST = torch.device("cpu")


class Embeddings:
    """The embeddings of pieces of audio, found by the piece; used by the engine's thread only.

    A piece is in use from its encoding until the KV cache holds its rows; its embeddings are on
    the device. Then it is idle, and they are on `away`. Idle pieces keep at most
    `most_idle_bytes`: those that were idle longest lose theirs, and are encoded again if their
    rows have to be computed again. A piece that is no longer referenced loses its embeddings at
    the next `trim`.
    """

    def __init__(
        self, device: torch.device, most_idle_bytes: int, away: torch.device = HOST
    ) -> None:
        """`device` computes; `away` stores what is idle."""
        # Where idle pieces are, and where those in use are.
        self.away = away
        self._device = device
        # Beyond this, those that were idle longest are dropped.
        self._most_idle_bytes = most_idle_bytes
        # Both by the piece's number. Float [rows, hidden size]; and the weak reference that
        # reports that a piece is gone, as long as it is held.
        self._tensors: dict[int, torch.Tensor] = {}
        self._pieces: dict[int, weakref.ref[Audio]] = {}
        # Numbers of idle pieces with their bytes, the longest idle first.
        self._idle: OrderedDict[int, int] = OrderedDict()
        # Numbers of pieces that are gone, noted by whatever thread let go of them.
        self._gone: deque[int] = deque()
        # Bytes of the idle pieces, and of all.
        self.idle_bytes = 0
        self._all_bytes = 0

    def __contains__(self, audio: object) -> bool:
        """Whether a piece is encoded."""
        return isinstance(audio, Audio) and audio.audio_id in self._tensors

    @property
    def bytes(self) -> int:
        """Bytes of the device's memory that embeddings take."""
        return self._all_bytes - (0 if self._device == self.away else self.idle_bytes)

    def add(self, audio: Audio, embeddings: torch.Tensor) -> None:
        """Store the embeddings of a piece: float [rows, hidden size], on the device."""
        self._drop(audio.audio_id)
        self._tensors[audio.audio_id] = embeddings
        self._all_bytes += embeddings.nbytes
        self._pieces[audio.audio_id] = weakref.ref(audio, self._noting(audio.audio_id))

    def rows(self, audio: Audio, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) of a piece's embeddings, on the device. Raises KeyError without any.

        Of an idle piece only these rows are copied, and only for as long as the caller holds them.
        """
        part = self._tensors[audio.audio_id][start:stop]
        return part.to(self._device) if audio.audio_id in self._idle else part

    def put_away(self, pieces: Iterable[Audio]) -> None:
        """Make pieces idle, as nothing computes with them any more; ignores those without any."""
        for audio in pieces:
            number = audio.audio_id
            if number not in self._tensors:
                continue
            if number not in self._idle:
                self._tensors[number] = self._tensors[number].to(self.away)
                self._idle[number] = self._tensors[number].nbytes
                self.idle_bytes += self._idle[number]
            self._idle.move_to_end(number)

    def trim(self) -> None:
        """Drop what is gone, and what is idle beyond the bound.

        Not between a plan and its step, which may need what is idle.
        """
        while self._gone:
            self._drop(self._gone.popleft())
        while self.idle_bytes > self._most_idle_bytes:
            self._drop(next(iter(self._idle)))
            metrics.embeddings_dropped.inc()
        metrics.embeddings_idle_bytes.set(self.idle_bytes)

    def _drop(self, number: int) -> None:
        tensor = self._tensors.pop(number, None)
        self._all_bytes -= 0 if tensor is None else tensor.nbytes
        self._pieces.pop(number, None)
        self.idle_bytes -= self._idle.pop(number, 0)

    def _noting(self, number: int) -> Callable[[object], None]:
        """A callback, on any thread, for a piece that is no longer referenced."""
        return lambda _: self._gone.append(number)
