"""Log-mel features of a piece of audio, made on the model's device.

The extractor is transformers' own. Most of a window is silence behind a short turn, which
is the same in every frame: it is computed once and repeated.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from voxtral_worker.engine.conversation import SAMPLE_RATE, WINDOW_SAMPLES

MEL_FRAMES_PER_WINDOW = 3000
HOP_SAMPLES = 160
# The Fourier window reaches 200 samples to each side: so much later all is silence.
REACH_SAMPLES = 800


class FeatureExtractor:
    """What VoxtralProcessor makes of audio, to the last bits of float32."""

    def __init__(self, extractor: Any, device: torch.device, dtype: torch.dtype) -> None:
        self._extractor = extractor
        self._device = device
        self._dtype = dtype

    def windows(self, samples: NDArray[np.float32]) -> torch.Tensor:
        """Features, [windows, 128, 3000], of float32 samples [n] at 16 kHz."""
        windows = max(1, -(-len(samples) // WINDOW_SAMPLES))
        frames = min(windows * MEL_FRAMES_PER_WINDOW, self._frames(len(samples)))
        padded = np.zeros(frames * HOP_SAMPLES, np.float32)
        padded[: len(samples)] = samples
        heard = self._extractor(
            padded,
            sampling_rate=SAMPLE_RATE,
            padding=False,
            truncation=False,
            return_tensors="pt",
            device=str(self._device),
        )["input_features"][0]
        silence = heard[:, -1:].expand(-1, windows * MEL_FRAMES_PER_WINDOW - frames)
        whole = torch.cat([heard, silence.to(heard.device)], dim=1)
        features = whole.reshape(len(whole), windows, MEL_FRAMES_PER_WINDOW).transpose(0, 1)
        return features.to(self._device, self._dtype)

    def _frames(self, samples: int) -> int:
        return -(-(samples + REACH_SAMPLES) // HOP_SAMPLES)
