"""Log-mel features of a piece of audio, made on the model's device.

The filters and the formula are those of transformers' WhisperFeatureExtractor, which would bring
the result back to the host, and would make a GPU plan anew for every length. Most of a window
is silence behind a short turn, which is the same in every frame: a CPU computes it once and
repeats it, a GPU computes whole windows, all of one shape.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from voxtral_worker.engine.conversation import WINDOW_SAMPLES

MEL_FRAMES_PER_WINDOW = 3000
HOP_SAMPLES = 160
# The Fourier window reaches 200 samples to each side: so much later all is silence.
REACH_SAMPLES = 800
# The quietest that is told apart, and how far below the loudest that may be; in powers of ten.
FLOOR = 1e-10
RANGE = 8.0


class FeatureExtractor:
    """What VoxtralProcessor makes of audio, to the last bits of float32."""

    def __init__(self, extractor: Any, device: torch.device, dtype: torch.dtype) -> None:
        """`extractor`: the checkpoint's own, whose filters are taken."""
        self._device = device
        self._dtype = dtype
        self._fft_samples = int(extractor.n_fft)
        self._window = torch.hann_window(self._fft_samples, device=device)
        filters = torch.from_numpy(np.ascontiguousarray(extractor.mel_filters.T, np.float32))
        # Float [mel bins, frequencies].
        self._filters = filters.to(device)

    def windows(self, samples: NDArray[np.float32]) -> torch.Tensor:
        """Features, [windows, mel bins, 3000], of float32 samples [n] at 16 kHz."""
        return torch.stack(self.kept(samples, MEL_FRAMES_PER_WINDOW))

    @torch.inference_mode()
    def kept(self, samples: NDArray[np.float32], last_frames: int) -> list[torch.Tensor]:
        """Features of each window of float32 samples [n], [mel bins, 3000], the last one shorter.

        Of that there are `last_frames`, which end in silence unless it is whole.
        """
        windows = max(1, -(-len(samples) // WINDOW_SAMPLES))
        kept = (windows - 1) * MEL_FRAMES_PER_WINDOW + last_frames
        frames = min(kept, _frames(len(samples)))
        if self._device.type == "cuda":
            frames = windows * MEL_FRAMES_PER_WINDOW
        padded = np.zeros(frames * HOP_SAMPLES, np.float32)
        padded[: len(samples)] = samples
        heard = self._log_mel(torch.from_numpy(padded).to(self._device))[:, :kept]
        silence = heard[:, -1:].expand(-1, max(0, kept - frames))
        features = torch.cat([heard, silence], dim=1).to(self._dtype)
        return list(torch.split(features, MEL_FRAMES_PER_WINDOW, dim=1))

    def _log_mel(self, samples: torch.Tensor) -> torch.Tensor:
        """Float [mel bins, frames] of samples [frames * 160]; loudness is joint over all."""
        frames, reach = len(samples) // HOP_SAMPLES, self._fft_samples // 2
        signal = F.pad(samples[None], (reach, reach), mode="reflect")[0]
        parts = []
        # A window at a time: a recording's whole spectrum would take a gigabyte.
        for start in range(0, frames, MEL_FRAMES_PER_WINDOW):
            count = min(MEL_FRAMES_PER_WINDOW, frames - start)
            first = start * HOP_SAMPLES
            part = signal[first : first + (count - 1) * HOP_SAMPLES + self._fft_samples]
            spectrum = torch.stft(
                part,
                self._fft_samples,
                HOP_SAMPLES,
                window=self._window,
                center=False,
                return_complex=True,
            )
            parts.append(self._filters @ spectrum.abs().square())
        loudness = torch.cat(parts, dim=1).clamp(min=FLOOR).log10()
        return (torch.maximum(loudness, loudness.max() - RANGE) + 4.0) / 4.0


def _frames(samples: int) -> int:
    return -(-(samples + REACH_SAMPLES) // HOP_SAMPLES)
