"""Makes clips sound as they come from rooms, microphones, telephones and laptops."""

import numpy as np

from builder.voxtral_tiny.voices import SAMPLE_RATE, Samples

Rng = np.random.Generator


def augment(samples: Samples, rng: Rng, strength: float) -> Samples:
    """Speed, tilt, band and room of one clip; `strength` 0 leaves it as it is."""
    if rng.random() < 0.7 * strength:
        samples = _speed(samples, float(rng.uniform(0.83, 1.2)))
    if rng.random() < 0.85 * strength:
        samples = _shaped(samples, rng)
    return samples


def line(samples: Samples, rng: Rng, strength: float) -> Samples:
    """What a line does to all that goes over it: the eight bits of a telephone, or clipping."""
    if rng.random() < 0.2 * strength:
        peak = float(np.abs(samples).max(initial=1e-6))
        mu_law = np.sign(samples) * np.log1p(255 * np.abs(samples) / peak) / np.log(256)
        stepped = np.round(mu_law * 127) / 127
        expanded = np.sign(stepped) * (np.exp(np.abs(stepped) * np.log(256)) - 1) / 255 * peak
        samples = expanded.astype(np.float32)
    elif rng.random() < 0.08 * strength:
        most = float(np.abs(samples).max(initial=1e-6)) * rng.uniform(0.3, 0.8)
        samples = np.clip(samples, -most, most)
    return samples


def background(length: int, level: float, rng: Rng) -> Samples:
    """Coloured noise, hum or a keyboard, float32 [length], at the given root mean square."""
    size = 1 << (length - 1).bit_length()
    spectrum = np.fft.rfft(rng.standard_normal(size).astype(np.float32))
    frequency = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 20.0)
    spectrum *= frequency ** -rng.uniform(0.0, 1.0)
    noise = scaled(np.fft.irfft(spectrum, size).astype(np.float32)[:length], 1.0)
    kind = rng.random()
    if kind < 0.2:
        noise = noise + scaled(_hum(length, rng), rng.uniform(0.3, 1.5))
    elif kind < 0.35:
        noise = noise + scaled(_keys(length, rng), rng.uniform(0.5, 2.0))
    return scaled(noise.astype(np.float32), level)


def scaled(samples: Samples, level: float) -> Samples:
    """The same sound at another root mean square."""
    loudness = max(1e-9, float(np.sqrt(np.mean(samples**2))))
    louder: Samples = samples * np.float32(level / loudness)
    return louder


def _hum(length: int, rng: Rng) -> Samples:
    """A fan or the mains: a tone with overtones."""
    at = np.arange(length) / SAMPLE_RATE
    lowest = rng.choice([50.0, 60.0, rng.uniform(80, 400)])
    tones = [
        rng.uniform(0, 1) / n * np.sin(2 * np.pi * (lowest * n * at + rng.random()))
        for n in range(1, 9)
    ]
    hum: Samples = np.sum(tones, axis=0).astype(np.float32)
    return hum


def _keys(length: int, rng: Rng) -> Samples:
    """Clicks of a keyboard, each some milliseconds long."""
    keys = np.zeros(length, np.float32)
    for _ in range(int(rng.integers(1, 4 + length // 4000))):
        size = int(rng.uniform(0.002, 0.02) * SAMPLE_RATE)
        start = int(rng.integers(0, max(1, length - size)))
        click = rng.standard_normal(size) * np.exp(-5 * np.arange(size) / size)
        keys[start : start + size] += (rng.uniform(0.2, 1) * click)[: length - start]
    return keys


def _speed(samples: Samples, factor: float) -> Samples:
    # Straight lines between samples: the small loss of treble is one more variation.
    at = np.arange(0, len(samples) - 1, factor)
    faster: Samples = np.interp(at, np.arange(len(samples)), samples).astype(np.float32)
    return faster


def _shaped(samples: Samples, rng: Rng) -> Samples:
    size = 1 << (len(samples) + SAMPLE_RATE // 2 - 1).bit_length()
    spectrum = np.fft.rfft(samples, size)
    frequency = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    octaves = np.log2(np.maximum(frequency, 50.0) / 1000.0)
    gain_db = rng.uniform(-4.0, 4.0) * octaves
    for _ in range(2):
        centre, width = rng.uniform(-3.0, 3.0), rng.uniform(0.3, 1.2)
        gain_db = gain_db + rng.uniform(-8, 8) * np.exp(-(((octaves - centre) / width) ** 2))
    spectrum *= 10 ** (gain_db / 20)
    if rng.random() < 0.4:
        spectrum *= np.fft.rfft(_room(rng), size)
    if rng.random() < 0.3:
        spectrum *= (frequency > rng.uniform(100, 320)) & (frequency < rng.uniform(3100, 4000))
    shaped: Samples = np.fft.irfft(spectrum, size).astype(np.float32)
    return shaped[: len(samples) + SAMPLE_RATE // 5]


def _room(rng: Rng) -> Samples:
    """The direct sound, then an echo that dies away; up to 0.5 s, up to as loud as the sound."""
    length = int(rng.uniform(0.05, 0.5) * SAMPLE_RATE)
    response = rng.standard_normal(length) * np.exp(-5.0 * np.arange(length) / length)
    direct_to_echo_db = rng.uniform(0, 18)
    response *= 10 ** (-direct_to_echo_db / 20) / np.sqrt(np.sum(response**2))
    response[0] = 1.0
    room: Samples = response.astype(np.float32)
    return room
