"""Reads whole audio files."""

import io

import numpy as np
import soundfile
import torch
import torchaudio.functional
from numpy.typing import NDArray

from voxtral_worker.audio.frames import SAMPLE_RATE
from voxtral_worker.errors import BadAudio, TooLarge


def read_clip(data: bytes, *, max_seconds: float) -> NDArray[np.float32]:
    """Samples, float32 [n], mono, 16 kHz, of a wav, flac, mp3 or ogg file.

    Channels are averaged. Raises BadAudio for what cannot be decoded, TooLarge for what is
    longer than `max_seconds`.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate = file.samplerate
            most = int(max_seconds * rate)
            # One sample more than allowed tells a longer file, whatever its header says.
            samples = file.read(most + 1, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, ValueError, TypeError) as error:
        raise BadAudio("audio cannot be decoded: it must be wav, flac, mp3 or ogg") from error
    if len(samples) > most:
        raise TooLarge(f"audio is longer than {max_seconds:g} s")
    if not len(samples):
        raise BadAudio("audio holds no samples")
    if not np.isfinite(samples).all():
        raise BadAudio("audio holds samples that are no numbers")
    # Files of floats may go beyond full scale; what follows relies on it.
    mono = torch.from_numpy(samples.clip(-1.0, 1.0).mean(axis=1))
    resampled = torchaudio.functional.resample(mono, rate, SAMPLE_RATE)
    result: NDArray[np.float32] = resampled.numpy()
    return result
