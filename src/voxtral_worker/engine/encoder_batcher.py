"""Turns pieces of audio into embeddings, a few windows of 30 s at each step.

A long recording has many windows. Encoded at once, they would hold up every answer that is
being spoken.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from voxtral_worker.engine.conversation import Audio
from voxtral_worker.engine.embeddings import Embeddings
from voxtral_worker.engine.encoder import RECORDED_WINDOWS, Encoder
from voxtral_worker.engine.faults import Failures, attempt
from voxtral_worker.engine.features import MEL_FRAMES_PER_WINDOW, FeatureExtractor
from voxtral_worker.engine.layout import EXACT, WINDOW_TOKENS, Layout, layout_of
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.short_window import fixed_rows, frames_of, short_windows


class EncoderBatcher:
    """Makes batches of windows for the encoder and joins the results; engine's thread only.

    A piece is begun when its features are made. It is encoded, and its embeddings are stored,
    when all its windows are.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        encoder: Encoder,
        embeddings: Embeddings,
        window_tail: str = EXACT,
    ) -> None:
        """`embeddings`: where those of whole pieces go. `window_tail`: see `layout_of`."""
        self._encoder = encoder
        self._embeddings = embeddings
        self._window_tail = window_tail
        self._features = FeatureExtractor(
            loaded.processor.feature_extractor, loaded.device, loaded.dtype
        )
        # By the piece's number.
        self._begun: dict[int, _Begun] = {}

    def encode_some(self, waiting: Iterable[Audio]) -> Failures[Audio]:
        """Encode the next few windows of the pieces that wait, the first pieces first.

        What is begun of any other piece is dropped, because it is no longer needed. Returns the
        pieces that fail alone, with the reason; nothing of them is kept.
        """
        # A piece that several sequences wait for is encoded once.
        pieces = {piece.audio_id: piece for piece in waiting}
        self._begun = {number: begun for number, begun in self._begun.items() if number in pieces}
        batch: list[_Window] = []
        failures: Failures[Audio] = []
        # Counted in rows that are computed, so that more of short windows fit.
        room = self._encoder.at_once * WINDOW_TOKENS
        for audio in pieces.values():
            if room <= 0:
                break
            failed = attempt([audio], self._begin)
            failures += failed
            for window in [] if failed else self._begun[audio.audio_id].rest(audio):
                if window.rows > room:
                    room = 0
                    break
                batch.append(window)
                room -= window.rows
        if batch:
            failures += [(window.audio, error) for window, error in attempt(batch, self._encode)]
        for audio, _ in failures:
            self._begun.pop(audio.audio_id, None)
        for audio in {window.audio.audio_id: window.audio for window in batch}.values():
            self._finish(audio)
        return failures

    def _begin(self, pieces: list[Audio]) -> None:
        """Make the features of pieces that are not begun yet."""
        for audio in pieces:
            if audio.audio_id not in self._begun:
                layout = layout_of(audio.length, self._window_tail)
                frames = MEL_FRAMES_PER_WINDOW
                if not layout.is_whole:
                    rows = fixed_rows(layout) if self._encoder.has_fixed_rows else None
                    frames = frames_of(layout, rows)
                features = self._features.kept(audio.samples, frames)
                self._begun[audio.audio_id] = _Begun(features, layout)

    @torch.inference_mode()
    def _encode(self, batch: list["_Window"]) -> None:
        """Encode windows, those of one shape together."""
        alike: dict[int, list[_Window]] = {}
        for window in batch:
            alike.setdefault(self._shape(window), []).append(window)
        encoded: dict[_Window, torch.Tensor] = {}
        for rows, windows in alike.items():
            encoded.update(zip(windows, self._encode_alike(windows, rows), strict=True))
        # The work is repeated when it fails, so nothing is kept before all of it is done.
        for window in batch:
            self._begun[window.audio.audio_id].done.append(encoded[window][: window.rows])

    def _shape(self, window: "_Window") -> int:
        """Rows that a window is encoded with."""
        if window.rows == WINDOW_TOKENS or not self._encoder.has_fixed_rows:
            return window.rows
        return fixed_rows(self._begun[window.audio.audio_id].layout)

    def _encode_alike(self, windows: list["_Window"], rows: int) -> Iterable[torch.Tensor]:
        """Embeddings, float [rows, hidden size], of each of some windows of one shape."""
        begun = [self._begun[window.audio.audio_id] for window in windows]
        features = [each.features[w.number] for each, w in zip(begun, windows, strict=True)]
        if features[0].shape[1] == MEL_FRAMES_PER_WINDOW:
            return self._encoder.encode(torch.stack(features))
        at_once = RECORDED_WINDOWS[-1]
        return itertools.chain.from_iterable(
            self._encoder.encode_short(
                short_windows(
                    features[start : start + at_once],
                    [each.layout for each in begun[start : start + at_once]],
                    rows,
                )
            )
            for start in range(0, len(windows), at_once)
        )

    def _finish(self, audio: Audio) -> None:
        """Store the embeddings of a piece whose windows are all encoded."""
        begun = self._begun.get(audio.audio_id)
        if begun is not None and len(begun.done) == len(begun.features):
            del self._begun[audio.audio_id]
            self._embeddings.add(audio, torch.cat(begun.done))


@dataclass(frozen=True)
class _Window:
    """One window of a piece whose features are made, and how many rows of it are computed."""

    audio: Audio
    number: int
    rows: int


@dataclass
class _Begun:
    """Features, float [mel bins, frames], and embeddings, float [rows, hidden size], by window."""

    features: list[torch.Tensor]
    layout: Layout
    done: list[torch.Tensor] = field(default_factory=list)

    def rest(self, audio: Audio) -> list[_Window]:
        """The windows that are not encoded yet."""
        last = len(self.features) - 1
        return [
            _Window(audio, number, self.layout.last_rows if number == last else WINDOW_TOKENS)
            for number in range(len(self.done), last + 1)
        ]
