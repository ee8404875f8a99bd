"""Turns pieces of audio into embeddings, a few windows of 30 s at a time.

A long recording is many windows: encoded in one go, it would hold up every answer that is
being spoken.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch

from voxtral_worker.engine.conversation import Audio
from voxtral_worker.engine.embeddings import Embeddings
from voxtral_worker.engine.faults import Failures, attempt
from voxtral_worker.engine.features import MEL_FRAMES_PER_WINDOW, FeatureExtractor
from voxtral_worker.engine.layout import EXACT, TOKEN_SAMPLES, WINDOW_TOKENS, Layout, layout_of
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.recording import GraphRecorder, Recorder, Recording, tell_fallback
from voxtral_worker.engine.short_window import (
    FIXED_ROWS,
    ShortWindows,
    encode_short,
    fixed_rows,
    frames_of,
    short_windows,
)

# Batches that are recorded; others are filled up to the next of them.
RECORDED_WINDOWS = (1, 2, 4, 8)
# Where nothing was measured.
WINDOWS_AT_ONCE = {"cpu": 1, "cuda": 8}


class Encoder:
    """The audio tower and the projector; used by the engine thread only."""

    def __init__(
        self,
        loaded: LoadedModel,
        recorder: Recorder | None = None,
        most_idle_bytes: int = 2 << 30,
        window_tail: str = EXACT,
    ) -> None:
        """`recorder` is CUDA's on CUDA. `most_idle_bytes`: see Embeddings; the tail: layout_of."""
        self._loaded = loaded
        self.embeddings = Embeddings(loaded.device, most_idle_bytes)
        if recorder is None and loaded.device.type == "cuda":
            recorder = GraphRecorder()
        # None: windows are encoded kernel by kernel, on a CPU or since a recording failed.
        self._recorder = recorder
        self._window_tail = window_tail
        # A GPU is to meet few shapes.
        self._has_fixed_rows = recorder is not None
        # For each shape of the features what is read and what was recorded.
        self._recordings: dict[torch.Size, tuple[tuple[torch.Tensor, ...], Recording]] = {}
        # Windows that one step encodes, at most.
        self.at_once = WINDOWS_AT_ONCE[loaded.device.type]
        self._features = FeatureExtractor(
            loaded.processor.feature_extractor, loaded.device, loaded.dtype
        )
        self._begun: dict[int, _Begun] = {}

    def encode_some(self, waiting: Iterable[Audio]) -> Failures[Audio]:
        """Encode the next few windows of the pieces that wait, the first ones first.

        Returns the pieces that fail alone, with the reason; nothing of them is kept.
        """
        batch: list[_Window] = []
        failures: Failures[Audio] = []
        # Rows that are computed, so that short windows are more at once.
        room = self.at_once * WINDOW_TOKENS
        # A piece that several sequences wait for is encoded once.
        for audio in {piece.audio_id: piece for piece in waiting}.values():
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

    @torch.inference_mode()
    def prepare(self) -> None:
        """Meet every size that a step may bring, so that none is compiled or recorded later."""
        for size in reversed(RECORDED_WINDOWS):
            # The largest first, as the others fit into its memory.
            if self._recorder is not None and size <= self.at_once:
                self.encode(self._silence(size))
        if self._recorder is not None and self._window_tail != EXACT:
            for rows, size in itertools.product(reversed(FIXED_ROWS), reversed(RECORDED_WINDOWS)):
                self.encode_short(self._short_silence(rows, size))
        # Recordings have a few sizes and the others are filled up; a compiler sees each.
        if self._recorder is None and self._is_compiled():
            for size in range(1, self.at_once + 1):
                self.encode(self._silence(size))

    def try_window(self) -> None:
        """Encode a window of silence, to see how long that takes; returns when it is done."""
        self.encode(self._silence(1))
        self._loaded.wait()

    @torch.inference_mode()
    def encode(self, windows: torch.Tensor) -> torch.Tensor:
        """Embeddings, [n, 375, hidden size], of features [n, mel bins, 3000]."""
        return self._run(self._once, (windows,))

    @torch.inference_mode()
    def encode_short(self, windows: ShortWindows) -> torch.Tensor:
        """Embeddings, [n, rows, hidden size], of windows of which a part is computed."""
        return self._run(self._once_short, windows.tensors)

    def _run(
        self, work: Callable[..., torch.Tensor], taken: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        if self._recorder is not None and len(taken[0]) <= RECORDED_WINDOWS[-1]:
            try:
                return self._replay(work, taken, self._recorder)
            except Exception as error:  # noqa: BLE001 - whatever a driver raises
                # Memory that is short, too: what is recorded needs more of it.
                tell_fallback("encoder recording", error)
                self._recorder = None
                self._recordings.clear()
        return work(*taken)

    def _replay(
        self,
        work: Callable[..., torch.Tensor],
        given: tuple[torch.Tensor, ...],
        recorder: Recorder,
    ) -> torch.Tensor:
        count = len(given[0])
        size = next(size for size in RECORDED_WINDOWS if size >= count)
        shape = torch.Size([size, *given[0].shape[1:]])
        if shape not in self._recordings:
            taken = tuple(each.new_zeros(size, *each.shape[1:]) for each in given)
            self._recordings[shape] = taken, recorder.record(lambda: work(*taken))
        taken, recording = self._recordings[shape]
        for to, each in zip(taken, given, strict=True):
            to[:count] = each
        recording.replay()
        # The next replay writes to the same place.
        return recording.output[:count].clone()

    def _silence(self, size: int) -> torch.Tensor:
        mels = self._loaded.model.config.audio_config.num_mel_bins
        shape = (size, mels, MEL_FRAMES_PER_WINDOW)
        return torch.zeros(shape, dtype=self._loaded.dtype, device=self._loaded.device)

    def _short_silence(self, rows: int, size: int) -> ShortWindows:
        layout = next(
            layout
            for tokens in range(WINDOW_TOKENS, -1, -1)
            if (layout := layout_of(tokens * TOKEN_SAMPLES, self._window_tail)).last_rows <= rows
        )
        silence = self._silence(size)[:, :, : frames_of(layout, rows)]
        return short_windows(list(silence), [layout] * size, rows)

    def _is_compiled(self) -> bool:
        return self._loaded.model.model.audio_tower._compiled_call_impl is not None

    def _once(self, windows: torch.Tensor) -> torch.Tensor:
        embeddings = self._loaded.model.get_audio_features(windows).pooler_output
        by_window: torch.Tensor = embeddings.to(self._loaded.dtype)
        return by_window.view(len(windows), WINDOW_TOKENS, -1)

    def _once_short(self, *tensors: torch.Tensor) -> torch.Tensor:
        return encode_short(self._loaded.model, ShortWindows(*tensors)).to(self._loaded.dtype)

    def forget(self, audio: Iterable[Audio]) -> None:
        """Nobody waits for these any more; what was begun is let go."""
        for piece in audio:
            self._begun.pop(piece.audio_id, None)

    def _begin(self, pieces: list[Audio]) -> None:
        for audio in pieces:
            if audio.audio_id not in self._begun:
                layout = layout_of(audio.length, self._window_tail)
                frames = MEL_FRAMES_PER_WINDOW
                if not layout.is_whole:
                    rows = fixed_rows(layout) if self._has_fixed_rows else None
                    frames = frames_of(layout, rows)
                features = self._features.kept(audio.samples, frames)
                self._begun[audio.audio_id] = _Begun(features, layout)

    @torch.inference_mode()
    def _encode(self, batch: list["_Window"]) -> None:
        alike: dict[int, list[_Window]] = {}
        for window in batch:
            alike.setdefault(self._shape(window), []).append(window)
        encoded: dict[_Window, torch.Tensor] = {}
        for rows, windows in alike.items():
            encoded.update(zip(windows, self._encode_alike(windows, rows), strict=True))
        # Work is repeated when it fails, so nothing is kept before all of it is done.
        for window in batch:
            self._begun[window.audio.audio_id].done.append(encoded[window][: window.rows])

    def _shape(self, window: "_Window") -> int:
        """Rows that a window is encoded with."""
        if window.rows == WINDOW_TOKENS or not self._has_fixed_rows:
            return window.rows
        return fixed_rows(self._begun[window.audio.audio_id].layout)

    def _encode_alike(self, windows: list["_Window"], rows: int) -> Iterable[torch.Tensor]:
        """Embeddings, [rows, hidden size], of each of some windows of one shape."""
        begun = [self._begun[window.audio.audio_id] for window in windows]
        features = [each.features[w.number] for each, w in zip(begun, windows, strict=True)]
        if features[0].shape[1] == MEL_FRAMES_PER_WINDOW:
            return self.encode(torch.stack(features))
        at_once = RECORDED_WINDOWS[-1]
        return itertools.chain.from_iterable(
            self.encode_short(
                short_windows(
                    features[start : start + at_once],
                    [each.layout for each in begun[start : start + at_once]],
                    rows,
                )
            )
            for start in range(0, len(windows), at_once)
        )

    def _finish(self, audio: Audio) -> None:
        begun = self._begun.get(audio.audio_id)
        if begun is not None and len(begun.done) == len(begun.features):
            del self._begun[audio.audio_id]
            self.embeddings.add(audio, torch.cat(begun.done))


@dataclass(frozen=True)
class _Window:
    """One window of a piece whose features are made, and how many rows of it are computed."""

    audio: Audio
    number: int
    rows: int


@dataclass
class _Begun:
    """Features and embeddings of the windows of a piece."""

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
