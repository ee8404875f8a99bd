"""Runs the audio encoder: features of windows become embeddings."""

import itertools
from collections.abc import Callable

import torch

from voxtral_worker.engine.features import MEL_FRAMES_PER_WINDOW
from voxtral_worker.engine.layout import EXACT, TOKEN_SAMPLES, WINDOW_TOKENS, layout_of
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.recording import GraphRecorder, Recorder, Recording, tell_fallback
from voxtral_worker.engine.short_window import (
    FIXED_ROWS,
    ShortWindows,
    encode_short,
    frames_of,
    short_windows,
)

# Sizes of batches that are recorded; others are filled up to the next of them.
RECORDED_WINDOWS = (1, 2, 4, 8)
# Windows that one step encodes, at most, by the device; used where nothing was measured.
WINDOWS_AT_ONCE = {"cpu": 1, "cuda": 8}


class Encoder:
    """The audio tower and the projector; used by the engine's thread only.

    On a GPU batches of a few sizes are recorded. When a recording fails, all further batches
    are encoded without.
    """

    def __init__(
        self, loaded: LoadedModel, recorder: Recorder | None = None, window_tail: str = EXACT
    ) -> None:
        """`recorder`: CUDA's own where it is None on CUDA. `window_tail`: see `layout_of`."""
        self._loaded = loaded
        if recorder is None and loaded.device.type == "cuda":
            recorder = GraphRecorder()
        # None: windows are encoded kernel by kernel, on a CPU or since a recording failed.
        self._recorder = recorder
        self._window_tail = window_tail
        # Whether short windows are filled up to a few sizes: a GPU should meet few shapes.
        self.has_fixed_rows = recorder is not None
        # For each shape of the features the tensors that are read, and what was recorded.
        self._recordings: dict[torch.Size, tuple[tuple[torch.Tensor, ...], Recording]] = {}
        # Windows that one step encodes, at most.
        self.at_once = WINDOWS_AT_ONCE[loaded.device.type]

    @torch.inference_mode()
    def prepare(self) -> None:
        """Encode every size that a step may bring, so that none is compiled or recorded later."""
        for size in reversed(RECORDED_WINDOWS):
            # The largest first, as the smaller ones fit into its memory.
            if self._recorder is not None and size <= self.at_once:
                self.encode(self._silence(size))
        if self._recorder is not None and self._window_tail != EXACT:
            for rows, size in itertools.product(reversed(FIXED_ROWS), reversed(RECORDED_WINDOWS)):
                self.encode_short(self._short_silence(rows, size))
        # Recorded batches are filled up to a few sizes, but a compiler meets each size.
        if self._recorder is None and self._is_compiled():
            for size in range(1, self.at_once + 1):
                self.encode(self._silence(size))

    def try_window(self) -> None:
        """Encode a window of silence, to see how long that takes; wait until it is done."""
        self.encode(self._silence(1))
        self._loaded.wait()

    @torch.inference_mode()
    def encode(self, windows: torch.Tensor) -> torch.Tensor:
        """Embeddings, float [n, 375, hidden size], of features, float [n, mel bins, 3000]."""
        return self._run(self._once, (windows,))

    @torch.inference_mode()
    def encode_short(self, windows: ShortWindows) -> torch.Tensor:
        """Embeddings, float [n, rows, hidden size], of windows of which a part is computed."""
        return self._run(self._once_short, windows.tensors)

    def _run(
        self, work: Callable[..., torch.Tensor], taken: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        """Do `work` on the tensors `taken`, recorded where that is possible."""
        if self._recorder is not None and len(taken[0]) <= RECORDED_WINDOWS[-1]:
            try:
                return self._replay(work, taken, self._recorder)
            except Exception as error:  # noqa: BLE001 - whatever a driver raises
                # Also where memory is short: a recording needs more of it.
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
        """Fill a batch up to a recorded size and replay that; record the size where it is new."""
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
        # A copy, as the next replay writes to the same place.
        return recording.output[:count].clone()

    def _silence(self, size: int) -> torch.Tensor:
        """Features of `size` windows, float [size, mel bins, 3000]."""
        mels = self._loaded.model.config.audio_config.num_mel_bins
        shape = (size, mels, MEL_FRAMES_PER_WINDOW)
        return torch.zeros(shape, dtype=self._loaded.dtype, device=self._loaded.device)

    def _short_silence(self, rows: int, size: int) -> ShortWindows:
        """`size` windows that are filled up to `rows`, as full as such windows may be."""
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
