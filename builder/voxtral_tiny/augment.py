"""Makes clips sound as they come from rooms, microphones and telephones."""

import numpy as np

from builder.voxtral_tiny.voices import SAMPLE_RATE, Samples

Rng = np.random.Generator


def augment(samples: Samples, rng: Rng, strength: float) -> Samples:
    """Speed, tilt, band, room and gain of one clip; `strength` 0 leaves it as it is."""
    if rng.random() < 0.7 * strength:
        samples = _speed(samples, float(rng.uniform(0.85, 1.18)))
    if rng.random() < 0.8 * strength:
        samples = _shaped(samples, rng)
    return samples


def background(length: int, level: float, rng: Rng) -> Samples:
    """Coloured noise, float32 [length], at the given root mean square."""
    spectrum = np.fft.rfft(rng.standard_normal(length).astype(np.float32))
    frequency = np.maximum(np.fft.rfftfreq(length, 1 / SAMPLE_RATE), 20.0)
    spectrum *= frequency ** -rng.uniform(0.0, 1.0)
    noise = np.fft.irfft(spectrum, length).astype(np.float32)
    scaled: Samples = noise * (level / max(1e-9, float(np.sqrt(np.mean(noise**2)))))
    return scaled


def _speed(samples: Samples, factor: float) -> Samples:
    # Straight lines between samples: the small loss of treble is one more variation.
    at = np.arange(0, len(samples) - 1, factor)
    faster: Samples = np.interp(at, np.arange(len(samples)), samples).astype(np.float32)
    return faster


def _shaped(samples: Samples, rng: Rng) -> Samples:
    size = 1 << (len(samples) + SAMPLE_RATE // 4 - 1).bit_length()
    spectrum = np.fft.rfft(samples, size)
    frequency = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    octaves = np.log2(np.maximum(frequency, 50.0) / 1000.0)
    gain_db = rng.uniform(-4.0, 4.0) * octaves
    for _ in range(2):
        centre, width = rng.uniform(-3.0, 3.0), rng.uniform(0.3, 1.2)
        gain_db = gain_db + rng.uniform(-8, 8) * np.exp(-(((octaves - centre) / width) ** 2))
    spectrum *= 10 ** (gain_db / 20)
    if rng.random() < 0.15:
        spectrum *= (frequency > 250) & (frequency < rng.uniform(3200, 4200))
    if rng.random() < 0.35:
        spectrum *= np.fft.rfft(_room(rng), size)
    shaped: Samples = np.fft.irfft(spectrum, size).astype(np.float32)
    return shaped[: len(samples) + SAMPLE_RATE // 10]


def _room(rng: Rng) -> Samples:
    length = int(rng.uniform(0.05, 0.25) * SAMPLE_RATE)
    response = rng.standard_normal(length) * np.exp(-5.0 * np.arange(length) / length)
    response *= rng.uniform(0.02, 0.12)
    response[0] = 1.0
    room: Samples = response.astype(np.float32)
    return room
