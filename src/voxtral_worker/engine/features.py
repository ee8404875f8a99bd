"""Makes log-mel features of a piece of audio, on the model's device.

The filters and the formula are those of transformers' WhisperFeatureExtractor. That one copies
the result back to the host, and makes a GPU prepare a new plan for every length. Behind a short
turn most of a window is silence, which has the same features in every frame: a CPU computes one
frame of it and repeats that, a GPU computes whole windows, all of one shape.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from voxtral_worker.engine.conversation import WINDOW_SAMPLES

MEL_FRAMES_PER_WINDOW = 3000
HOP_SAMPLES = 160
# Behind the sound and the reach of the Fourier window (200 samples) all frames are silence.
REACH_SAMPLES = 800
# The least power that is kept, and by how many powers of ten it may be below the greatest.
FLOOR = 1e-10
RANGE = 8.0


class FeatureExtractor:
    """Makes the features that VoxtralProcessor makes, to the last bits of float32."""

    def __init__(self, extractor: Any, device: torch.device, dtype: torch.dtype) -> None:
        """`extractor`: the checkpoint's own; its filters are used."""
        self._device = device
        self._dtype = dtype
        self._fft_samples = int(extractor.n_fft)
        self._window = torch.hann_window(self._fft_samples, device=device)
        filters = torch.from_numpy(np.ascontiguousarray(extractor.mel_filters.T, np.float32))
        # Float [mel bins, frequencies].
        self._filters = filters.to(device)

    def windows(self, samples: NDArray[np.float32]) -> torch.Tensor:
        """Features, float [windows, mel bins, 3000], of float32 samples [n] at 16 kHz."""
        return torch.stack(self.kept(samples, MEL_FRAMES_PER_WINDOW))

    @torch.inference_mode()
    def kept(self, samples: NDArray[np.float32], last_frames: int) -> list[torch.Tensor]:
        """Features of each window of float32 samples [n] at 16 kHz, float [mel bins, frames].

        There are 3,000 frames of each window, but `last_frames` of the last one; unless that one
        is full of sound they end in silence.
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
        """Float [mel bins, frames] of samples [frames * 160]; all are compared with the loudest."""
        frames, reach = len(samples) // HOP_SAMPLES, self._fft_samples // 2
        signal = F.pad(samples[None], (reach, reach), mode="reflect")[0]
        parts = []
        # One window at a time: a recording's whole spectrum would take a gigabyte.
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
