"""The synthesized speech that the model is trained on: clips with their words.

Kept as one file of 16-bit samples beside an index, in a work folder outside of git.
"""

import itertools
import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from builder.voxtral_tiny import voices
from builder.voxtral_tiny.vocabulary import sentence
from builder.voxtral_tiny.voices import Samples


@dataclass(frozen=True)
class Clip:
    """Speech without silence around it, float32 [n] at 16 kHz."""

    words: str
    voice: str
    samples: Samples


def synthesize(folder: Path, seed: int, scale: float) -> None:
    """Make the corpus, about three hours at `scale` 1, unless it is there."""
    if (folder / "corpus.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    spoken = itertools.chain(_speak_all(seed, scale), speak_more(seed, scale))
    _write(folder, list(tqdm(spoken, desc="speech", total=int(9600 * scale))))


def _write(folder: Path, clips: list[Clip]) -> None:
    starts = np.cumsum([0] + [len(clip.samples) for clip in clips])
    whole = np.concatenate([clip.samples for clip in clips])
    np.save(folder / "corpus.npy", (whole * 32767).astype(np.int16))
    index = [
        {"words": c.words, "voice": c.voice, "start": int(s), "stop": int(s) + len(c.samples)}
        for c, s in zip(clips, starts, strict=False)
    ]
    (folder / "corpus.json").write_text(json.dumps(index))
    print(f"{len(clips)} clips, {len(whole) / 16_000 / 3600:.1f} h")


def load(folder: Path) -> list[Clip]:
    """The corpus; samples are views of one mapped file, converted when they are used."""
    whole = np.load(folder / "corpus.npy", mmap_mode="r")
    index = json.loads((folder / "corpus.json").read_text())
    return [Clip(e["words"], e["voice"], whole[e["start"] : e["stop"]]) for e in index]


def _speak_all(seed: int, scale: float) -> Iterator[Clip]:
    rng = random.Random(seed)
    with ThreadPoolExecutor(2) as pool:
        texts = [sentence(rng) for _ in range(int(3600 * scale))]
        seeds = [rng.random() for _ in texts]
        for words, clip in zip(texts, pool.map(_espeak, texts, seeds), strict=True):
            yield Clip(words, "espeak", clip)
        for voice, count in (("slt", 900), ("kal16", 700)):
            texts = [sentence(rng) for _ in range(int(count * scale))]
            stretches = [rng.uniform(0.8, 1.3) for _ in texts]
            clips = pool.map(lambda w, s, v=voice: voices.flite(w, v, s), texts, stretches)
            for words, clip in zip(texts, clips, strict=True):
                yield Clip(words, voice, clip)
    for voice, count in (
        ("kal_diphone", 500),
        ("ked_diphone", 500),
        ("cmu_us_slt_arctic_hts", 200),
    ):
        texts = [sentence(rng) for _ in range(int(count * scale))]
        for words, clip in zip(texts, voices.festival(texts, voice, rng), strict=True):
            yield Clip(words, voice, clip)
    texts = [sentence(rng) for _ in range(int(600 * scale))]
    for words, clip in zip(texts, voices.hibari(texts, rng), strict=True):
        yield Clip(words, "hibari", clip)
    texts = [sentence(rng) for _ in range(int(600 * scale))]
    for words, clip in zip(texts, voices.piper(texts, rng), strict=True):
        yield Clip(words, "piper", clip)


def _espeak(words: str, seed: float) -> Samples:
    return voices.espeak(words, random.Random(seed))


def speak_more(seed: int, scale: float) -> Iterator[Clip]:
    """What is hardest to hear, once more: strings of digits, and deep voices."""
    rng = random.Random(seed + 1)
    with ThreadPoolExecutor(2) as pool:
        texts = _hard_texts(rng, int(1000 * scale))
        depths = [rng.uniform(0.76, 0.98) for _ in texts]
        for words, clip in zip(texts, pool.map(voices.deepened, texts, depths), strict=True):
            yield Clip(words, "slt deepened", clip)
    for name, speak, count in (("hibari", voices.hibari, 500), ("piper", voices.piper, 500)):
        texts = _hard_texts(rng, int(count * scale))
        for words, clip in zip(texts, speak(texts, rng), strict=False):
            yield Clip(words, name, clip)


def _hard_texts(rng: random.Random, count: int) -> list[str]:
    kinds = ("digits", "digits", "calls", "numbers", None)
    return [sentence(rng, rng.choice(kinds)) for _ in range(count)]
